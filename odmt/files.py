"""Files that appear whole or not at all, and what to say when one cannot be read or written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from odmt.errors import InputError

REMEDIES = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the quota is used up: make room",
    errno.EROFS: "the place is read only: name another one",
    errno.EACCES: "no permission: change it, or name another place",
    errno.EPERM: "no permission: change it, or name another place",
    errno.EMFILE: "too many files are open: raise ulimit -n",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENAMETOOLONG: "the name is too long: shorten it",
    errno.ENOENT: "it is not there, or was removed meanwhile",
    errno.EFBIG: "larger than this process may write: raise ulimit -f",
}


def explain(error: OSError) -> str:
    """What the operating system says, and what to do about it."""
    said = error.strerror or str(error)
    where = f" ({error.filename})" if error.filename else ""
    return f"{said}{where}; {REMEDIES[error.errno]}" if error.errno in REMEDIES else f"{said}{where}; see to it"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what keeps a user's file from being read into an `InputError` that names it."""
    try:
        yield
    except OSError as error:
        error.filename = None  # the path says it
        raise InputError(f"{path}: cannot be read: {explain(error)}") from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside a file to write to, and move it in place at the end; after an error the file is as before."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    except Exception:
        with suppress(OSError):
            partial.unlink()
        raise


def write_text(path: Path, text: str):
    """Write a text file in UTF-8, its line ends as they are in the text."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")
