"""The rows of an item table as texts, whatever its format."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from odmt.errors import InputError
from odmt.prepare.loose_json import parse_object
from odmt.prepare.quoted_lines import is_row
from odmt.prepare.raw_files import suffix
from odmt.prepare.raw_json import json_lines
from odmt.prepare.raw_lines import RawLines, decoded_lines
from odmt.prepare.raw_tables import JSON, delimiter, read_header, without_enclosing_quotes
from odmt.prepare.typed_tables import PARQUET, read_parquet

MAX_JOINED = 1000  # lines of a row between tabs


@dataclass
class ItemRows:
    """A table of texts.

    Attributes:
        names: of the columns.
        rows: as many values each.
        lines: where each row ends.
        broken: first and last line of rows that go over several.
        unit: what `lines` count.
    """

    names: list[str]
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    broken: list[tuple[int, int]] = field(default_factory=list)
    unit: str = "line"

    def column(self, name: str) -> list[str]:
        """The values of a column."""
        position = self.names.index(name)
        return [row[position] for row in self.rows]

    def add(self, row: list[str], first: int, last: int):
        """Add a row that goes from a line to a line."""
        if first != last:
            self.broken.append((first, last))
        self.rows.append(row)
        self.lines.append(last)


def read_rows(path: Path, between: str = " ") -> ItemRows:
    """Read a table of items: Parquet, JSON lines, tabs or commas, as its suffix says.

    Args:
        path: the file.
        between: what stands between the values of a list of Parquet or JSON.
    """
    form = suffix(path)
    if form in PARQUET:
        table = read_parquet(path, between=between).fill_null("")
        return ItemRows(table.columns, [list(row) for row in table.rows()], list(range(1, len(table) + 1)), unit="row")
    if form in JSON:
        return _json_rows(path, between)
    return _tab_rows(path) if delimiter(path) == "\t" else _csv_rows(path)


def _csv_rows(path: Path) -> ItemRows:
    """Rows by the rules of CSV, quoted line breaks among them."""
    table = ItemRows(read_header(path))
    csv.field_size_limit(1 << 30)
    reader = csv.reader(decoded_lines(path), strict=True)
    last = 0
    try:
        next(reader)
        for row in reader:
            first, last = last + 1, reader.line_num
            first = max(first, 2)
            if row and len(row) != len(table.names):
                raise InputError(
                    f"{path}, line {last}: {len(row)} columns, expected {len(table.names)} as in line 1; "
                    "put values with commas between quotes"
                )
            if row:
                table.add(row, first, last)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}; double the quotes within quoted values") from error
    return table


def _tab_rows(path: Path) -> ItemRows:
    """Rows of a file with tabs: a line each, but for quoted values that a writer of CSV broke over lines.

    A quotation mark at the start of a value opens it only if the value is closed again; most belong to the text.
    """
    table = ItemRows(read_header(path))
    width = len(table.names)
    lines = list(decoded_lines(path))
    number = 1
    while number < len(lines):
        row = lines[number].rstrip("\r\n").split("\t")
        end = number + 1
        if number + 1 < len(lines) and lines[number].count('"') % 2:
            # The next line is no row of its own: the value may go on there.
            after = lines[number + 1].rstrip("\r\n")
            if len(row) < width or (after and after.count("\t") + 1 != width):
                end = _end_of_row(lines, number, width)
        if end > number + 1:
            row = next(csv.reader(lines[number:end], delimiter="\t", strict=True))
        elif len(row) != width and is_row(lines[number].encode(), width, "\t"):
            row = next(csv.reader([lines[number]], delimiter="\t"))
        elif len(row) != width and any(row):
            raise InputError(
                f"{path}, line {number + 1}: {len(row)} columns, expected {width} as in line 1; separate columns by one tab"
            )
        if any(row):
            table.add([without_enclosing_quotes(value) for value in row] if end == number + 1 else row, number + 1, end)
        number = end
    return table


def _end_of_row(lines: list[str], start: int, width: int) -> int:
    """The line after a row that begins in a line with an open quotation mark; if none ends it, the next line."""
    marks = 0
    for end in range(start + 1, min(len(lines), start + MAX_JOINED) + 1):
        marks += lines[end - 1].count('"')
        if marks % 2 == 0 and is_row("".join(lines[start:end]).encode(), width, "\t"):
            return end
    return start + 1


def _json_rows(path: Path, between: str) -> ItemRows:
    source = json_lines(path)
    objects = [(number, parse_line(path, source.unit, number, line)) for number, line in _numbered(path, source)]
    names = list(dict.fromkeys(key for _, found in objects for key in found))
    rows = [[_text(found.get(name), between) for name in names] for _, found in objects]
    return ItemRows(names, rows, [number for number, _ in objects], unit=source.unit)


def parse_line(path: Path, unit: str, number: int, line: str) -> dict:
    """Read the object of a line of a file."""
    try:
        return parse_object(line)
    except InputError as error:
        raise InputError(f"{path}, {unit} {number}: {error}; see to it, or remove the line") from None


def _numbered(path: Path, source: RawLines) -> Iterator[tuple[int, str]]:
    lines: Iterable[str] = decoded_lines(path) if source.unit == "line" else source.head(1 << 40)
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _text(value, between: str) -> str:
    if isinstance(value, list):
        return between.join(_text(part, between) for part in value)
    if value is None or value != value:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
