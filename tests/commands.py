"""Run a command line in this process."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def run(main: Callable[[Sequence[str]], int], flags: Sequence[str]) -> int | str | None:
    """Return the exit code, also where the parser of the flags exits by itself."""
    try:
        return main(flags)
    except SystemExit as exit:
        return exit.code


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail where the block takes longer: a test of what could hang must not hang."""

    def late(*_: object) -> None:
        raise AssertionError(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(main: Callable[[Sequence[str]], int], flags: Sequence[str], capfd: Any) -> int:
    """Run a command line, and check that it succeeds, or ends in one line with exit code 2."""
    capfd.readouterr()
    with within(60):
        code = run(main, flags)
    errors = capfd.readouterr().err
    assert code in (0, 2), (flags, errors)
    assert "Traceback" not in errors
    if code:
        own = [line for line in errors.splitlines() if line.startswith("nst-jax: ")]
        # Warnings may come before it, and libtiff, a library of Pillow's, has lines of its own.
        assert [line for line in own if "error: " in line] == own[-1:], (flags, errors)
        assert errors.splitlines()[-1] == own[-1], (flags, errors)
    return code
