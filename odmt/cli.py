"""Command lines made from functions: one place for help, parsing and the way mistakes are reported."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, auto_cli
from polars.exceptions import PanicException

from odmt import remedies
from odmt.cores import rank_and_size
from odmt.errors import InputError, ProcessLostError, first_line, is_of_memory
from odmt.files import explain

MAIN_SECONDS = 20  # in which the main process of several has told a mistake that all have met


class _Help(DefaultHelpFormatter):
    """Help in which a path is called one, as other types are called by their names."""

    def _get_type_str(self, action):
        return "Path" if Path in (action.type, getattr(action, "_typehint", None)) else super()._get_type_str(action)


class OptionParser(ArgumentParser):
    """Options as they are usually typed: dashes between words, switches that take no value, lists as several values."""

    def __init__(self, *args, formatter_class=_Help, **settings):
        super().__init__(*args, formatter_class=formatter_class, **settings)

    def add_argument(self, *names, **settings):
        """Add an option as `ArgumentParser.add_argument` does."""
        if settings.get("type") is bool and settings.get("default") is False:
            settings = {key: value for key, value in settings.items() if key != "type"} | {"action": "store_true"}
        listed = getattr(settings.get("action"), "_typehint", None)  # where jsonargparse puts the types that are no scalars
        if get_origin(listed) is list:
            kept = {key: value for key, value in settings.items() if key in ("help", "default", "required")}
            names, settings = names[:1], {**kept, "type": get_args(listed)[0], "nargs": "+"}
        if names and isinstance(names[0], str) and "_" in names[0] and names[0] != "--print_config":
            settings["dest"] = names[0].removeprefix("--")
            names = (names[0].replace("_", "-"), *names[1:])
        return super().add_argument(*names, **settings)

    def error(self, message: str, ex: Exception | None = None):
        """End the process with a message that names options as they are typed."""
        head, required, names = message.partition("the following arguments are required: ")
        options = ", ".join("--" + name.rpartition(".")[2].replace("_", "-") for name in names.split(", "))
        super().error(head + required + options if required else message, ex)


def run(
    commands: Callable | Sequence[Callable] | Mapping[str, Callable], args: Sequence[str] | None = None, positional: bool = False
):
    """Run one function, or the one of several that the first argument names, with the command line's options.

    Types, defaults and help texts are those of the functions' signatures and docstrings. With `positional`, what has no default is
    given without its name.
    """
    with report_mistakes(), _explained():
        components: Any = commands  # jsonargparse annotates fewer kinds than it takes
        return auto_cli(components, args=None if args is None else list(args), as_positional=positional, parser_class=OptionParser)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what the operating system refuses a command into a mistake with a remedy, wherever it was not expected."""
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise InputError(explain(error)) from error


@contextmanager
def report_mistakes(*failures: type[Exception], interrupted: str = "interrupted") -> Iterator[None]:
    """End the process without a traceback: status 2 for an `InputError`, 130 for an interrupt, 1 for the named failures.

    Within it remedies are flags, since a command was typed.

    Args:
        failures: exceptions whose text is all that a user wants to read.
        interrupted: what to say after an interrupt.
    """
    try:
        with remedies.by_command():
            yield
    except InputError as error:
        _leave(f"error: {error}", 2)
    except KeyboardInterrupt:
        _leave(interrupted, 130)
    except failures as error:
        _leave(f"failed: {error}", 1)
    except ProcessLostError as error:
        _leave(f"failed: {error}", 1, lost=True)
    except (MemoryError, RuntimeError, PanicException) as error:
        if not is_of_memory(error):
            raise
        said = first_line(error)
        _leave(f"error: not enough memory ({said}); end other programs, or take a machine with more", 2)


def _leave(message: str, status: int, lost: bool = False):
    # The main process says the same, once for all, as whoever started them says which was lost; the others are then ended.
    rank, size = rank_and_size()
    if rank > 0 or (lost and size > 1):
        time.sleep(MAIN_SECONDS)
    print(message, file=sys.stderr)
    sys.exit(status)
