"""The exceptions that are told without a traceback wherever they come from."""


class InputError(ValueError):
    """A mistake in the input: the message names the place, what is wrong and what to do.

    Command lines print it without a traceback and exit with status 2 (`odmt.cli.run`).
    """


class ProcessLostError(RuntimeError):
    """Another process of this run has ended, by an error that it tells itself or by a signal."""


def first_line(error: BaseException) -> str:
    """What an error says, without the lines that only its library's authors read; of one that says nothing its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: the machine's, a GPU's, or what a thread needs; libraries tell it as errors of other kinds."""
    kind = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    signs = ("can't allocate memory", "can't start new thread", "could not spawn threads")
    return kind or any(sign in str(error) for sign in signs)
