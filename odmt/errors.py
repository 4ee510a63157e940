"""The one exception for what a user can mend."""


class InputError(ValueError):
    """A mistake in the input: the message names the place, what is wrong and what to do.

    Command lines print it without a traceback and exit with status 2 (`odmt.cli.run`).
    """
