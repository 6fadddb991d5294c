"""The one exception that means: what was given cannot be used."""


class InputError(ValueError):
    """A mistake in what the user gave: one line that says what is wrong and what to do.

    The command-line programs print the line and exit with code 2; anything else they let through
    as the bug that it is.
    """
