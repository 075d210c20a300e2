"""Expand paths, folders and patterns to the files that they name."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from natsort import natsorted, ns

from nst_jax.errors import InputError
from nst_jax.io.formats import HEIC_SUFFIXES, INSTALL_COMMAND, readable_suffixes


def is_collection(path: str) -> bool:
    """Return whether a path stands for any number of files: a folder or a pattern."""
    return os.path.isdir(path) or _is_pattern(path)


def _is_pattern(path: str) -> bool:
    return any(mark in path for mark in "*?[") and not os.path.exists(path)


def expand(
    given: Iterable[str],
    *,
    role: str,
    warn: Callable[[str], None],
    deep: bool = False,
    without: Path | None = None,
) -> list[str]:
    """Return the files that paths, folders and glob patterns name.

    The files of a folder or a pattern come in natural order (frame2 before frame10), without hidden
    files, and from a folder only those with a readable suffix. The given paths keep their order.

    Args:
      given: paths of files, which need not exist, and of folders; patterns, `**` included.
      role: name of the flag, for messages.
      warn: takes a line on the files of a folder that are passed over.
      deep: whether a folder stands for the files in its subfolders too.
      without: a subfolder that is left out.

    Raises:
      InputError: if a folder or a pattern has no file, or a folder cannot be read.
    """
    found: list[str] = []
    for path in given:
        if os.path.isdir(path):
            files, others = _images_in(path, role, deep=deep, without=without)
            what = f"the folder {path!r} has no image file"
            if others and files:
                warn(f"--{role}: passed over in the folder {path!r}: {others}")
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


def subfolders(files: Iterable[str], given: Iterable[str]) -> dict[str, str]:
    """Return where in a given folder each file lies, of those that lie in a subfolder of one."""
    folders = [path for path in given if os.path.isdir(path)]
    found = {}
    for file in files:
        for folder in folders:
            inside = os.path.dirname(os.path.relpath(file, folder))
            if inside.split(os.sep)[0] not in ("", os.pardir):
                found[file] = inside
                break
    return found


def _images_in(
    folder: str, role: str, *, deep: bool, without: Path | None
) -> tuple[list[str], str]:
    """Return the files in a folder with a readable suffix, and a text on the others."""
    try:
        paths = [path for path in _walk(folder, deep, without) if os.path.isfile(path)]
    except OSError as error:
        raise InputError(
            f"--{role}: cannot read the folder {error.filename!r}: {error.strerror}"
        ) from error
    suffix_of = {path: os.path.splitext(path)[1].lower() for path in paths}
    readable = readable_suffixes(suffix_of.values())
    files = [path for path in paths if suffix_of[path] in readable]
    counts = Counter(suffix for suffix in suffix_of.values() if suffix not in readable)
    others = ", ".join(
        f"{count} {suffix or 'without a suffix'}" for suffix, count in counts.items()
    )
    if counts.keys() & set(HEIC_SUFFIXES):
        others += f" (HEIC takes pillow-heif: {INSTALL_COMMAND})"
    return files, others


def _walk(folder: str, deep: bool, without: Path | None) -> Iterator[str]:
    """Yield the paths in a folder, but none that are hidden.

    Raises:
      OSError: if a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    left_out = without and os.path.realpath(without)
    for parent, folders, names in os.walk(folder, onerror=fail):
        yield from (os.path.join(parent, name) for name in names if not name.startswith("."))
        folders[:] = [
            name
            for name in folders
            if deep and name[0] != "." and os.path.realpath(os.path.join(parent, name)) != left_out
        ]
