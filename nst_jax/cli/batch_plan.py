"""Many pictures: what files are meant, what is painted with what, its name, and what goes together.

Only files' names and sizes are looked at here; nothing is painted, and nothing written.
"""

import argparse
import functools
import glob
import math
import os
from collections import Counter
from collections.abc import (
    Callable,
    Collection,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from natsort import natsorted, ns

from nst_jax.cli.fingerprint import of_images, provenance
from nst_jax.config import Config
from nst_jax.devices.backend import default_device
from nst_jax.distributed.collectives import exchange
from nst_jax.errors import InputError
from nst_jax.geometry import Shape, fit
from nst_jax.io.files import check_writable
from nst_jax.io.formats import HEIC_SUFFIXES, INSTALL_COMMAND, readable_suffixes
from nst_jax.io.images import WRITABLE_SUFFIXES, image_shape
from nst_jax.io.provenance import Provenance, difference, read_provenance
from nst_jax.transfer.estimate import free_memory, need, surely_fits
from nst_jax.transfer.schedule import check_inputs, style_shape
from nst_jax.weights.converted_file import Weights
from nst_jax.weights.download import sha256_of

Pairs = Literal["product", "zip"]
_MOST = 8  # pictures at once on one device
_CPU_MOST, _CPU_PIXELS = 4, 256**2  # on a CPU; larger ones keep its cores busy alone
_Pair = tuple[str, tuple[str, ...]]  # a content file and its styles
Key = TypeVar("Key", bound=Hashable)


class Picture(NamedTuple):
    """A picture to paint.

    Attributes:
      content: the file to paint.
      styles: the files that show how; several are blended.
      output: the file to write.
      run: which run of frames it is part of, where the pictures are frames.
    """

    content: str
    styles: tuple[str, ...]
    output: Path
    run: int


class Measured(NamedTuple):
    """A picture to paint, and the (height, width) in px of its images as they will be loaded."""

    picture: Picture
    shape: Shape
    styles: tuple[Shape, ...]


class Job(NamedTuple):
    """What is to be done.

    Attributes:
      pictures: all, in order.
      todo: those that are to be painted.
      saved: the files of those that are finished; what is painted is added.
      faults: a line on what is in the way of pictures that are therefore not among those to paint.
      folder: where the pictures go.
      start: the file that they start from, if there is one.
      asked: the settings as they were asked for.
      sequence: whether they are frames.
    """

    pictures: list[Picture]
    todo: list[Measured]
    saved: set[Path]
    faults: list[str]
    folder: Path
    start: str | None
    asked: Config
    sequence: bool


class Batch(NamedTuple):
    """Pictures painted at once.

    Attributes:
      members: their numbers.
      size: of the batch; what the members do not fill is filled up, so that one program serves all.
    """

    members: tuple[int, ...]
    size: int


def plan_job(flags: argparse.Namespace, config: Config, *, complain: Callable[[str], None]) -> Job:
    """Find out everything that a user can get wrong before the work starts.

    Several processes look at the same files, and come to one answer.

    Args:
      flags: of the command line.
      config: the settings.
      complain: takes a line on what is left out.

    Raises:
      InputError: if something is wrong, other than with single files.
    """
    contents = expand(flags.content, role="content", complain=complain)
    styles = expand(flags.style, role="style", complain=complain)
    if config.style_blend and flags.pairs:
        raise InputError(
            "style-blend is for a blend of all styles, but with --pairs every picture has one "
            "style; leave one of the two out"
        )
    if config.style_blend and len(config.style_blend) != len(styles):
        raise InputError(
            f"style-blend has {len(config.style_blend)} shares, but the number of styles is "
            f"{len(styles)}; give one for each"
        )
    which = "--sequence" if flags.sequence else no_batch(config)
    if flags.batch and flags.batch > 1 and which:
        raise InputError(
            f"--batch is {flags.batch}, but {which} takes one picture at a time; leave it out"
        )
    folder = Path(flags.output or "stylized")
    pictures = name_pictures(pair(contents, styles, flags.pairs), folder)
    start = [flags.start_image] if flags.start_image else []
    check_folder(folder, [*contents, *styles, *start])
    for path in start:
        image_shape(path)
    job = Job(pictures, [], set(), [], folder, flags.start_image, config, flags.sequence)
    shape_of = functools.cache(image_shape)
    for picture in pictures:
        try:
            job.todo.append(_measured(picture, config, shape_of))
        except InputError as error:
            job.faults.append(str(error))
    todo = [[str(each.picture.output), each.shape, each.styles] for each in job.todo]
    answers = exchange("pictures", todo)
    if any(answer != answers[0] for answer in answers):
        raise InputError(
            "the processes see other images under the same names; give files that all share"
        )
    return job


def provenance_of(job: Job, weights: Weights | None) -> Callable[[Picture], Provenance]:
    """Return a function that writes down what a picture is made from.

    Args:
      job: what is to be done.
      weights: see `provenance`.
    """
    common = provenance(job.asked, weights=weights, sequence=job.sequence)
    digest = functools.cache(lambda path: sha256_of(Path(path)))
    return lambda picture: (
        common | of_images(picture.content, picture.styles, job.start, digest=digest)
    )


def skip_finished(job: Job, made_from: Callable[[Picture], Provenance]) -> Job:
    """Return the job without the pictures that are in the folder already.

    One that was made from the same is finished. One that was made from something else, or of which
    that is not known, stays as it is, and is a fault.

    Args:
      job: all that could be painted.
      made_from: from `provenance_of`.
    """
    found: dict[str, str] = {}  # what each picture was made from, if it is not the same
    for each in job.todo:
        if each.picture.output.exists():
            had = read_provenance(each.picture.output)
            other = difference(had, made_from(each.picture)) if had else "something unknown"
            found[str(each.picture.output)] = other
    # Process 0 has looked: another might find what that has made since.
    found = exchange("finished", found)[0]
    return job._replace(
        todo=[each for each in job.todo if str(each.picture.output) not in found],
        saved={Path(path) for path, other in found.items() if not other},
        faults=job.faults + _in_the_way(found),
    )


def _in_the_way(found: Mapping[str, str]) -> list[str]:
    """Return a line for each reason why pictures in the folder are neither finished nor painted."""
    lines = []
    for other in dict.fromkeys(filter(None, found.values())):
        first, *more = [path for path, each in found.items() if each == other]
        files = f"{first} and {len(more)} more are" if more else f"{first} is"
        lines.append(
            f"{files} there already, made from {other}; give --overwrite to paint anew, or another "
            "--output"
        )
    return lines


def _measured(picture: Picture, config: Config, shape_of: Callable[[str], Shape]) -> Measured:
    one_style, looks = replace(config, style_blend=()), []
    with blamed(picture.content):
        shape = fit(*shape_of(picture.content), config.size, side=config.side)
        check_inputs(shape, [], one_style)
    for path in picture.styles:
        with blamed(path):
            check_inputs(shape, [shape_of(path)], one_style)
            looks.append(style_shape(shape_of(path), shape, config))
    return Measured(picture, shape, tuple(looks))


@contextmanager
def blamed(path: str) -> Iterator[None]:
    """See to it that an InputError names the file."""
    try:
        yield
    except InputError as error:
        if path in str(error):
            raise
        raise InputError(f"{path}: {error}") from None


def batch_size(shape: Shape, styles: Sequence[Shape], *, config: Config, devices: int) -> int:
    """Return how many pictures to paint at once: as fits into memory, but no more than pays.

    On a CPU a batch gains with small pictures alone (docs/scaling.md).

    Args:
      shape: (height, width) of the pictures in px.
      styles: of each of their style images.
      config: resolved settings.
      devices: how many the pictures are spread over.

    Raises:
      InputError: if there is no device.
    """
    if no_batch(config):
        return 1
    if default_device().platform == "cpu" and devices < 2:
        pays = math.prod(shape) <= _CPU_PIXELS
        return _CPU_MOST if pays and surely_fits(shape, config, batch=_CPU_MOST) else 1
    free = free_memory()
    one, two = (need(shape, styles, config=config, batch=n) for n in (1, 2))
    each = max(1, two.device - one.device)
    fitting = 1 + max(0, free.device - one.device) // each
    return int(min(_MOST, fitting)) * max(1, devices)


def no_batch(config: Config) -> str:
    """Return which setting takes one picture at a time, or nothing."""
    if config.optimizer != "adam":  # L-BFGS would make one problem of a batch
        return f"the optimizer {config.optimizer}"
    if config.tile:
        return "a tile"
    return "the picture best" if config.picture == "best" else ""  # it goes by the sum of losses


def is_collection(path: str) -> bool:
    """Return whether a path stands for any number of files: a folder or a pattern."""
    return os.path.isdir(path) or _is_pattern(path)


def _is_pattern(path: str) -> bool:
    return any(mark in path for mark in "*?[") and not os.path.exists(path)


def expand(given: Iterable[str], *, role: str, complain: Callable[[str], None]) -> list[str]:
    """Return the files that paths, folders and glob patterns name.

    What a folder or a pattern stands for is in natural order (frame2 before frame10), without
    hidden files; of a folder, the files with a suffix that can be read. Paths stay in their order.

    Args:
      given: paths of files, which need not exist, and of folders; patterns, `**` included.
      role: what they are, for messages.
      complain: takes a line on the files of a folder that are passed over.

    Raises:
      InputError: if a folder or a pattern has no file, or a folder cannot be read.
    """
    found: list[str] = []
    for path in given:
        if os.path.isdir(path):
            files, others = _images_in(path, role)
            what = f"the folder {path!r} has no image file"
            if others and files:
                complain(f"--{role}: passed over in the folder {path!r}: {others}")
            elif others:
                what += f", but {others}"
        elif _is_pattern(path):
            files = list(filter(os.path.isfile, glob.glob(path, recursive=True)))
            what = f"no file matches {path!r}"
        else:
            found.append(path)
            continue
        if not files:
            raise InputError(f"--{role}: {what}; give image files, folders of them, or patterns")
        found += natsorted(sorted(files), alg=ns.PATH)
    return found


def _images_in(folder: str, role: str) -> tuple[list[str], str]:
    """Return the files in a folder that can be read by their suffix, and a text on the others."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"--{role}: cannot read the folder {folder!r}: {error.strerror}"
        ) from error
    names = [name for name in names if os.path.isfile(os.path.join(folder, name))]
    suffix_of = {name: os.path.splitext(name)[1].lower() for name in names}
    readable = readable_suffixes(suffix_of.values())
    files = [os.path.join(folder, name) for name in names if suffix_of[name] in readable]
    counts = Counter(suffix for suffix in suffix_of.values() if suffix not in readable)
    others = ", ".join(
        f"{count} {suffix or 'without a suffix'}" for suffix, count in counts.items()
    )
    if counts.keys() & set(HEIC_SUFFIXES):
        others += f" (HEIC takes pillow-heif: {INSTALL_COMMAND})"
    return files, others


def pair(contents: Sequence[str], styles: Sequence[str], how: Pairs | None) -> list[list[_Pair]]:
    """Return which content goes with which styles, one list for each run of frames.

    Args:
      contents: files, at least one.
      styles: files, at least one.
      how: product: every content with every style, a list for each style; zip: the first with the
        first and so on, where one goes with all; None: every content with a blend of all styles.

    Raises:
      InputError: if the lengths do not fit for zip.
    """
    if how is None:
        return [[(content, tuple(styles)) for content in contents]]
    if how == "product":
        return [[(content, (style,)) for content in contents] for style in styles]
    if 1 != len(contents) != len(styles) != 1:
        raise InputError(
            f"--pairs=zip matches {len(contents)} contents with {len(styles)} styles; give as many "
            "of both, or one of the two alone"
        )
    length = max(len(contents), len(styles))
    contents, styles = (list(x) * (length // len(x)) for x in (contents, styles))
    return [[(content, (style,)) for content, style in zip(contents, styles, strict=True)]]


def name_pictures(runs: Sequence[Sequence[_Pair]], folder: Path) -> list[Picture]:
    """Give every picture a file of its own in the folder.

    It is CONTENT_STYLE.png by the names without suffixes, or CONTENT.png where all pictures have
    the same styles. Files of one name are told apart by their folders, as `labels` does. A name
    that is taken all the same gets -2, -3 and so on, in the order of the pictures.
    """
    one_style = len({styles for run in runs for _, styles in run}) == 1
    content_labels = labels(content for run in runs for content, _ in run)
    style_labels = labels(styles[0] for run in runs for _, styles in run)
    taken: set[str] = set()
    pictures = []
    for number, run in enumerate(runs):
        for content, styles in run:
            stem = content_labels[content] + ("" if one_style else f"_{style_labels[styles[0]]}")
            name, count = stem, 1
            while name.casefold() in taken:
                count += 1
                name = f"{stem}-{count}"
            taken.add(name.casefold())
            pictures.append(Picture(content, styles, folder / f"{name}.png", number))
    return pictures


def labels(paths: Iterable[str]) -> dict[str, str]:
    """Return a name for each file: its own without the suffix, where that tells it from the others.

    Else its folders come before it, as many as it takes: 1-IMG and 2-IMG for cam/1/IMG.png and
    cam/2/IMG.png. Files of one folder and one name keep their suffixes, as in IMG-png and IMG-jpg.
    Upper and lower case are the same.
    """
    files = {path: Path(os.path.abspath(path)) for path in paths}
    chosen: dict[str, str] = {}
    for suffix in (False, True):
        for depth in range(max((len(file.parts) for file in files.values()), default=0)):
            left = {
                path: _label(file, depth, suffix=suffix)
                for path, file in files.items()
                if path not in chosen
            }
            counts = Counter(map(str.casefold, [*left.values(), *chosen.values()]))
            chosen |= {path: name for path, name in left.items() if counts[name.casefold()] == 1}
    return {path: chosen.get(path, file.stem) for path, file in files.items()}


def _label(file: Path, depth: int, *, suffix: bool) -> str:
    folders = file.parts[1:-1]
    name = file.name.replace(".", "-") if suffix else file.stem
    return "-".join([*folders[len(folders) - min(depth, len(folders)) :], name])


def check_folder(folder: Path, inputs: Collection[str]) -> None:
    """Check that a folder can be made or written to, and holds none of the input images.

    Otherwise a picture could take the place of an image, or be painted again as one.

    Raises:
      InputError: if not.
    """
    if folder.suffix.lower() in WRITABLE_SUFFIXES and not folder.is_dir():
        raise InputError(
            f"--output {folder} looks like one picture, but there may be several; name a folder"
        )
    if not folder.is_dir():
        if folder.exists():
            raise InputError(f"--output {folder} is a file; name a folder for the pictures")
        check_writable(folder, what="the folder")
        return
    check_writable(folder / ".nst-jax", what="to the folder of")
    inside = os.path.realpath(folder)
    for path in inputs:
        if os.path.realpath(os.path.dirname(path)) == inside:
            raise InputError(f"--output {folder} holds the input image {path}; name another folder")


def batches(keys: Sequence[Key], most: Callable[[Key], int]) -> list[Batch]:
    """Put pictures with one key together, in batches of one size, and else keep their order.

    Args:
      keys: of each picture, all that a compiled program depends on.
      most: takes a key to the most pictures at once. Where they are fewer or do not come out even,
        the batches are as small as their number allows.
    """
    groups: dict[Key, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    found = []
    for key, members in groups.items():
        count = math.ceil(len(members) / most(key))
        size = math.ceil(len(members) / count)
        found += [Batch(tuple(members[i : i + size]), size) for i in range(0, len(members), size)]
    return sorted(found)  # by their first members
