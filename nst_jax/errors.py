"""The exception for input that cannot be used."""

import importlib
from typing import Any, get_args


class InputError(ValueError):
    """A mistake in what the caller gave: a file, a name, a number, a shape.

    Its message is one line (a list of faults may follow) that says what was given, what is allowed
    and what to do. The command line prints it, with flags for the names of settings, and exits with
    code 2.
    """


def check_installed(flag: str, *modules: str, extra: str) -> None:
    """Raise InputError if a module that a flag needs is missing; an extra installs it."""
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{flag} needs {error.name}, which is missing: pip install '.[{extra}]'"
        ) from None


def check_choice(name: str, value: object, allowed: Any) -> None:
    """Raise InputError if `value` is not one of a `Literal`'s; the message lists them all."""
    if fault := choice_fault(value, allowed):
        raise InputError(name + fault)


def choice_fault(value: object, allowed: Any) -> str:
    """Return what follows the name in the message of `check_choice`; "" for an allowed value."""
    choices = get_args(allowed)
    if isinstance(value, str) and value in choices:
        return ""
    return f" is {value!r}; allowed are {', '.join(choices)}"
