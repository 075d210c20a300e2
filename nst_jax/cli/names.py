"""Pair content images with style images, and name the file of each picture."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from nst_jax.cli.options import JobOptions, Pairs
from nst_jax.errors import InputError
from nst_jax.io.encoding import CODECS, LOSSY
from nst_jax.io.files import check_writable
from nst_jax.io.images import WRITABLE_SUFFIXES

_Pair = tuple[str, tuple[str, ...]]  # a content file and its styles


class PictureFiles(NamedTuple):
    """A picture to paint.

    Attributes:
      content: path of the content image.
      styles: paths of the style images; several are blended.
      output: the file to write.
      run: number of its run of frames, if the pictures are frames.
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
        first and so on, and a single one with all; None: every content with a blend of all styles.

    Raises:
      InputError: if zip gets different numbers of both, neither of them 1.
    """
    if how is None:
        return [[(content, tuple(styles)) for content in contents]]
    if how == "product":
        return [[(content, (style,)) for content in contents] for style in styles]
    if 1 != len(contents) != len(styles) != 1:
        raise InputError(
            f"--pairs=zip has {len(contents)} contents for {len(styles)} styles; give as many of "
            "both, or a single one of either"
        )
    length = max(len(contents), len(styles))
    contents, styles = (list(x) * (length // len(x)) for x in (contents, styles))
    return [[(content, (style,)) for content, style in zip(contents, styles, strict=True)]]


def name_pictures(
    runs: Sequence[Sequence[_Pair]],
    folder: Path,
    *,
    suffix: str = ".png",
    subfolders: Mapping[str, str] = MappingProxyType({}),
) -> list[PictureFiles]:
    """Give every picture a file of its own in the folder.

    The file is CONTENT_STYLE.png, from names without suffixes, or CONTENT.png if all pictures have
    the same styles. `labels` tells files of one name apart by their folders. A name that is still
    taken gets -2, -3 and so on, in the order of the pictures.

    Args:
      runs: from `pair`.
      folder: the folder.
      suffix: of the files.
      subfolders: where in the folder the picture of a content lies, if not in the folder itself.
    """
    one_style = len({styles for run in runs for _, styles in run}) == 1
    groups: dict[str, list[str]] = {}
    for content in dict.fromkeys(content for run in runs for content, _ in run):
        groups.setdefault(subfolders.get(content, ""), []).append(content)
    content_labels = {
        content: os.path.join(group, label)
        for group, contents in groups.items()
        for content, label in labels(contents).items()
    }
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
            pictures.append(PictureFiles(content, styles, folder / f"{name}{suffix}", number))
    return pictures


def labels(paths: Iterable[str]) -> dict[str, str]:
    """Return a label for each file: its name without the suffix, if no other file has this name.

    Otherwise the name follows as many of its folders as needed: 1-IMG and 2-IMG for cam/1/IMG.png
    and cam/2/IMG.png. Files that differ only in their suffixes keep them: IMG-png and IMG-jpg.
    Labels that differ only in case count as equal.
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


def check_suffix(flag: str, path: Path, suffixes: Sequence[str]) -> None:
    """Raise InputError if the file of a flag has none of the suffixes."""
    if path.suffix.lower() not in suffixes:
        allowed = (" or " if len(suffixes) == 2 else ", ").join(suffixes)
        raise InputError(f"{flag} is {str(path)!r}; its name must end in {allowed}")


def check_file(options: JobOptions, suffix: str) -> None:
    """Raise InputError if --quality or --profile has no effect on a file with this suffix."""
    if options.form["profile"] == "input" and options.form["bits"] == 16:
        raise InputError("--profile=input is for 8 bits per color; leave it or --bits=16 out")
    if options.quality and CODECS[suffix.lower()] not in LOSSY:
        raise InputError(
            f"--quality is {options.quality}, but a file {suffix} loses nothing; leave it out, or "
            "write .jpg, .webp or .avif"
        )


def check_apart(flag: str, path: Path, others: Iterable[str | Path]) -> None:
    """Raise InputError if the file of a flag is one of the others."""
    if os.path.realpath(path) in {os.path.realpath(str(other)) for other in others}:
        raise InputError(f"{flag} {path} is the file of another image; name a file of its own")


def check_folder(folder: Path, inputs: Collection[str]) -> None:
    """Check that a folder can be made or written to, and holds none of the input images.

    In a folder of input images a picture could replace an image, or be an input of the next run.

    Raises:
      InputError: if the folder fails a check.
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
