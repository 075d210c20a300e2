"""Expand paths, folders and patterns to the files that they name."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable

from natsort import natsorted, ns

from nst_jax.errors import InputError
from nst_jax.io.formats import HEIC_SUFFIXES, INSTALL_COMMAND, readable_suffixes


def is_collection(path: str) -> bool:
    """Return whether a path stands for any number of files: a folder or a pattern."""
    return os.path.isdir(path) or _is_pattern(path)


def _is_pattern(path: str) -> bool:
    return any(mark in path for mark in "*?[") and not os.path.exists(path)


def expand(given: Iterable[str], *, role: str, warn: Callable[[str], None]) -> list[str]:
    """Return the files that paths, folders and glob patterns name.

    The files of a folder or a pattern come in natural order (frame2 before frame10), without hidden
    files, and from a folder only those with a readable suffix. The given paths keep their order.

    Args:
      given: paths of files, which need not exist, and of folders; patterns, `**` included.
      role: name of the flag, for messages.
      warn: takes a line on the files of a folder that are passed over.

    Raises:
      InputError: if a folder or a pattern has no file, or a folder cannot be read.
    """
    found: list[str] = []
    for path in given:
        if os.path.isdir(path):
            files, others = _images_in(path, role)
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


def _images_in(folder: str, role: str) -> tuple[list[str], str]:
    """Return the files in a folder with a readable suffix, and a text on the others."""
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
