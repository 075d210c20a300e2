"""Paint one picture, and show how it goes."""

import argparse
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.markup import escape

from nst_jax.cli.console import (
    SECONDS,
    complain,
    complain_for_all,
    devices_text,
    follow,
    is_out_of_memory,
    network_of,
    not_finite,
    print_forecast,
    print_header,
    run_weights,
    save_or_rescue,
    scales_text,
    size_text,
    stop_signals,
    warn_of_network,
    weights_text,
)
from nst_jax.cli.fingerprint import of_images, provenance
from nst_jax.cli.flags import EXIT_FAILURE, arithmetic_line, given_settings
from nst_jax.cli.output import make_console
from nst_jax.config import Config
from nst_jax.devices.sharding import is_shared, lay_out
from nst_jax.distributed.collectives import agree, is_first
from nst_jax.errors import InputError
from nst_jax.geometry import fit
from nst_jax.io.checkpoint import Store, recall
from nst_jax.io.images import check_output, image_shape, load_image, save_image
from nst_jax.transfer.estimate import settle
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.schedule import Plan, check_inputs, plan, style_shape
from nst_jax.transfer.stylize import stylize
from nst_jax.weights.converted_file import Weights
from nst_jax.weights.download import sha256_of

# The settings that a machine chooses where they are left to it.
_CHOSEN = ("size", "precision", "conv", "remat")


class Job(NamedTuple):
    """All that a picture is made of, and the file that it becomes."""

    content_path: str
    style_paths: list[str]
    content: np.ndarray
    styles: list[np.ndarray]
    start_path: str | None
    start: np.ndarray | None
    output: Path


def load_job(
    content: str,
    styles: list[str],
    start: str | None,
    output: Path,
    *,
    config: Config,
    biggest: bool = False,
    devices: int = 1,
) -> tuple[Job, Config]:
    """Find out everything that a user can get wrong before the work starts; load the images.

    Args:
      content: file to paint.
      styles: files that show how.
      start: file to start from.
      output: file to write.
      config: resolved settings.
      biggest: paint the largest picture that fits.
      devices: how many devices it is spread over.

    Returns:
      The job, and the settings with which it fits into memory.

    Raises:
      InputError: if something is wrong.
    """
    check_output(output)
    for path in (content, *styles, start):
        if path and output.exists() and os.path.exists(path) and os.path.samefile(output, path):
            raise InputError(f"--output {output} is the input image {path}; name another file")
    given, style_shapes = image_shape(content), [image_shape(path) for path in styles]
    config = settle(
        lambda size: fit(*given, size, side=config.side),
        style_shapes,
        config=config,
        biggest=biggest,
        devices=devices,
    )
    shape = fit(*given, config.size, side=config.side)
    check_inputs(shape, style_shapes, config)
    image = load_image(content, shape=shape)
    looks = [
        load_image(path, shape=style_shape(own, shape, config))
        for path, own in zip(styles, style_shapes, strict=True)
    ]
    first = None if start is None else load_image(start, shape=shape)
    return Job(content, styles, image, looks, start, first, output), config


def paint_one(
    job: Job, flags: argparse.Namespace, asked: Config, config: Config, devices: Sequence[Any]
) -> int:
    """Paint and save the picture on these devices; return the exit code.

    Args:
      job: from `load_job`.
      flags: of the command line.
      asked: the settings as they were asked for.
      config: from `load_job`.
      devices: those that compute.
    """
    (height, width, _), output = job.content.shape, job.output
    device = devices_text(devices)
    scales = plan(height, width, config)
    console = make_console(quiet=flags.quiet)
    weights = None
    if not flags.dry_run:
        weights, config = run_weights(flags, config)
    rows = [("device", device), ("content", f"{job.content_path}, {width}x{height} px")]
    for path, image in zip(job.style_paths, job.styles, strict=True):
        look = style_shape(image.shape[:2], (height, width), config)
        rows.append(("style", f"{path}, {size_text(look)} px"))
    steps = sum(steps for _, steps in scales)
    rows += [
        *([("weights", weights_text(weights))] if weights else []),
        ("steps", f"{steps} of {config.optimizer}, preset {flags.preset}"),
        ("scales", scales_text(scales)),
    ]
    print_header(console, rows)
    console.print(arithmetic_line(config))
    if not weights:
        looks = [image.shape[:2] for image in job.styles]
        print_forecast(console, (height, width), looks, config, devices=devices)
        return 0
    if is_first():
        warn_of_network(weights, flags.preset)

    def save(snapshot: Snapshot, step: str) -> None:
        if not is_first():
            return
        path = output.with_name(f"{output.stem}_{step}{output.suffix}")
        save_image(path, np.asarray(snapshot.image))

    began = time.perf_counter()
    try:
        with (
            _checkpoints(job, weights, flags, asked, config) as store,
            stop_signals() as received,
        ):
            if store:
                _warn_of_lost_scales(scales, devices)
            if store and store.newest:
                print_header(console, [("resume", f"from step {store.newest}")])
            snapshots = stylize(
                job.content,
                job.styles,
                network=network_of(weights, config),
                config=config,
                start=job.start,
                snapshot_every=flags.save_every,
                snapshot_seconds=SECONDS,
                devices=devices,
                checkpoints=store,
                checkpoint_seconds=flags.checkpoint_seconds,
            )
            # The run has them in its own form.
            weights = dataclasses.replace(weights, params={})
            with contextlib.closing(snapshots):
                last = follow(
                    snapshots,
                    scales,
                    console=console,
                    stopped=lambda: agree(bool(received)),
                    save_every=flags.save_every,
                    save=save,
                )
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        complain(f"out of memory at {width}x{height} px on {device}; give a smaller --size")
        return EXIT_FAILURE
    seconds = time.perf_counter() - began
    fault = save_or_rescue(output, np.asarray(last.image)) if is_first() else ""
    if fault:
        complain(fault)
    else:
        console.print(escape(f"wrote    {output} after {last.step} steps in {seconds:.1f} s"))
    if is_first():
        warn_of_network(weights, flags.preset)
    if not last.finite and is_first():
        what, advice = not_finite(last, config)
        complain(f"{what}: the picture is the last good one; give {advice}")
    if last.step < steps and last.finite:  # another process may be the one that was told to
        signum = received[0] if received else signal.SIGTERM
        if is_first():
            name = signal.Signals(signum).name
            complain(f"stopped by {name}: {output} is the picture so far")
        return 128 + signum
    return EXIT_FAILURE if fault or not last.finite else 0


def _warn_of_lost_scales(scales: Plan, devices: Sequence[Any]) -> None:
    """Say at which scales no checkpoint is kept, as one of the processes has no part there."""
    lost = [shape for shape, _ in scales if not is_shared(lay_out((*shape, 3), devices))]
    if lost:
        complain_for_all(
            f"no checkpoints are kept at {', '.join(map(size_text, lost))} px, where the picture "
            "is too small for all processes"
        )


@contextlib.contextmanager
def _checkpoints(
    job: Job, weights: Weights, flags: argparse.Namespace, asked: Config, config: Config
) -> Iterator[Store | None]:
    """Open the folder of the flag, if it is given, for this job alone."""
    if not flags.checkpoint:
        yield None
        return
    images = of_images(
        job.content_path, job.style_paths, job.start_path, digest=lambda path: sha256_of(Path(path))
    )
    size = {"size": "max"} if given_settings(flags).get("size") == "max" else {}
    with Store(
        flags.checkpoint,
        fingerprint=provenance(asked, weights=weights, **size) | images,
        chosen={name: getattr(config, name) for name in _CHOSEN},
        complain=complain,
    ) as store:
        yield store


def recalled(
    config: Config, folder: str | None, *, biggest: bool, devices: int
) -> tuple[Config, bool]:
    """Take what was chosen for the job whose checkpoints a folder holds, where nothing is given.

    So a run goes on with the numbers that it began with, on another machine too, as far as that
    one can: Winograd's convolutions are for one device, and whether something must be computed
    twice depends on the memory that is free now.

    Args:
      config: the settings as they were asked for.
      folder: of the checkpoints, if there is one.
      biggest: whether the size is one of the things that were chosen.
      devices: how many the picture is spread over.

    Returns:
      The settings, and whether the size is still to be chosen.
    """
    chosen = recall(folder) if folder else {}
    auto = {name for name in _CHOSEN if getattr(config, name) == "auto"}
    wanted = (auto | {"size"} if biggest else auto) & chosen.keys()
    if devices > 1 and chosen.get("conv") == "winograd":
        wanted.discard("conv")
    if chosen.get("remat") == "none":
        wanted.discard("remat")
    config = dataclasses.replace(config, **{name: chosen[name] for name in wanted})
    return config, biggest and "size" not in wanted
