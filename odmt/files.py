"""The one place through which files are read and written: whole or not at all, on the disk, mistakes named with a remedy."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

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
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where a file is needed",
    errno.EFBIG: "larger than this process may write: raise ulimit -f",
    errno.ELOOP: "links that lead in a circle: remove them",
}


def explain(error: OSError, named: bool = False) -> str:
    """What the operating system says, and what to do about it.

    Args:
        error: its error, or one that a library has made of it.
        named: the message says already which file it is.
    """
    said = error.strerror or str(error)
    where = f" ({error.filename})" if error.filename and not named else ""
    in_words = re.search(r"\(os error (\d+)\)", said)  # polars gives the number in words alone
    number = error.errno or (int(in_words[1]) if in_words else None)
    return f"{said}{where}; {REMEDIES.get(number or 0, 'see to it')}"


@contextmanager
def reading(path: Path, remedy: str = "") -> Iterator[None]:
    """Turn what keeps a user's file from being read into an `InputError`.

    Args:
        path: the file, for the message.
        remedy: what to do beside what the operating system's error asks for.
    """
    try:
        yield
    except OSError as error:
        raise InputError(_sentence(path, "cannot be read", explain(error, named=True), remedy)) from error
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 ({error.reason} at byte {error.start}); convert it, e.g. with iconv -t utf-8"
        raise InputError(_sentence(path, "cannot be read", problem, remedy)) from error


@contextmanager
def writing(path: Path, remedy: str = "") -> Iterator[None]:
    """Turn what keeps a file from being written into an `InputError`; arguments as of `reading`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        failure = error if isinstance(error, OSError) else _of_library(error)
        problem = explain(failure, named=True) + (f", {_free(path)}" if failure.errno in (errno.ENOSPC, errno.EDQUOT) else "")
        raise InputError(f"{path}: cannot be written ({problem})" + (f"; {remedy}" if remedy else "")) from error


def read_text(path: Path, remedy: str = "") -> str:
    """Read a text file in UTF-8.

    Raises:
        InputError: it cannot be read, or is no UTF-8.
    """
    with reading(path, remedy):
        return path.read_text(encoding="utf-8")


def parse_json(text: str, place: Path, remedy: str = ""):
    """Parse JSON that was read from a file.

    Raises:
        InputError: it is none, or nested deeper or with longer numbers than Python takes.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = str(error) if text.strip() else "it is empty"
        raise InputError(_sentence(place, "damaged", problem, remedy)) from error


def read_json(path: Path, remedy: str = ""):
    """Read a file of JSON; raises as `read_text` and `parse_json` do."""
    return parse_json(read_text(path, remedy), path, remedy)


@contextmanager
def written_whole(path: Path, remedy: str = "", durable: bool = True) -> Iterator[Path]:
    """Give a temporary name beside a file to write to, and move it in place at the end; after an error the file is as before.

    Args:
        path: the file.
        remedy: as of `reading`.
        durable: have it on the disk when this returns, the folder's entry too, so that no power cut brings back the file of
            before or an empty one.

    Raises:
        InputError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with writing(path, remedy):
            yield partial
            if durable:
                sync(partial)
            os.replace(partial, path)
            if durable:
                sync(path.parent)
    except Exception:
        with suppress(OSError):
            partial.unlink()
        raise


def write_text(path: Path, text: str, remedy: str = ""):
    """Write a text file in UTF-8, its line ends as they are in the text: whole, and on the disk when this returns."""
    with written_whole(path, remedy) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def unfinished_tensors(folder: Path) -> list[Path]:
    """What safetensors leaves in a folder when it is killed: the file that had not got its name."""
    return [path for path in folder.glob(".tmp??????") if path.is_file()]


def move(source: Path, target: Path, remedy: str = ""):
    """Give a whole file the name of another, which it replaces; on the disk when this returns. Arguments and errors as above."""
    with writing(target, remedy):
        os.replace(source, target)
        sync(target.parent)


def sync(path: Path):
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has nothing to bring to a disk
            raise
    finally:
        os.close(handle)


def _of_library(error: SafetensorError) -> OSError:
    """The operating system's error in a message of the safetensors library; another one's message is kept."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def _free(path: Path) -> str:
    above = next(part for part in path.absolute().parents if part.exists())
    return f"{shutil.disk_usage(above).free / 1e9:.2f} GB are free"


def _sentence(path: Path, problem: str, details: str, remedy: str) -> str:
    return f"{path}: {problem}: {details}" + (f"; {remedy}" if remedy else "")
