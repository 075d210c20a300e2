"""Compare pictures with those of other programs: `python -m benchmarks.quality --output=FOLDER`.

Pairs of a content and a style image are drawn by a seed. Each program is a command that is given
the same two PNG files, at several content weights. Judges that no program minimizes measure the
pictures, beside controls that are no style transfer. Pictures that are there are kept, so an
interrupted run goes on.
"""

import argparse
import datetime
import hashlib
import itertools
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from benchmarks import judges, machine, quality_report
from benchmarks.judges import JUDGES, AlexNet
from benchmarks.verdicts import CONTROLS, MATCHED, STYLE, UNCHANGED, Verdict, dropped
from nst_jax.cli.flags import Parser, exit_code, positive_int
from nst_jax.cli.inputs import expand
from nst_jax.color import match_colors
from nst_jax.errors import InputError, check_installed
from nst_jax.io.files import check_writable, write_json
from nst_jax.io.images import load_image, save_image
from nst_jax.presets import PRESETS, preset
from nst_jax.weights.download import sha256_of

PROGRAM = "benchmarks.quality"
FACTORS = (0.25, 1.0, 4.0)
_SHIPPED = (
    ["png/content.png"],
    [f"png/{name}.png" for name in ("style", "ink", "mosaic", "watercolor")],
)
_HOLE = re.compile(r"\{(\w+)(?:\*([0-9.eE+-]+))?\}")
_OURS = "{python}"  # this interpreter
_NEEDED = ("content", "style", "output")
_KNOWN = (*_NEEDED, "size", "content_weight")


class Pair(NamedTuple):
    """Two files that a picture is made of; their names are those of the files."""

    content: Path
    style: Path

    @property
    def name(self) -> str:
        """The names of both images."""
        return f"{self.content.stem}+{self.style.stem}"


class Painter(NamedTuple):
    """A program: its name, and the words of its command with holes such as {content}."""

    name: str
    words: tuple[str, ...]

    @property
    def weighted(self) -> bool:
        """Whether the command takes a content weight."""
        return any(hole[1] == "content_weight" for x in self.words for hole in _HOLE.finditer(x))


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Compare pictures with those of other programs.")
    add = parser.add_argument
    add("--pairs", metavar="FOLDER", help="its folders content and style (default: png/)")
    add("--count", type=positive_int(), default=4, metavar="N", help="pairs (default: 4)")
    add(
        "--seed",
        type=positive_int(least=0),
        default=0,
        metavar="N",
        help="of the draws (default: 0)",
    )
    add(
        "--recipes",
        nargs="*",
        default=list(PRESETS),
        metavar="R",
        help="our presets, each with flags of the main job, as in 'crowson --steps=100'",
    )
    add(
        "--program",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another program: a command with {content}, {style} and {output}; {size} is the "
        "longest side in px, {content_weight*5} is 5 times each of --factors",
    )
    add("--factors", nargs="+", type=_factor, default=FACTORS, metavar="F",
        help="of the content weight; 1 is always among them (default: 0.25 1 4)")  # fmt: skip
    add("--size", type=positive_int(least=judges.LEAST), default=256, metavar="N",
        help="longest side in px (default: 256)")  # fmt: skip
    add("--weights", default="auto", metavar="W", help="of ours, as in the main job")
    add("--output", default="quality", metavar="FOLDER", help="(default: %(default)s)")
    return parser


def _factor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    flags = _parser().parse_args(arguments)
    return exit_code(PROGRAM, lambda: _run(flags, arguments))


def _run(flags: argparse.Namespace, arguments: Sequence[str]) -> int:
    check_installed(PROGRAM, "matplotlib.figure", extra="report")
    painters = [ours(recipe, weights=flags.weights) for recipe in flags.recipes]
    painters += [template(each) for each in flags.program]
    _check_names(painters)
    pairs = draw_pairs(*_images(flags.pairs), count=flags.count, seed=flags.seed)
    network = judges.load_alexnet()
    folder = Path(flags.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {folder}: cannot make the folder: {error.strerror}") from None
    check_writable(folder / "quality.json", what="the report")
    console = Console(highlight=False, soft_wrap=True, markup=False)
    report: dict[str, Any] = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", PROGRAM, *arguments]),
        "hardware": machine.describe(),
        "size": flags.size,
        "seed": flags.seed,
        "pairs": [[str(path) for path in pair] for pair in pairs],
        "programs": {painter.name: " ".join(painter.words) for painter in painters},
    }
    factors = sorted({*flags.factors, 1.0})
    small = [reduced(pair, folder, flags.size) for pair in pairs]
    pictures = [
        (pair, *picture)
        for pair in small
        for picture in _pictures(painters, pair, factors, folder, flags.size, console)
    ]
    verdicts = []
    for pair, program, factor, path in pictures:
        distances = judge(network, path, pair, own_shape=program == STYLE)
        text = ", ".join(f"{name} {value:.3f}" for name, value in distances.items())
        console.print(f"{_where(pair, program, factor)}: {text}")
        names = (pair.content.stem, pair.style.stem)
        verdicts.append(Verdict(*names, program, factor, str(path.relative_to(folder)), distances))
    report |= {"dropped": dropped(verdicts), "verdicts": [each._asdict() for each in verdicts]}
    write_json(folder / "quality.json", report)
    console.print(quality_report.write(folder, report, verdicts), end="")
    return 0


def _check_names(painters: Sequence[Painter]) -> None:
    names = [painter.name for painter in painters]
    if not names:
        raise InputError("there is no program; give --recipes or --program")
    for name in names:
        if names.count(name) > 1 or name in CONTROLS:
            raise InputError(f"two pictures would be called {name!r}; give programs other names")


def ours(recipe: str, *, weights: str) -> Painter:
    """Return the main job with a preset and further flags.

    Raises:
      InputError: if there is no such preset.
    """
    name, *more = shlex.split(recipe) or [""]
    given = [x.partition("=")[2] for x in more if x.startswith("--content-weight=")]
    weight = _number(given[-1], recipe) if given else preset(name).content_weight
    words = [_OURS, "-m", "nst_jax", f"--preset={name}", "--content={content}", "--style={style}"]
    words += ["--output={output}", "--size={size}", "--side=longest", f"--weights={weights}"]
    words += ["--quiet", *more, f"--content-weight={{content_weight*{weight!r}}}"]
    return Painter(recipe, tuple(words))


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: the content weight {text!r} is no number") from None


def template(text: str) -> Painter:
    """Return the program that NAME=COMMAND describes.

    Raises:
      InputError: if it has no name, no command, or not the holes that it needs.
    """
    name, _, command = text.partition("=")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"--program {text!r}: {str(error).lower()}") from None
    if not (name.strip() and words):
        raise InputError(f"--program {text!r}: it must be NAME=COMMAND")
    holes = {hole[1] for word in words for hole in _HOLE.finditer(word)}
    if missing := [f"{{{hole}}}" for hole in _NEEDED if hole not in holes]:
        raise InputError(f"--program {name}: the command lacks {', '.join(missing)}")
    if unknown := sorted(holes - {*_KNOWN}):
        raise InputError(
            f"--program {name}: {{{unknown[0]}}} is unknown; known are "
            + ", ".join(f"{{{hole}}}" for hole in _KNOWN)
        )
    for word in words:
        for hole in _HOLE.finditer(word):
            _number(hole[2] or "1", f"--program {name}")
    return Painter(name.strip(), tuple(words))


def _images(folder: str | None) -> tuple[list[str], list[str]]:
    """Return the content and the style images that pairs are drawn from."""
    if folder is None:
        return _SHIPPED
    found = []
    for role in ("content", "style"):
        inside = Path(folder, role)
        if not inside.is_dir():
            raise InputError(f"--pairs {folder}: it must have the folders content and style")
        paths = expand([str(inside)], role="pairs", warn=lambda _: None)
        stems = [Path(path).stem for path in paths]
        if doubled := [stem for stem in stems if stems.count(stem) > 1]:
            raise InputError(f"--pairs {folder}: two images in {role} are called {doubled[0]!r}")
        found.append(paths)
    return found[0], found[1]


def draw_pairs(
    contents: Sequence[str], styles: Sequence[str], *, count: int, seed: int
) -> list[Pair]:
    """Draw pairs without repetition, in the order of the images; all, if there are no more."""
    every = [Pair(Path(a), Path(b)) for a, b in itertools.product(contents, styles)]
    drawn = np.random.default_rng(seed).permutation(len(every))[:count]
    return [every[number] for number in sorted(drawn)]


def reduced(pair: Pair, folder: Path, size: int) -> Pair:
    """Write both images with this longest side in px as PNG, which all programs are given."""
    found = []
    for role, path in zip(Pair._fields, pair, strict=True):
        target = folder / "inputs" / role / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        image = load_image(path, size=size)
        if min(image.shape[:2]) < judges.LEAST:
            raise InputError(f"{path} at {size} px is too narrow; {judges.LEAST} px are needed")
        save_image(target, image)
        found.append(target)
    return Pair(*found)


def _pictures(
    painters: Sequence[Painter],
    pair: Pair,
    factors: Sequence[float],
    folder: Path,
    size: int,
    console: Console,
) -> Iterator[tuple[str, float, Path]]:
    """Yield program, factor and picture for a pair, controls first."""
    matched = folder / "inputs" / f"{pair.name}.png"
    save_image(matched, np.asarray(match_colors(*map(load_image, pair))))
    yield UNCHANGED, 1.0, pair.content
    yield MATCHED, 1.0, matched
    yield STYLE, 1.0, pair.style
    for painter in painters:
        for factor in factors if painter.weighted else [1.0]:
            began = time.perf_counter()
            picture = paint(painter, pair, factor, folder / "pictures", size)
            seconds = time.perf_counter() - began
            console.print(f"{_where(pair, painter.name, factor)}: {seconds:.1f} s")
            yield painter.name, factor, picture


def _where(pair: Pair, program: str, factor: float) -> str:
    return f"{pair.name}, {program}, {factor:g}"


def paint(painter: Painter, pair: Pair, factor: float, folder: Path, size: int) -> Path:
    """Run a program, unless the folder has the picture of this command and these images.

    Raises:
      InputError: if the program cannot be run, fails, or leaves no picture.
    """
    inputs = list(map(sha256_of, pair))
    what = json.dumps([painter.words, factor, size, *inputs])
    slug = re.sub(r"[^\w.-]+", "_", f"{pair.name}.{painter.name}.{factor:g}")[:150]
    target = folder / f"{slug}.{hashlib.sha256(what.encode()).hexdigest()[:8]}.png"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part.png")
    values = {"content": pair.content, "style": pair.style, "output": part, "size": size}
    where = _where(pair, painter.name, factor)
    try:
        _call(fill(painter, values | {"python": sys.executable}, factor=factor), where)
        if not part.exists():
            raise InputError(f"{where}: the program left no picture at {{output}}")
        load_image(part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def fill(painter: Painter, values: Mapping[str, object], *, factor: float) -> list[str]:
    """Return the words of the command with values in its holes, a content weight times `factor`."""

    def value(hole: re.Match[str]) -> str:
        if hole[1] == "content_weight":
            return repr(factor * float(hole[2] or 1))
        return str(values.get(hole[1], hole[0]))

    return [_HOLE.sub(value, word) for word in painter.words]


def _call(command: Sequence[str], where: str) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        raise InputError(f"{where}: cannot run {command[0]!r}: {error.strerror}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise InputError(f"{where}: exit code {done.returncode}: {said}")


def judge(network: AlexNet, picture: Path, pair: Pair, *, own_shape: bool) -> dict[str, float]:
    """Return every judge's distance of a picture.

    Args:
      network: for the judges that have one.
      picture: the file; its picture is resized to the content image's shape.
      pair: the reduced images.
      own_shape: whether a style judge sees the picture as it is.
    """
    content, style = map(load_image, pair)
    resized = load_image(picture, shape=content.shape[:2])
    seen = {"content": (resized, content)}
    seen["style"] = (load_image(picture) if own_shape else resized, style)
    return {name: each.measure(network, *seen[each.to]) for name, each in JUDGES.items()}


if __name__ == "__main__":
    sys.exit(main())
