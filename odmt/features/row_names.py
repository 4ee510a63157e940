"""Which item each row of a feature file is of, as lists of names and the field's numbering files say it."""

import csv
from pathlib import Path

from odmt.errors import InputError
from odmt.features.item_table import check_table, not_utf8
from odmt.files import reading

ID_NAMES = ("item_id", "item", "itemID", "item_ids", "ids", "id", "asin")  # what a column of items may be called
NUMBER_COLUMNS = ("itemID", "userID", "index", "row")  # what the column of the numbers may be called where it stands first


def read_row_names(path: Path, num_rows: int) -> list[str | None]:
    """Read the items of R rows.

    Args:
        path: an item a line; or, of two columns parted by a tab or comma, the item and its row from 0, with or without a header,
            as in MMRec's i_id_mapping.csv (asin, itemID) and RecBole's X.item2index.
        num_rows: R.

    Returns:
        R names; None for row 0 where a numbering begins with 1, as where row 0 is padding.

    Raises:
        InputError: another number of rows, a number that is none, too large or stands twice; a row without item.
    """
    rows = _rows(path)
    if all(len(row) == 1 for row in rows):
        if len(rows) != num_rows:
            raise InputError(f"{path}: {len(rows):,} items, but {num_rows:,} rows of features; one line a row")
        return [row[0].strip() for row in rows]
    numbering = _numbering(path, rows)
    if (largest := max(numbering)) >= num_rows:
        raise InputError(
            f"{path}: row {largest} of item {numbering[largest]!r}, but there are {num_rows:,} rows of features, from 0"
        )
    missing = [row for row in range(1, num_rows) if row not in numbering]
    if missing:
        raise InputError(f"{path}: {len(missing):,} of {num_rows:,} rows have no item, {missing[0]} the first; add them")
    return [numbering.get(row) for row in range(num_rows)]


def read_numbering(path: Path) -> dict[int, str]:
    """Read a file of two columns, parted by a tab or comma, a name and its number from 0, with or without a header.

    Raises:
        InputError: a number that is none or stands twice, another number of columns.
    """
    return _numbering(path, _rows(path))


def _numbering(path: Path, rows: list[list[str]]) -> dict[int, str]:
    header = not rows[0][-1].strip().isdecimal()
    column = 0 if header and rows[0][0].partition(":")[0] in NUMBER_COLUMNS else 1
    names: dict[int, str] = {}
    for line, row in enumerate(rows[header:], 1 + header):
        if len(row) != 2 or not row[column].strip().isdecimal():
            raise InputError(f"{path}, line {line}: {' '.join(row)!r}, expected two columns: a name and its number from 0")
        number = int(row[column])
        if number in names:
            raise InputError(f"{path}, line {line}: number {number} is that of {names[number]!r} already; remove one of the two")
        names[number] = row[1 - column].strip()
    if not names:
        raise InputError(f"{path}: no line but the header; expected a name and its number from 0 in each")
    return names


def _rows(path: Path) -> list[list[str]]:
    check_table(path)
    with reading(path):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise not_utf8(path) from None
    first = text.partition("\n")[0]
    delimiter = "\t" if "\t" in first else "," if "," in first else "\x00"
    return list(
        csv.reader(text.splitlines(), delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter != "," else csv.QUOTE_MINIMAL)
    )
