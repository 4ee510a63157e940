"""A dataset's folder that gets its name only when everything in it is complete, and what may be replaced by it.

Beside data/NAME there are meanwhile NAME.partial, the new dataset, and NAME.replaced, the old one; a mark in each tells that they
were made here, so that a folder of somebody's own that has such a name is never removed.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from odmt.errors import InputError
from odmt.features.dataset import RECORD, TABLES
from odmt.files import explain

MARK = ".being-prepared"
COMPLETE = ("behaviours.tsv", "train.tsv", "unfinished")  # one of these tells a dataset
PARTS = {*TABLES, RECORD, MARK, "images", "features", "image_urls.tsv", "image_failures.csv", "unfinished", "encoders"}
JUNK = {".DS_Store", "Thumbs.db", "desktop.ini"}  # of file managers


@contextmanager
def new_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a folder to write into that gets its name only when everything in it is complete.

    Args:
        out: the dataset's folder, data/NAME.
        overwrite: replace the dataset that is there, with its images and features.

    Raises:
        InputError: `out` exists and holds something that is not to be replaced; another process prepares it.
    """
    with writing(out):
        # Of a link the folder that it leads to is replaced, not the link.
        folder = Path(out).resolve()
        partial, replaced = (folder.with_name(folder.name + ending) for ending in (".partial", ".replaced"))
        if folder.suffix in (".partial", ".replaced"):
            raise InputError(f"{out}: names that end in {folder.suffix} are kept for datasets in the making; choose another one")
        _bring_back(folder, replaced)
        old = _check(Path(out), folder, overwrite)
        if old and replaced.exists() and not (replaced / MARK).exists():
            raise InputError(f"{replaced}: in the way of --overwrite, and not made by it; move it away")
        _remove_leftover(partial)
        partial.mkdir(parents=True)
        with _marked(partial):
            try:
                yield partial
                if old:
                    (folder / MARK).touch()
                    _remove(replaced)
                    folder.rename(replaced)
                partial.rename(folder)
                (folder / MARK).unlink()
                if old:
                    os.sync()  # all of the new dataset is on the disk before the old one goes
            finally:
                _bring_back(folder, replaced)
                _remove(partial)
                if (replaced / MARK).exists():
                    _remove(replaced)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say which dataset could not be written when the disk, or a raw file, cannot be worked with."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder}: not prepared: {explain(error)}, and start the same command again") from error


def _check(out: Path, folder: Path, overwrite: bool) -> bool:
    """Whether there is an old dataset, which is to be replaced.

    Raises:
        InputError: there is something that is not to be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{out}: a file; --out names the folder of a dataset, data/NAME")
    names = set(os.listdir(folder)) - JUNK - {MARK} if folder.is_dir() else set()
    if not names:
        return folder.is_dir() and bool(os.listdir(folder))
    if not names & set(COMPLETE):
        raise InputError(f"{out}: the folder holds other files already; choose another name")
    if not overwrite:
        raise InputError(f"{out}: the folder holds a dataset already; remove it, choose another name, or pass --overwrite")
    if foreign := sorted(names - PARTS):
        raise InputError(
            f"{out}: beside the dataset the folder holds {foreign[0]!r}, which --overwrite would remove though nothing here made "
            "it; move it away"
        )
    return True


def _bring_back(folder: Path, replaced: Path):
    """Give the old dataset its name again, which a kill has left without its successor."""
    if not folder.exists() and any((replaced / name).exists() for name in COMPLETE):
        replaced.rename(folder)
        (folder / MARK).unlink(missing_ok=True)


def _remove_leftover(partial: Path):
    """Remove what a killed run has left, and nothing else."""
    if not partial.exists():
        return
    mark = partial / MARK
    if not mark.exists():
        if partial.is_dir() and set(os.listdir(partial)) <= PARTS - {RECORD}:
            return _remove(partial)
        raise InputError(f"{partial}: in the way, and not made by a command that was killed; move it away")
    with mark.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{partial}: another process is preparing this dataset; wait for it, or choose another name") from None
        _remove(partial)


@contextmanager
def _marked(folder: Path) -> Iterator[None]:
    """Keep a mark in a folder, locked as long as this process works on it."""
    with (folder / MARK).open("w") as handle:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _remove(folder: Path):
    """Remove a folder, its mark last, so that what a kill leaves of it is still known as what it is."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name != MARK:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
