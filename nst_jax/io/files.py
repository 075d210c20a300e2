"""Write files completely or not at all, and check beforehand that a path can be written."""

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from nst_jax.errors import InputError

_TEMPORARY = ".nst-jax-"


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
