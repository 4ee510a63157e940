"""What to do about a run that was refused or cut short, in the words of who started it: a command's flags, `train`'s keywords."""

from collections.abc import Iterator
from contextlib import contextmanager

_by_command = False


@contextmanager
def by_command() -> Iterator[None]:
    """Speak of flags within: a command line was typed."""
    global _by_command
    before, _by_command = _by_command, True
    try:
        yield
    finally:
        _by_command = before


def resume() -> str:
    """What continues a run."""
    return _switch("resume")


def overwrite() -> str:
    """What replaces a run."""
    return _switch("overwrite")


def go_on() -> str:
    """What to do when a run was cut short."""
    return f"with {resume()} the same {'command' if _by_command else 'call'} goes on"


def train_anew() -> str:
    """What to do about a damaged checkpoint, or another model's."""
    return f"train the run anew with {overwrite()}"


def test_anew() -> str:
    """What to do about a damaged result."""
    return f"remove it, and {resume()} tests the run again"


def processes(number: str) -> str:
    """What starts as many processes again; empty where no command was typed."""
    if not _by_command:
        return ""
    return " (without --processes)" if number == "1" else f" (--processes {number}, or torchrun on several machines)"


def _switch(name: str) -> str:
    return f"--{name}" if _by_command else f"{name}=True"
