"""Raw tables of any size, plain or compressed, read in blocks of whole lines; a line that cannot be read is named."""

import codecs
import csv
from collections.abc import Callable, Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import polars as pl
from tqdm import tqdm

from odmt.errors import InputError, first_line
from odmt.prefetch import prefetch
from odmt.prepare.quoted_lines import join_lines
from odmt.prepare.raw_files import BROKEN, opened

BLOCK_BYTES = 16 << 20
CHUNK_BYTES = 1 << 18  # that a compressed file is asked for at once
Parse = Callable[[bytes, int], pl.DataFrame]


class RawLines:
    """The lines of a raw file, turned into tables block by block.

    Args:
        path: a text file, a row a line; gzip and Zstandard are recognised by their content.
        skip_bad_lines: how many lines that cannot be read are left out before the file is refused; they are counted in `bad_lines`.
        columns: of a CSV file, whose quoted values may hold line breaks: how many columns it has, and what stands between them.
    """

    unit = "line"  # what is numbered in messages

    def __init__(self, path: Path, skip_bad_lines: int = 0, columns: tuple[int, str] | None = None):
        self.path = Path(path)
        self.skip_bad_lines = skip_bad_lines
        self.columns = columns
        self.bad_lines: list[str] = []
        self.ends_early: str | None = None
        self._numbers: np.ndarray | None = None  # of the raw lines of a block's rows, where rows go over several

    def head(self, num_lines: int = 1) -> list[str]:
        """The first lines, or fewer of a shorter file, without their ends and without a byte order mark."""
        with opened(self.path) as (file, _):
            lines: list[bytes] = []
            try:
                while len(lines) < num_lines and (line := file.readline()):
                    lines.append(line)
            except BROKEN as error:
                if not lines:
                    message = f"{self.path}, line 1: {_broken(self.path)} is broken ({error}); download it again"
                    raise InputError(message) from error
        if not lines:
            raise InputError(f"{self.path}: the file is empty; make it or download it again")
        if b"\0" in lines[0]:
            raise InputError(f"{self.path}, line 1: not UTF-8 but perhaps UTF-16; convert the file, e.g. with iconv -t utf-8")
        return [line.decode("utf-8", "replace").rstrip("\r\n").removeprefix("\ufeff") for line in lines]

    def tables(self, parse: Parse, header: bool = False, optional: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """Yield what `parse` makes of one block of whole lines after the other.

        A line is bad when `parse` raises or leaves a null or an empty text in a column that is not optional; it is found by
        halving the block.

        Args:
            parse: turns bytes and the number of their lines into a table with a row for every line.
            header: the first line holds names and is not given to `parse`.
            optional: columns that may be null.
        """
        yield from prefetch(self._tables(parse, header, optional))

    def _tables(self, parse: Parse, header: bool, optional: Sequence[str]) -> Iterator[pl.DataFrame]:
        first, empty = 2 if header else 1, True
        for block, numbers in prefetch(self._blocks(header)):
            block = block.removeprefix(codecs.BOM_UTF8) if first == 1 else block
            num_lines = _num_lines(block)
            self._numbers = None if numbers is None else first + numbers
            for table in self._parse(parse, block, num_lines, 0 if self._numbers is not None else first, optional):
                empty = False
                yield table
            first += num_lines if numbers is None else int(numbers[-1])
        if self.ends_early:
            self._reject(f"line {first}: {_broken(self.path)} is broken or ends early ({self.ends_early})")
        if empty:
            first_bad = f"; the first, {self.bad_lines[0]}" if self.bad_lines else ""
            raise InputError(f"{self.path}: no row that can be read{first_bad}; is it the right file?")
        if self.bad_lines:
            print(f"{self.path}: bad lines left out: {len(self.bad_lines)}, the first: {self.bad_lines[0]}")

    def _parse(self, parse: Parse, block: bytes, num_lines: int, first: int, optional: Sequence[str]) -> Iterator[pl.DataFrame]:
        try:
            table = parse(block, num_lines)
            problem = _incomplete(table, optional) or (f"{len(table)} rows, expected one" if len(table) != num_lines else None)
        except pl.exceptions.SchemaError:
            problem = "another number of columns than expected"
        except (pl.exceptions.PolarsError, csv.Error, InputError) as error:
            problem = first_line(error)
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
            if self.columns and count(block, '"') % 2:
                problem = "a quotation mark that is not closed, or a quoted value of more lines than are joined"
            line = first if self._numbers is None else self._numbers[first]
            self._reject(f"{self.unit} {line}: {problem}: {block[:80].decode(errors='replace').strip()!r}")

    def _reject(self, complaint: str):
        self.bad_lines.append(complaint)
        if len(self.bad_lines) > self.skip_bad_lines:
            raise InputError(
                f"{self.path}, {complaint}; mend the file, download it again, or let --skip-bad-lines "
                f"{len(self.bad_lines)} or more leave such lines out"
            )

    def _blocks(self, header: bool) -> Iterator[tuple[bytes, np.ndarray | None]]:
        with (
            opened(self.path) as (file, below),
            tqdm(total=self.path.stat().st_size, unit="B", unit_scale=True, desc=self.path.name, delay=2) as bar,
        ):
            if header:
                file.readline()
            read = self._read_plain if file is below else self._read_compressed
            while not self.ends_early and (block := read(file)):
                yield join_lines(block, *self.columns, more=lambda: self._line(file)) if self.columns else (block, None)
                bar.update(below.tell() - bar.n)

    def _line(self, file: BufferedIOBase) -> bytes:
        try:
            return file.readline()
        except BROKEN as error:
            self.ends_early = str(error)
            return b""

    def _read_plain(self, file: BufferedIOBase) -> bytes:
        return file.read(BLOCK_BYTES) + file.readline()

    def _read_compressed(self, file: BufferedIOBase) -> bytes:
        """A block of whole lines, of a broken file what can still be had."""
        chunks, size = [], 0
        try:
            while size < BLOCK_BYTES and (chunk := file.read1(CHUNK_BYTES)):
                chunks.append(chunk)
                size += len(chunk)
            chunks.append(file.readline())
        except BROKEN as error:
            self.ends_early = str(error)
            whole, newline, _ = b"".join(chunks).rpartition(b"\n")
            return whole + newline
        return b"".join(chunks)


def decoded_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a small UTF-8 file, compressed or not, with their ends."""
    number = 0
    with opened(path) as (file, _):
        try:
            for number, line in enumerate(file, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}, line {number}: not UTF-8; convert the file, e.g. with iconv -t utf-8") from None
        except BROKEN as error:
            raise InputError(f"{path}, line {number + 1}: {_broken(path)} is broken ({error}); download it again") from error


def _broken(path: Path) -> str:
    return "the Zstandard file" if path.suffix.lower() == ".zst" else "the gzip file"


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
