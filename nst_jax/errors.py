"""The exception for input that cannot be used."""

from typing import Any, get_args


class InputError(ValueError):
    """A mistake in what the caller gave: a file, a name, a number, a shape.

    Its message is one line (a list of faults may follow) that says what was given, what is allowed
    and what to do. The command line prints it, with flags for the names of settings, and exits with
    code 2.
    """


def check_choice(name: str, value: object, allowed: Any) -> None:
    """Raise InputError if `value` is not one of a `Literal`'s; the message lists them all."""
    if value not in get_args(allowed):
        choices = ", ".join(map(str, get_args(allowed)))
        raise InputError(f"{name} is {value!r}; allowed are {choices}")
