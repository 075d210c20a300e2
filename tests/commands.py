"""Run a command line in this process."""

from collections.abc import Callable, Sequence


def run(main: Callable[[Sequence[str]], int], flags: Sequence[str]) -> int | str | None:
    """Return the exit code, also where the parser of the flags exits by itself."""
    try:
        return main(flags)
    except SystemExit as exit:
        return exit.code
