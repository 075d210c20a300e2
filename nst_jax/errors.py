"""The exception for input that cannot be used."""


class InputError(ValueError):
    """A mistake in what the caller gave: a file, a name, a number, a shape.

    Its message is one line (a list of faults may follow) that says what was given, what is allowed
    and what to do. The command line prints it as it is and exits with code 2.
    """
