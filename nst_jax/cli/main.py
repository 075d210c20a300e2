"""The command line of the main job: `python main.py`, or `nst-jax` where it is installed."""

import atexit
import contextlib
import gc
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax

from nst_jax.app.live import Live
from nst_jax.cli import recolor
from nst_jax.cli.batch import paint_many
from nst_jax.cli.batch_plan import BatchJob, plan_job
from nst_jax.cli.film import find_film, paint_film
from nst_jax.cli.flags import exit_code
from nst_jax.cli.frames import check_flow
from nst_jax.cli.inputs import is_collection
from nst_jax.cli.manifest import manifest_text, read_manifest
from nst_jax.cli.options import APP, MASKS, JobOptions, parse_options
from nst_jax.cli.output import PROGRAM, warn, warn_from_first
from nst_jax.cli.pipes import STANDARD, lasting_inputs, standard_output
from nst_jax.cli.replay import replayed
from nst_jax.cli.settings_file import save_settings
from nst_jax.cli.single import paint
from nst_jax.cli.texture import with_canvas
from nst_jax.config import Config, flag_of, plain_settings
from nst_jax.devices.backend import default_device, resolve
from nst_jax.devices.compilation_cache import kept_programs
from nst_jax.devices.sharding import find_devices
from nst_jax.distributed import launch
from nst_jax.distributed.collectives import is_first
from nst_jax.errors import InputError
from nst_jax.io.encoding import CODECS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code.

    The first argument may be `app`: then the page is served on which one paints.
    """
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == [APP]:
        from nst_jax.cli import app

        return app.main(given[1:])
    options = parse_options(argv)
    if argv is None:
        # This call owns the process: imported objects stay until its end, and freezing them spares
        # a garbage collection at exit, which would take a third of a second.
        gc.freeze()
        atexit.register(gc.freeze)

    def run() -> int:
        if options.show:
            print(manifest_text(read_manifest(Path(options.show))), end="")
            return 0
        ready = replayed(options) if options.replay else options
        if ready.save_config:
            save_settings(ready.save_config, ready.preset, plain_settings(ready.asked()))
        if not (ready.content or ready.style):
            return 0
        with lasting_inputs(ready) as lasting, with_canvas(lasting) as whole:
            return _run(whole)

    def job() -> int:
        return exit_code(PROGRAM, run)

    explicit = options.coordinator, options.processes, options.process
    if not options.distributed and all(x is None for x in explicit):
        return job()
    again = "start all again with the same command"
    return launch.together(
        job,
        program=PROGRAM,
        advice=again + ("; it goes on from the last checkpoint" if options.checkpoint else ""),
        coordinator=options.coordinator,
        processes=options.processes,
        process=options.process,
    )


def _run(options: JobOptions) -> int:
    config = options.asked()
    default_device()  # fails first if JAX finds no device
    if config.color == "style-only":
        recolor.check_options(options, config)
    film = find_film(options)
    if config.color != "style-only":
        check_flow(options)
    # A folder or a pattern gets an output folder even for one file, as the number can change.
    collected = len(options.content) > 1 or is_collection(options.content[0])
    if jax.process_count() > 1 and options.devices is None:
        options = replace(options, devices="all")
    if not is_first():
        options = replace(options, quiet=True)
    if collected or options.pairs or options.sequence:
        _check_many(options, config)
        if film:
            return paint_film(film, options, config, paint=_paint_many)
        return _paint_many(plan_job(options, config, warn=warn_from_first), options)
    if options.output != STANDARD:
        output = Path(options.output or f"stylized{options.suffix}")
        if options.format and CODECS[options.suffix] != CODECS.get(output.suffix.lower()):
            raise InputError(
                f"--format is {options.format}, but --output is {output}; leave one of the two out"
            )
        return _run_one(options, config, output)
    if options.save_every:
        raise InputError("--save-every needs a place for its pictures; give --output a file's name")
    if options.json:
        raise InputError("--json needs a place for its file; give --output a file's name")
    # Standard output carries the picture only.
    options = replace(options, quiet=options.quiet or not options.dry_run)
    with standard_output(options.suffix) as picture:
        return _run_one(options, config, picture)


def _check_many(options: JobOptions, asked: Config) -> None:
    """Raise InputError for an option that only one picture can have."""
    for flag, given, advice in (
        ("--size=max", asked.size == "max", "give a number of px"),
        ("--output=-", options.output == STANDARD, "name a folder"),
        ("--log", options.log, "leave it out"),
        ("--preview", options.preview, "leave it out"),
        ("--report", options.report, "take --sheet"),
        ("--timelapse", options.timelapse, "leave it out"),
        *((flag_of(name), getattr(options, name), "leave it out") for name in MASKS),
    ):
        if given:
            raise InputError(f"{flag} is for one picture; for several, {advice}")
    if options.checkpoint and jax.process_count() > 1:
        raise InputError(
            "--checkpoint of several pictures is for one process; leave it out, as pictures that "
            "are finished are skipped without it"
        )


def _paint_many(job: BatchJob, options: JobOptions) -> int:
    if job.asked.color == "style-only":
        return recolor.recolor(job, options)
    devices = find_devices(options.devices, own=True)
    config = resolve(job.asked, devices=len(devices))
    with kept_programs(warn), jax.enable_x64(config.dtype == "float64"):
        code = paint_many(job, options, config, devices)
    launch.leave()
    return code


def _run_one(options: JobOptions, asked: Config, output: Path) -> int:
    if asked.color == "style-only":
        job = recolor.plan_one(options, asked, output)
        return recolor.recolor(job, replace(options, overwrite=True))
    page: contextlib.AbstractContextManager[Live | None] = contextlib.nullcontext()
    if options.preview and not options.dry_run:
        from nst_jax.cli.app import preview

        page = preview(options, asked, output)
    with page as live:
        code = paint(options, asked, output, live=live)
    launch.leave()
    return code


if __name__ == "__main__":
    sys.exit(main())
