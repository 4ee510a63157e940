"""Command lines made from functions: one place for help, parsing and the way mistakes are reported."""

import sys
from collections.abc import Callable, Sequence

from jsonargparse import auto_cli

from odmt.errors import InputError


def run(commands: Callable | Sequence[Callable], args: Sequence[str] | None = None):
    """Run one function, or the one of several that the first argument names, with the command line's options.

    Types, defaults and help texts are those of the functions' signatures and docstrings. An `InputError` is printed
    without a traceback and ends the process with status 2, an interrupt with status 130.
    """
    try:
        return auto_cli(commands, args=args, as_positional=False)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
