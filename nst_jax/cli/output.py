"""Output that ends no job: neither its loss (a closed pipe, a full disk) nor its encoding."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from rich.console import Console

from nst_jax.distributed.collectives import is_first

PROGRAM = "nst-jax"
# As of a program that SIGPIPE has ended.
EXIT_OUTPUT_LOST = 141


class _Lasting:
    """A stream that takes everything; what the one below cannot take any more is dropped.

    Attributes:
      lost: what the stream below has failed with.
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
    """Let the process's output be lost inside without an error.

    Yields:
      A function that says why standard output was lost; None: it was not.
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
    """Return a console for lines of any length; `COLUMNS=0` is no width."""
    width = None if os.environ.get("COLUMNS") != "0" else 80
    return Console(
        quiet=quiet, stderr=stderr, markup=markup, highlight=False, soft_wrap=True, width=width
    )


def warn(message: str) -> None:
    """Print one line on standard error."""
    print(f"{PROGRAM}: {message}", file=sys.stderr)


def warn_from_first(message: str) -> None:
    """Print one line on standard error, of several processes in the first one alone."""
    if is_first():
        warn(message)
