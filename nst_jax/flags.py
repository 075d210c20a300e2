"""What the command lines share: flags made from the settings, one-line errors, exit codes."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, get_args

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress

from nst_jax.config import Config, check_setting
from nst_jax.download import Progress
from nst_jax.errors import InputError

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print the message alone, without the usage text, and exit with 2."""
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message} (--help lists the flags)\n")


def add_setting_flags(
    parser: argparse.ArgumentParser,
    names: Collection[str] | None = None,
    *,
    base: Config | None = None,
) -> None:
    """Add a flag for fields of `Config`; those not given stay out of the namespace.

    Args:
      parser: takes the flags.
      names: of the fields; by default all that want a flag.
      base: the settings that hold where no flag is given; by default the preset's.
    """
    group = parser.add_argument_group(
        "settings" + ("" if base else " (each overrides the preset's)")
    )
    for setting in dataclasses.fields(Config):
        if setting.metadata["flag"] if names is None else setting.name in names:
            choices = get_args(setting.type)
            default = "default" if base else "preset pytorch"
            group.add_argument(
                f"--{setting.name.replace('_', '-')}",
                type=_parse_with(setting),
                default=argparse.SUPPRESS,
                metavar="|".join(choices) or ("N" if setting.type is int else "F"),
                help=f"{setting.metadata['help']} "
                f"({default}: {getattr(base or Config(), setting.name)})",
            )


def given_settings(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the settings for which `add_setting_flags` has found a flag."""
    names = {setting.name for setting in dataclasses.fields(Config)}
    return {name: value for name, value in vars(flags).items() if name in names}


def _parse_with(setting: "dataclasses.Field[Any]") -> Callable[[str], Any]:
    """Return a function from a flag's text to the setting's value, checked."""
    convert: Any = setting.type if setting.type in (int, float) else str

    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            kind = "whole number" if convert is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {kind}") from None
        try:
            check_setting(setting, value)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return value

    return parse


def arithmetic_line(config: Config) -> str:
    """Return the header's line that says what a resolved config computes in, and how."""
    return f"numbers  {config.precision}, {config.conv} convolutions"


def exit_code(program: str, job: Callable[[], int]) -> int:
    """Run `job`; turn what a user can cause into one line on standard error and an exit code."""
    try:
        return job()
    except InputError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:  # a full disk, a file that vanished
        print(f"{program}: error: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


@contextmanager
def download_bar(console: Console) -> Iterator[Progress]:
    """Yield a callback that shows a download's progress; nothing appears before its first call."""
    bar = RichProgress(
        TextColumn("downloading"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    task = bar.add_task("download", total=None)

    def show(have: int, total: int | None) -> None:
        bar.start()
        bar.update(task, completed=have, total=total)

    try:
        yield show
    finally:
        if bar.live.is_started:  # else it would print an empty line
            bar.stop()
