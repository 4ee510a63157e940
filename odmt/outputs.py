"""What a command writes to the place that it is told: what no such command has made is never replaced or removed."""

import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from odmt.errors import InputError
from odmt.files import reading, unfinished_tensors, writing

GENERATOR = '<meta name="generator" content="odmt">'  # by which a page is known
PAGES = (".html", ".htm")


def check_file(path: Path, suffixes: Collection[str], is_own: Callable[[Path], bool]):
    """Refuse a file that is not to be written, before anything is worked out.

    Args:
        path: of the file.
        suffixes: endings that there are.
        is_own: whether what is there was made here, and may be replaced.

    Raises:
        InputError: another ending; a folder that is not there; a file that was not made here.
    """
    if path.suffix not in suffixes:
        raise InputError(f"{path}: unknown ending {path.suffix!r}; take one of {', '.join(suffixes)}")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path}: {'is a folder' if path.is_dir() else f'there is no folder {path.parent}'}; name a file in one")
    if path.exists() and not is_own(path):
        raise InputError(f"{path}: not made by this command, at least not of this version; name another file, or move it away")


def check_page(path: Path):
    """Refuse a page that is not to be written; raises as `check_file`."""
    check_file(path, PAGES, is_page)


def is_page(path: Path) -> bool:
    """Whether a file is a page that was made here, or an empty one."""
    with reading(path), path.open("rb") as file:
        head = file.read(1000)
    return not head or GENERATOR.encode() in head


@contextmanager
def whole_folder(folder: Path, parts: Collection[str]) -> Iterator[Path]:
    """Give a folder to write some files into that gets its name when all are in it; one that holds just these is replaced.

    Raises:
        InputError: it holds anything else, or cannot be written.
    """
    folder = folder.resolve() if folder.name in ("", "..") else folder
    partial, replaced = (folder.with_name(folder.name + ending) for ending in (".partial", ".replaced"))
    with writing(folder):
        if not folder.exists() and replaced.is_dir():
            _refuse_foreign(replaced, parts)
            replaced.rename(folder)  # which a kill has left without its successor
        if folder.exists():
            _refuse_foreign(folder, parts)
            if lacking := set(parts) - set(os.listdir(folder)) if any(folder.iterdir()) else ():
                raise InputError(f"{folder}: {_foreign(min(lacking), 'has no')}")
        for leftover in (partial, replaced):
            if leftover.exists():
                unfinished = [path.name for path in unfinished_tensors(leftover)]
                _refuse_foreign(leftover, (*parts, *(f"{part}.partial" for part in parts), *unfinished))
                shutil.rmtree(leftover)
        try:
            partial.mkdir(parents=True)
            yield partial
            if folder.exists():
                folder.rename(replaced)
            partial.rename(folder)
        finally:
            if not folder.exists() and replaced.exists():
                replaced.rename(folder)
            for leftover in (partial, replaced):
                shutil.rmtree(leftover, ignore_errors=True)


def _refuse_foreign(folder: Path, parts: Collection[str]):
    if not folder.is_dir():
        raise InputError(f"{folder}: a file; name a folder that is new, or one that this command has made")
    if foreign := sorted(set(os.listdir(folder)) - set(parts)):
        raise InputError(f"{folder}: {_foreign(foreign[0], 'holds')}")


def _foreign(name: str, how: str) -> str:
    return f"{how} {name}, so this command has not made it; name a folder that is new, or one that this command has made"
