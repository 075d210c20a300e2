"""Output that never ends a job: not if a pipe is closed, a disk full, or a character lacking."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TextIO, cast

from rich.console import Console

from nst_jax.distributed.collectives import is_first

PROGRAM = "nst-jax"
# The code of a program that SIGPIPE has ended.
EXIT_OUTPUT_LOST = 141


class _Lasting:
    """A stream that takes every text, and drops it once the stream below has failed.

    Attributes:
      lost: the error with which the stream below has failed.
    """

    def __init__(self, below: Any):
        self._below = below
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)

    def write(self, text: str) -> int:
        """Write a text; characters that the encoding lacks are written as Python escapes them."""
        encoding = self._below.encoding or "utf-8"
        shown = text.encode(encoding, "backslashreplace").decode(encoding)
        self._try(lambda: self._below.write(shown))
        return len(text)

    def flush(self) -> None:
        """Flush the stream below."""
        self._try(self._below.flush)

    def _try(self, action: Callable[[], object]) -> None:
        if self.lost:
            return
        try:
            action()
        except OSError as error:
            self.lost = error


@contextlib.contextmanager
def lasting_output() -> Iterator[Callable[[], OSError | None]]:
    """Ignore the loss of standard output and standard error inside.

    Yields:
      A function that returns the error by which standard output was lost, or None.
    """
    before = sys.stdout, sys.stderr
    out, err = map(_Lasting, before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)

    def lost() -> OSError | None:
        out.flush()
        return out.lost

    try:
        yield lost
    finally:
        sys.stdout, sys.stderr = before


def make_console(*, quiet: bool = False, stderr: bool = False, markup: bool = True) -> Console:
    """Return a console for lines of any length; it reads `COLUMNS=0` as 80."""
    width = None if os.environ.get("COLUMNS") != "0" else 80
    return Console(
        quiet=quiet, stderr=stderr, markup=markup, highlight=False, soft_wrap=True, width=width
    )


_hears: ContextVar[Callable[[str], None] | None] = ContextVar("hears", default=None)


@contextlib.contextmanager
def heard(by: Callable[[str], None]) -> Iterator[None]:
    """Let `by` take every warning of this thread, too."""
    token = _hears.set(by)
    try:
        yield
    finally:
        _hears.reset(token)


def warn(message: str) -> None:
    """Print one line on standard error."""
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    if hears := _hears.get():
        hears(message)


def warn_from_first(message: str) -> None:
    """Print one line on standard error, in the first process only."""
    if is_first():
        warn(message)
