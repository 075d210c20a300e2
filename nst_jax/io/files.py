"""Write files completely or not at all, and check beforehand that a path can be written."""

import contextlib
import errno
import json
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO, TypeVar

from nst_jax.errors import InputError

_TEMPORARY = ".nst-jax-"
# Seconds within which a program must open a named pipe for writing.
PIPE_TIMEOUT = 60.0
MOST_STREAM = 2**31  # bytes of what has no size before it is read, as a pipe
T = TypeVar("T")


def within(seconds: float, action: Callable[[], T]) -> T:
    """Return what an action returns; a thread does it, and is left alone if it takes too long.

    Raises:
      TimeoutError: if it takes longer.
    """
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(action())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return answer.result(seconds)


def open_input(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file, or a named pipe, to read its bytes.

    Raises:
      OSError: if it cannot be opened; a TimeoutError if no program opens the pipe within
        `PIPE_TIMEOUT`.
    """
    if not stat.S_ISFIFO(os.stat(path).st_mode):
        return open(path, "rb")
    try:
        return within(PIPE_TIMEOUT, lambda: open(path, "rb"))
    except TimeoutError:
        text = f"no program has written to this pipe within {PIPE_TIMEOUT:g} s"
        raise TimeoutError(errno.ETIMEDOUT, text) from None


def read_text(path: str | os.PathLike[str], *, most: int) -> str:
    """Return the text, in UTF-8, of a file with at most so many bytes.

    Raises:
      OSError: see `open_input`; or if there are more bytes, as devices have.
      ValueError: if it is no text.
    """
    with open_input(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes")
    return data.decode()


def is_private(found: os.stat_result) -> bool:
    """Return whether this user, and nobody else, can change a file or a folder."""
    own = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    return own and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _temporary(target: Path) -> Path:
    # Random, so that two runs never share one; hidden, in case a killed run leaves it behind.
    return target.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}{target.suffix}")


def is_temporary(path: Path) -> bool:
    """Return whether a file is one that `atomic_write` was writing, or a killed run has left."""
    return path.name.startswith(_TEMPORARY)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path for the caller to write, then move the file onto `path` in one step.

    A reader of `path` finds the old file or the complete new one. The temporary path does not
    exist yet, lies in the same folder and has the same suffix. If the caller's block raises,
    KeyboardInterrupt included, the temporary file is removed and `path` stays as it was. A link is
    followed: the file it points to is replaced, not the link.

    The writer creates the file, so it has the permissions of any new file (the umask applies).
    """
    target = Path(os.path.realpath(path))
    temporary = _temporary(target)
    try:
        yield temporary
        with open(temporary, "rb+") as file:  # on the disk before the old file is gone
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: object) -> None:
    """Write a value as JSON, in one step; ValueError for numbers that JSON cannot express."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def check_writable(path: str | os.PathLike[str], *, what: str) -> None:
    """Raise an InputError if `path` cannot be written; `what` names it in the message.

    Call it before hours of work. A temporary file is created next to `path` and removed again, as
    no other check is reliable on read-only and network file systems.
    """
    name = f"{what} {os.fspath(path)!r}"
    if not os.fspath(path):
        raise InputError(f"cannot write {name}: the path is empty; give the name of a file")
    try:
        target = Path(os.path.realpath(path))
        folder = target.parent
        if folder.exists() and not folder.is_dir():
            raise InputError(f"cannot write {name}: {str(folder)!r} is a file, not a folder")
        if not folder.exists():
            raise InputError(f"cannot write {name}: create the folder {str(folder)!r} first")
        with contextlib.suppress(FileNotFoundError):
            mode = target.stat().st_mode
            if stat.S_ISDIR(mode):
                raise InputError(f"cannot write {name}: it is a folder; name a file in it")
            if not stat.S_ISREG(mode):  # replacing /dev/null by a file would be a disaster
                raise InputError(f"cannot write {name}: it is a device; name an ordinary file")
            if not os.access(target, os.W_OK):
                raise InputError(f"cannot write {name}: the file is read-only; choose another name")
        probe = _temporary(target)
        try:
            probe.touch(exist_ok=False)
        finally:
            probe.unlink(missing_ok=True)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {name}: {reason}; choose another place") from error
