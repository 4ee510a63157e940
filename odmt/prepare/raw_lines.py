"""Raw tables of any size, plain or gzipped, read in blocks of whole lines; a line that cannot be read is named."""

import codecs
import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
from tqdm import tqdm

from odmt.errors import InputError
from odmt.prefetch import one_ahead

BLOCK_BYTES = 16 << 20
CHUNK_BYTES = 1 << 18  # that a gzip file is asked for at once
BROKEN_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


class RawLines:
    """The lines of a raw file, turned into tables block by block.

    Args:
        path: a text file, a row a line; gzip is recognised by its content.
        skip_bad_lines: how many lines that cannot be read are left out before the file is refused; they are counted in `bad_lines`.
    """

    def __init__(self, path: Path, skip_bad_lines: int = 0):
        self.path = Path(path)
        self.skip_bad_lines = skip_bad_lines
        self.bad_lines: list[str] = []
        self.ends_early: str | None = None
        if not self.path.is_file():
            raise InputError(f"{path}: no such file; data/README.md tells where the raw files come from")

    def head(self, num_lines: int = 1) -> list[str]:
        """The first lines, or fewer of a shorter file, without their ends and without a byte order mark."""
        try:
            with _open(self.path) as file:
                lines = [line for _ in range(num_lines) if (line := file.readline())]
        except BROKEN_GZIP as error:
            raise InputError(f"{self.path}, line 1: the gzip file is broken ({error}); download it again") from error
        if not lines:
            raise InputError(f"{self.path}: the file is empty; make it or download it again")
        if b"\0" in lines[0]:
            raise InputError(f"{self.path}, line 1: not UTF-8 but perhaps UTF-16; convert the file, e.g. with iconv -t utf-8")
        return [line.decode("utf-8", "replace").rstrip("\r\n").removeprefix("\ufeff") for line in lines]

    def tables(
        self, parse: Callable[[bytes, int], pl.DataFrame], header: bool = False, optional: Sequence[str] = ()
    ) -> Iterator[pl.DataFrame]:
        """Yield what `parse` makes of one block of whole lines after the other.

        A line is bad when `parse` raises or leaves a null or an empty text in a column that is not optional; it is found by
        halving the block.

        Args:
            parse: turns bytes and the number of their lines into a table with a row for every line.
            header: the first line holds names and is not given to `parse`.
            optional: columns that may be null.
        """
        yield from one_ahead(self._tables(parse, header, optional))

    def _tables(self, parse, header: bool, optional: Sequence[str]) -> Iterator[pl.DataFrame]:
        first, empty = 2 if header else 1, True
        for block in one_ahead(self._blocks(header)):
            block = block.removeprefix(codecs.BOM_UTF8) if first == 1 else block
            num_lines = _num_lines(block)
            for table in self._parse(parse, block, num_lines, first, optional):
                empty = False
                yield table
            first += num_lines
        if self.ends_early:
            self._reject(f"line {first}: the gzip file is broken or ends early ({self.ends_early})")
        if empty:
            raise InputError(f"{self.path}: no row that can be read; is it the right file?")
        if self.bad_lines:
            print(f"{self.path}: {len(self.bad_lines)} bad lines left out, the first: {self.bad_lines[0]}")

    def _parse(self, parse, block: bytes, num_lines: int, first: int, optional: Sequence[str]) -> Iterator[pl.DataFrame]:
        try:
            table = parse(block, num_lines)
            problem = _incomplete(table, optional) or (f"{len(table)} rows, expected one" if len(table) != num_lines else None)
        except pl.exceptions.SchemaError:
            problem = "another number of columns than expected"
        except (pl.exceptions.PolarsError, csv.Error, InputError) as error:
            problem = str(error).splitlines()[0]
        if not problem:
            yield table
        elif num_lines > 1:
            middle = block.find(b"\n", len(block) // 2)
            middle = middle if 0 <= middle < len(block) - 1 else block.rfind(b"\n", 0, len(block) - 1)
            upper, lower = block[: middle + 1], block[middle + 1 :]
            num_upper = _num_lines(upper)
            yield from self._parse(parse, upper, num_upper, first, optional)
            yield from self._parse(parse, lower, num_lines - num_upper, first + num_upper, optional)
        elif block.strip():
            self._reject(f"line {first}: {problem}: {block[:80].decode(errors='replace').strip()!r}")

    def _reject(self, complaint: str):
        self.bad_lines.append(complaint)
        if len(self.bad_lines) > self.skip_bad_lines:
            raise InputError(
                f"{self.path}, {complaint}; mend the file, download it again, or let --skip-bad-lines "
                f"{len(self.bad_lines)} or more leave such lines out"
            )

    def _blocks(self, header: bool) -> Iterator[bytes]:
        with (
            _open(self.path) as file,
            tqdm(total=self.path.stat().st_size, unit="B", unit_scale=True, desc=self.path.name, delay=2) as bar,
        ):
            compressed = getattr(file, "fileobj", file)
            if header:
                file.readline()
            read = self._read_gzip if isinstance(file, gzip.GzipFile) else lambda file: file.read(BLOCK_BYTES) + file.readline()
            while not self.ends_early and (block := read(file)):
                yield block
                bar.update(compressed.tell() - bar.n)

    def _read_gzip(self, file: gzip.GzipFile) -> bytes:
        """A block of whole lines, of a broken file what can still be had."""
        chunks, size = [], 0
        try:
            while size < BLOCK_BYTES and (chunk := file.read1(CHUNK_BYTES)):
                chunks.append(chunk)
                size += len(chunk)
            chunks.append(file.readline())
        except BROKEN_GZIP as error:
            self.ends_early = str(error)
            whole, newline, _ = b"".join(chunks).rpartition(b"\n")
            return whole + newline
        return b"".join(chunks)


def decoded_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a small UTF-8 file, gzipped or not, with their ends."""
    number = 0
    try:
        with _open(Path(path)) as file:
            for number, line in enumerate(file, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}, line {number}: not UTF-8; convert the file, e.g. with iconv -t utf-8") from None
    except BROKEN_GZIP as error:
        raise InputError(f"{path}, line {number + 1}: the gzip file is broken ({error}); download it again") from error


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if gzipped else path.open("rb")


def _incomplete(table: pl.DataFrame, optional: Sequence[str]) -> str | None:
    for column in table.get_columns():
        empty = column.dtype == pl.String and (column == "").any()
        if column.name not in optional and (column.null_count() or empty):
            return f"no valid {column.name}"
    return None


def _num_lines(block: bytes) -> int:
    return count(block, "\n") + (not block.endswith(b"\n"))


def count(block: bytes, character: str) -> int:
    """How often a character occurs; NumPy counts twice as fast as `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord(character)))
