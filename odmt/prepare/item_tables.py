"""Tables of items with their texts."""

import csv as csv_format
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from odmt.errors import InputError
from odmt.prepare.layout import tidy
from odmt.prepare.raw_lines import RawLines, decoded_lines
from odmt.prepare.raw_tables import delimiter


def read_items(path: Path, item: str, fields: list[str] | None = None, list_separator: str | None = None) -> pl.DataFrame:
    """Read a CSV table of items; values may hold commas, quotes and line breaks.

    Args:
        path: the file (.tsv: tabs).
        item: column of the items' names.
        fields: columns of their texts; without, all others.
        list_separator: character that is read as a blank.

    Returns:
        item and the fields, in the order of the file.

    Raises:
        InputError: a missing column, a row of another length, an item without name or that stands twice.
    """
    names, rows, lines = _read_rows(path)
    fields = fields if fields is not None else [name for name in names if name != item]
    for name in (item, *fields):
        if name not in names:
            raise InputError(f"{path}, line 1: no column {name!r}; its columns are {', '.join(names)}")
    if not fields:
        raise InputError(f"{path}, line 1: no column but {item!r}; add one with the items' texts")
    columns = list(zip(*rows)) if rows else [()] * len(names)
    item_ids = columns[names.index(item)]
    check_distinct(path, zip(lines, item_ids))

    def clean(value: str) -> str:
        return tidy(value.replace(list_separator, " ") if list_separator else value)

    # Numbered, since a file may call a field "item".
    texts = {f"field_{n}": [clean(value) for value in columns[names.index(name)]] for n, name in enumerate(fields)}
    return pl.DataFrame({"item": item_ids, **texts}, schema=dict.fromkeys(["item", *texts], pl.String))


def read_tab_items(path: Path) -> pl.DataFrame:
    """Read a file of `item<TAB>field<TAB>field ...` without a header; a line with fewer fields is filled up with empty ones.

    Returns:
        item and the fields, in the order of the file.
    """
    RawLines(path).head()
    lines = [(number, line.split("\t")) for number, line in enumerate(decoded_lines(path), 1) if line.strip()]
    rows = [[tidy(value) for value in fields] for _, fields in lines]
    check_distinct(path, ((number, row[0]) for (number, _), row in zip(lines, rows)))
    width = max([2, *map(len, rows)])
    columns = ["item", *(f"field_{n}" for n in range(width - 1))]
    return pl.DataFrame([row + [""] * (width - len(row)) for row in rows], dict.fromkeys(columns, pl.String), orient="row")


def check_distinct(path: Path, item_ids: Iterable[tuple[int, str]]):
    """Raise InputError for an item, given with its line, that has no name or stands twice."""
    seen: dict[str, int] = {}
    for line, name in item_ids:
        if not name:
            raise InputError(f"{path}, line {line}: the item has no name; give it one or remove the line")
        if name in seen:
            raise InputError(f"{path}, line {line}: item {name!r} stands in line {seen[name]} already; remove one of the two")
        seen[name] = line


def _read_rows(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows and the line in which each row ends."""
    RawLines(path).head()
    csv_format.field_size_limit(1 << 30)
    rows, lines = [], []
    reader = csv_format.reader(decoded_lines(path), delimiter=delimiter(path), strict=True)
    try:
        names = next(reader)
        for row in reader:
            if row and len(row) != len(names):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(row)} columns, expected {len(names)} as in line 1; "
                    "put values with commas between quotes"
                )
            if row:
                rows.append(row)
                lines.append(reader.line_num)
    except csv_format.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}; double the quotes within quoted values") from error
    return names, rows, lines
