"""What is painted with what, and the file that each picture becomes."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from nst_jax.cli.options import Pairs
from nst_jax.errors import InputError
from nst_jax.io.files import check_writable
from nst_jax.io.images import WRITABLE_SUFFIXES

_Pair = tuple[str, tuple[str, ...]]  # a content file and its styles


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
