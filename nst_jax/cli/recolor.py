"""Give content images the colors of their styles (--color=style-only): no steps, no network."""

import functools
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from rich.markup import escape

from nst_jax.cli.batch import count_text, end, save_sheet_of
from nst_jax.cli.batch_plan import BatchJob, Planned, plan_picture
from nst_jax.cli.console import print_header, save_or_rescue, size_text
from nst_jax.cli.finished import provenance_of, skip_finished
from nst_jax.cli.flags import EXIT_FAILURE, EXIT_USAGE, in_flags
from nst_jax.cli.manifest import make_manifest, note_of, save_beside
from nst_jax.cli.names import PictureFiles
from nst_jax.cli.options import MASKS, JobOptions
from nst_jax.cli.output import make_console
from nst_jax.cli.replay import comparison
from nst_jax.cli.single_plan import checked_files
from nst_jax.color import match_colors
from nst_jax.config import Config, flag_of
from nst_jax.errors import InputError
from nst_jax.io.extras import load_extras
from nst_jax.io.images import image_shape, load_image
from nst_jax.transfer.schedule import check_shares, named

_STYLE_SIZE = "1MP"  # more pixels of a style hardly change the moments of its colors
_FOR_STEPS = (
    *("start_image", "flow", "batch", "save_every", "preview", "checkpoint"),
    *("log", "report", "timelapse", *MASKS),
)


def check_options(options: JobOptions, asked: Config) -> None:
    """Raise InputError for an option that only a picture with steps can have.

    Args:
      options: the options of the command.
      asked: the settings.
    """
    for name in _FOR_STEPS:
        if getattr(options, name):
            raise InputError(
                f"{flag_of(name)} is for pictures that are painted in steps, but "
                "--color=style-only makes none; leave it out"
            )
    if asked.size == "max":
        raise InputError(
            "--size=max is for pictures that are painted in steps; with --color=style-only give "
            "another size, as original"
        )
    if jax.process_count() > 1:
        raise InputError("--color=style-only is for one process; start one alone")


def plan_one(options: JobOptions, asked: Config, output: Path) -> BatchJob:
    """Check everything that a user can get wrong with one picture, and plan it.

    Args:
      options: the options of the command.
      asked: the settings.
      output: the file to write; it is replaced.

    Raises:
      InputError: if a check fails.
    """
    picture = PictureFiles(options.content[0], tuple(checked_files(options, output)), output, 0)
    check_shares(asked, len(picture.styles))
    planned = Planned(picture, plan_picture(picture, asked, image_shape))
    return BatchJob((picture,), (planned,), frozenset(), (), output.parent, None, asked, False)


def recolor(job: BatchJob, options: JobOptions) -> int:
    """Make and save the pictures; return the exit code.

    Args:
      job: the pictures.
      options: the options of the command.
    """
    console = make_console(quiet=options.quiet)
    made_from = provenance_of(job, None, background=options.background, **options.form)
    if not options.overwrite:
        job = skip_finished(job, made_from)
    faults, saved = dict.fromkeys(job.faults, EXIT_USAGE), set(job.finished)
    rows = [("pictures", count_text(job))] if job.pictures[1:] else []
    rows.append(("colors", f"of the style, by the map {job.asked.color_match}, without steps"))
    if options.dry_run:
        rows += [
            ("size", f"{each.picture.output}: {size_text(each.shape)} px") for each in job.todo
        ]
    print_header(console, rows)
    for each in () if options.dry_run else job.todo:
        output, size = each.picture.output, size_text(each.shape)
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            image = _recolored(each, job.asked, background=options.background)
            extras = load_extras(each.picture.content, **options.carried)
            made = made_from(each.picture)
        except InputError as error:
            faults[in_flags(error)] = EXIT_USAGE
            continue
        manifest = make_manifest(made, None, preset=options.preset, config=job.asked)
        note = note_of(manifest, embed=options.manifest)
        fault = save_or_rescue(output, image, note=note, extras=extras, **options.encoding)
        if not fault and options.json:
            fault = save_beside(output, manifest)
        if fault:
            faults[fault] = EXIT_FAILURE
            continue
        saved.add(output)
        console.print(escape(f"wrote    {output}, {size} px, {len(saved)} of {len(job.pictures)}"))
        if options.replay:
            print_header(console, [("replay", comparison(Path(options.replay), output))])
    faults |= save_sheet_of(job, options, saved)
    return end(faults, len(saved))


def _recolored(
    each: Planned, asked: Config, *, background: str
) -> Float[np.ndarray, "height width 3"]:
    load = functools.partial(load_image, background=background)
    with named(each.picture.content):
        content = load(each.picture.content, shape=each.shape)
    styles = []
    for path in each.picture.styles:
        with named(path):
            styles.append(load(path, size=_STYLE_SIZE, enlarge=False))
    return np.asarray(
        match_colors(content, styles, shares=asked.style_blend, how=asked.color_match)
    )
