"""Images from pipes and standard input, and a picture to standard output."""

import contextlib
import dataclasses
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nst_jax.cli.options import JobOptions
from nst_jax.errors import InputError
from nst_jax.io.files import MOST_STREAM, open_input

STANDARD = "-"  # standard input or output, as the name of a file
_BLOCK = 2**20  # bytes
# The options that name images.
_SEVERAL = ("content", "style", "content_mask", "style_mask")
_ONE = ("start_image", "style_strength", "protect")


@contextlib.contextmanager
def lasting_inputs(options: JobOptions) -> Iterator[JobOptions]:
    """Replace standard input and pipes, which can be read only once, by files.

    A shell hands over a pipe for `<(command)`. The files are removed at the end.

    Args:
      options: the options of the command.

    Yields:
      The options with the paths of the files.

    Raises:
      InputError: if a pipe is given twice, or standard input is a terminal.
    """
    given = {name: getattr(options, name) for name in (*_SEVERAL, *_ONE)}
    paths = [*(x for name in _SEVERAL for x in given[name]), *(given[name] for name in _ONE)]
    once = [path for path in paths if path and _is_read_once(path)]
    if not once:
        yield options
        return
    if twice := {path for path in once if once.count(path) > 1}:
        raise InputError(f"{twice.pop()!r} is given twice, but it can be read once; give a file")
    with tempfile.TemporaryDirectory(prefix="nst-jax-") as folder:
        copies = {path: _copied(path, Path(folder)) for path in once}
        lasting: dict[str, Any] = {name: copies.get(given[name], given[name]) for name in _ONE}
        for name in _SEVERAL:
            lasting[name] = [copies.get(path, path) for path in given[name]]
        yield dataclasses.replace(options, **lasting)


def _is_read_once(path: str) -> bool:
    if path == STANDARD:
        return True
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):  # no such file, or no valid path
        return False


def _copied(path: str, folder: Path) -> str:
    copy = folder / ("standard-input" if path == STANDARD else f"pipe-{Path(path).name}")
    if path == STANDARD:
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("standard input is a terminal; pipe an image into it, or give a file")
        source: BinaryIO = sys.stdin.buffer
    else:
        source = _opened(path)
    with source, copy.open("wb") as file:
        while block := source.read(_BLOCK):
            file.write(block)
            if file.tell() > MOST_STREAM:
                raise InputError(
                    f"{path!r} has more than {MOST_STREAM // 2**30} GiB; give an image file"
                )
    return str(copy)


def _opened(path: str) -> BinaryIO:
    try:
        return open_input(path)
    except OSError as error:
        raise InputError(
            f"cannot read {path!r}: {error.strerror}; give a readable image file"
        ) from error


@contextlib.contextmanager
def standard_output(suffix: str) -> Iterator[Path]:
    """Yield a path with this suffix; write the file that the caller saves there to standard output.

    If that fails, the file is kept, and the error names it.

    Raises:
      InputError: if standard output is a terminal.
      OSError: if standard output cannot be written.
    """
    if sys.stdout.isatty():
        raise InputError("standard output is a terminal; send it to a file or a pipe")
    picture = Path(tempfile.mkdtemp(prefix="nst-jax-"), f"standard-output{suffix}")
    try:
        yield picture
    except BaseException:
        shutil.rmtree(picture.parent)
        raise
    if picture.exists():
        try:
            with picture.open("rb") as file, open(sys.stdout.fileno(), "wb", closefd=False) as out:
                shutil.copyfileobj(file, out)
        except OSError as error:
            raise OSError(f"standard output: {error.strerror}; the picture is {picture}") from error
    shutil.rmtree(picture.parent)
