"""Opening raw files, compressed or not, and saying in one sentence what keeps one from being read."""

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase, BufferedReader
from pathlib import Path

from odmt.errors import InputError
from odmt.files import reading

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

READERS: dict[bytes, Callable[[BufferedReader], BufferedIOBase]] = {
    b"\x1f\x8b": gzip.open,
    b"\x28\xb5\x2f\xfd": zstd.ZstdFile,
}  # by the bytes that a file begins with
BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError)
ARCHIVES = {b"PK\x03\x04": "a ZIP archive or a spreadsheet", b"BZh": "a bzip2 file", b"\xfd7zXZ": "an xz file"}
COMPRESSED = (".gz", ".zst")


def suffix(path: Path) -> str:
    """The suffix that tells a table's format: in small letters, without that of a compression."""
    path = Path(path)
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()


@contextmanager
def opened(path: Path) -> Iterator[tuple[BufferedIOBase, BufferedReader]]:
    """Open a file, gzipped or compressed by Zstandard or neither, as its first bytes tell.

    Yields:
        the file to read from, and the one below, whose position tells how far reading is.

    Raises:
        InputError: it cannot be opened or read.
    """
    path = Path(path)
    with _reading(path):
        if not path.is_file():
            what = "not a regular file" if path.exists() else "no such file"
            raise InputError(f"{path}: {what}; data/README.md tells where the raw files come from")
        with path.open("rb") as below:
            start = below.read(6)
            below.seek(0)
            for mark, what in ARCHIVES.items():
                if start.startswith(mark):
                    raise InputError(f"{path}: {what}; unpack it, or save the table as CSV")
            reader = next((reader for mark, reader in READERS.items() if start.startswith(mark)), None)
            if reader is None:
                yield below, below
            else:
                with reader(below) as file:
                    yield file, below


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """As `odmt.files.reading`; but what a broken compression raises, an `OSError` too, passes through."""
    broken = None
    with reading(path):
        try:
            yield
        except BROKEN as error:
            broken = error
    if broken:
        raise broken
