"""What the command lines share: flags made from the settings, one-line errors, exit codes."""

import argparse
import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Collection, Iterator
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

from nst_jax.cli.output import EXIT_OUTPUT_LOST, lasting_output, make_console
from nst_jax.config import (
    Config,
    Layer,
    LayerBlend,
    ResolvedConfig,
    SettingError,
    checked,
    flag_of,
    format_setting,
)
from nst_jax.errors import InputError
from nst_jax.geometry import Size, plain_size
from nst_jax.network.architecture import ARCHITECTURES
from nst_jax.weights.converted_file import CONVERT_COMMAND, Weights
from nst_jax.weights.download import Progress
from nst_jax.weights.sources import find_weights

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line.

    Attributes:
      lists_all: the flag that lists all flags.
    """

    lists_all = "--help"

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print the message alone, without the usage text, and exit with 2."""
        message = re.sub(r"^argument (--\S+): (?=\1\b)", "", message)  # it names its flag itself
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message} ({self.lists_all} lists the flags)\n")


def add_setting_flags(
    parser: argparse.ArgumentParser,
    *,
    names: Collection[str] | None = None,
    base: Config | None = None,
) -> None:
    """Add flags for fields of `Config`; a flag that is not given stays out of the namespace.

    Args:
      parser: takes the flags.
      names: names of the fields; by default all fields that have a flag.
      base: the settings that flags override; by default those of a preset.
    """
    group: Any = None
    for setting in dataclasses.fields(Config):
        if group is None or (names is None and setting.name in _GROUPS):
            title = "settings" if names else f"settings: {_GROUPS[setting.name]}"
            about = None if base or group else "Each overrides the preset's."
            group = parser.add_argument_group(title, about)
        if setting.metadata["flag"] if names is None else setting.name in names:
            value = format_setting(getattr(base or Config(), setting.name))
            text = (
                f"{setting.metadata['help']} ({'' if base else 'in the preset '}default: {value})"
            )
            flag = flag_of(setting.name)
            if setting.type is bool:
                group.add_argument(
                    flag,
                    action=argparse.BooleanOptionalAction,
                    default=argparse.SUPPRESS,
                    help=text,
                )
                continue
            own = group.add_mutually_exclusive_group() if setting.type == Size else group
            own.add_argument(
                flag,
                type=_parse_with(setting),
                default=argparse.SUPPRESS,
                metavar=_METAVARS.get(setting.type) or "|".join(get_args(setting.type)),
                help=text.replace("%", "%%"),
            )
            if setting.type == Size and names is None:
                _add_megapixels(own)


def given_settings(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the settings whose flags were given."""
    names = {setting.name for setting in dataclasses.fields(Config)}
    return {name: value for name, value in vars(flags).items() if name in names}


# The first setting of each group of flags, with the group's name.
_GROUPS = {
    "size": "size and scales",
    "optimizer": "optimization",
    "content_loss": "losses",
    "color": "colors",
    "start": "first picture",
    "network": "network and numbers",
}
# The metavar of a setting by its type; other types are choices.
_METAVARS: dict[Any, str] = {
    int: "N",
    Size: "N|WxH|original|max",
    float: "F",
    tuple[Layer, ...]: "NAME[:F],…",
    tuple[float, ...]: "F,…",
    tuple[LayerBlend, ...]: "NAME:F:F,…",
}


def _parse_with(setting: "dataclasses.Field[Any]") -> Callable[[str], Any]:
    """Return a function from a flag's text to the checked value of the setting."""

    def parse(text: str) -> Any:
        value: Any = text
        if setting.type in (int, float):
            with contextlib.suppress(ValueError):  # the text itself is refused below
                value = setting.type(text)
        try:
            return checked(setting, value)
        except SettingError as error:
            raise argparse.ArgumentTypeError(error.in_flags) from None

    return parse


def _add_megapixels(group: Any) -> None:
    """Add --megapixels, another way to give the size."""
    group.add_argument(
        "--megapixels",
        dest="size",
        type=_megapixels,
        default=argparse.SUPPRESS,
        metavar="F",
        help="--megapixels=12 is --size=12MP",
    )


def _megapixels(text: str) -> Size:
    try:
        return plain_size(f"{text}MP")
    except InputError:
        raise argparse.ArgumentTypeError(
            f"--megapixels is {text!r}; it must be a number above 0, as 12 or 0.5"
        ) from None


def in_flags(error: InputError) -> str:
    """Return the message of an error, with a setting's flag in place of its name in Python."""
    return error.in_flags if isinstance(error, SettingError) else str(error)


def positive_int(*, least: int = 1) -> Callable[[str], int]:
    """Return the type of a flag that takes whole numbers from `least` on."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def load_weights(
    spec: str,
    config: ResolvedConfig,
    *,
    given: Collection[str],
    taps: Collection[str] = (),
    quiet: bool = False,
    warn: Callable[[str], None],
) -> tuple[Weights, ResolvedConfig]:
    """Find the weights that --weights and --network name; show the progress of a download.

    Args:
      spec: the weights; see `find_weights`.
      config: the settings.
      given: the names of the settings that were given.
      taps: see `find_weights`.
      quiet: whether to hide the progress.
      warn: takes one line if the weights are of another network than the config's.

    Returns:
      The weights, and the settings with the network of the weights.

    Raises:
      InputError: if the weights cannot be had, are of another network than --network says, or of a
        network that lacks a layer.
    """
    with download_bar(make_console(stderr=True, quiet=quiet)) as bar:
        found = find_weights(
            spec,
            network=config.network,
            seed=config.seed,
            taps=taps,
            progress=bar,
        )
    wanted = ARCHITECTURES[config.network].title
    if found.network != config.network:
        if found.reason:
            warn(
                f"{found.title} paints, not {wanted}. Why: {found.reason}. "
                f"To get {wanted}: {CONVERT_COMMAND}"
            )
        elif "network" in given:
            raise InputError(
                f"{spec} is {found.title}, not {wanted}; leave --network out, or give "
                f"--network={found.network}"
            )
    return found, dataclasses.replace(config, network=found.network)


def arithmetic_line(config: Config) -> str:
    """Return the header's line on the precision and the convolutions of a resolved config."""
    return f"numbers  {config.precision}, {config.conv} convolutions"


def exit_code(program: str, job: Callable[[], int]) -> int:
    """Run `job`; turn errors that a user can cause into one line on standard error and a code.

    If standard output is lost on the way, the job goes on without it, and the exit code says so.
    """
    with lasting_output() as lost:
        code = _exit_code(program, job)
        if error := lost():
            print(f"{program}: standard output was lost: {error.strerror}", file=sys.stderr)
            return code or EXIT_OUTPUT_LOST
    return code


def _exit_code(program: str, job: Callable[[], int]) -> int:
    try:
        return job()
    except InputError as error:
        print(f"{program}: error: {in_flags(error)}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:  # a full disk, a file that vanished
        print(f"{program}: error: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


@contextlib.contextmanager
def download_bar(console: Console) -> Iterator[Progress]:
    """Yield a callback that shows a download's progress; nothing appears before its first call."""
    bar = RichProgress(
        TextColumn("downloading"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("download", total=None)

    def show(have: int, total: int | None) -> None:
        bar.start()
        bar.update(task, completed=have, total=total)

    try:
        yield show
    finally:
        if bar.live.is_started:  # a bar that never started would print an empty line
            bar.stop()
