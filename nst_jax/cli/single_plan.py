"""Plan one picture: check the options, load the images, recall what an earlier run has chosen."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nst_jax.cli.beside import check_beside
from nst_jax.cli.console import size_text
from nst_jax.cli.inputs import expand
from nst_jax.cli.manifest import CHOSEN
from nst_jax.cli.masks import load_masks
from nst_jax.cli.names import check_file
from nst_jax.cli.options import JobOptions
from nst_jax.cli.output import warn_from_first
from nst_jax.config import Config, ResolvedConfig
from nst_jax.errors import InputError
from nst_jax.geometry import Size, fit
from nst_jax.io.extras import Extras, load_extras
from nst_jax.io.images import check_output, image_shape, load_image
from nst_jax.transfer.estimate import fit_to_memory
from nst_jax.transfer.schedule import Schedule, make_schedule


class SingleJob(NamedTuple):
    """A picture to paint: its images, settings, schedule and devices, and its file."""

    content_path: str
    style_paths: list[str]
    content: np.ndarray
    styles: list[np.ndarray]
    start: np.ndarray | None
    masks: Mapping[str, Any]
    extras: Extras
    output: Path
    config: ResolvedConfig
    schedule: Schedule
    devices: Sequence[Any]


def checked_files(options: JobOptions, output: Path) -> list[str]:
    """Return the files of the styles.

    Args:
      options: the options of the command.
      output: the file to write.

    Raises:
      InputError: if a style is no file, the picture or what goes with it cannot be written, or the
        picture would replace an image.
    """
    content, start = options.content[0], options.start_image
    styles = expand(options.style, role="style", warn=warn_from_first)
    check_output(output, **options.encoding)
    check_file(options, output.suffix)
    check_beside(options, output, [content, *styles])
    masks = itertools.chain(*options.masks.values())
    for path in (content, *styles, start, *masks, options.replay):
        if path and output.exists() and os.path.exists(path) and os.path.samefile(output, path):
            raise InputError(f"--output {output} is the input image {path}; name another file")
    return styles


def load_job(
    options: JobOptions,
    output: Path,
    *,
    config: ResolvedConfig,
    may_remat: bool,
    devices: Sequence[Any],
) -> SingleJob:
    """Check everything that a user can get wrong before the work starts; load the images.

    Args:
      options: the options of the command.
      output: the file to write.
      config: the settings.
      may_remat: see `fit_to_memory`.
      devices: the devices that compute.

    Raises:
      InputError: if a check fails.
    """
    content, start = options.content[0], options.start_image
    styles = checked_files(options, output)
    content_shape, *style_shapes = map(image_shape, (content, *styles))
    masks = load_masks(options, styles)

    def schedule_of(size: Size) -> Schedule:
        shape = fit(*content_shape, size, side=config.side)
        return make_schedule(shape, style_shapes, config, regions=masks.regions)

    config, schedule = fit_to_memory(
        schedule_of, config=config, may_remat=may_remat, devices=len(devices)
    )
    last = schedule.last
    ineffective = options.settings.keys() & {"steps", "first_steps"} == {"steps"}
    if ineffective and config.min_size and len(schedule.scales) == 1:
        warn_from_first(
            f"--steps has no effect at {size_text(last.shape)} px, where the only scale is the "
            "first; --first-steps is for that"
        )
    load = functools.partial(load_image, background=options.background)
    return SingleJob(
        content,
        styles,
        load(content, shape=last.shape),
        [load(path, shape=own) for path, own in zip(styles, last.styles, strict=True)],
        load(start, shape=last.shape) if start else None,
        masks.at(last.shape, last.styles),
        _extras(options),
        output,
        config,
        schedule,
        devices,
    )


def _extras(options: JobOptions) -> Extras:
    """Load what goes from the content image into the picture's file beside its colors."""
    content = options.content[0]
    extras = load_extras(content, **options.carried)
    if options.form["profile"] == "input" and not extras.profile:
        warn_from_first(f"{content} has no ICC profile of RGB colors: the picture has that of sRGB")
    return extras


def recalled(config: Config, chosen: Mapping[str, Any], *, devices: int) -> Config:
    """Return the settings, with the choices that the machine of an earlier run has made.

    So a run goes on with the arithmetic that it began with, on another machine too. Two choices may
    be made again: Winograd's convolutions are for one device, and a run without remat may need it
    for the memory that is free now.

    Args:
      config: the settings before `Config.resolve`.
      chosen: the choices, from a checkpoint folder or a manifest.
      devices: number of devices that the picture is spread over.
    """
    wanted = {name for name in CHOSEN if getattr(config, name) in ("auto", "max")} & chosen.keys()
    if devices > 1 and chosen.get("conv") == "winograd":
        wanted.discard("conv")
    if chosen.get("remat") == "none":
        wanted.discard("remat")
    return dataclasses.replace(config, **{name: chosen[name] for name in wanted})
