"""Which item each row of a feature file is of, as lists of names and the field's numbering files say it."""

import csv
from pathlib import Path

from odmt.errors import InputError
from odmt.features.item_table import check_table, not_utf8


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
    header = not rows[0][-1].strip().isdigit()
    number = 0 if header and rows[0][0].partition(":")[0] in ("itemID", "index", "row") else 1
    names: list[str | None] = [None] * num_rows
    for line, row in enumerate(rows[header:], 1 + header):
        if len(row) != 2 or not row[number].strip().isdigit():
            raise InputError(f"{path}, line {line}: {' '.join(row)!r}, expected two columns: an item and its row from 0")
        position = int(row[number])
        if position >= num_rows:
            raise InputError(f"{path}, line {line}: row {position}, but there are {num_rows:,} rows of features, from 0")
        if names[position] is not None:
            raise InputError(f"{path}, line {line}: row {position} is that of item {names[position]!r} already")
        names[position] = row[1 - number].strip()
    if None in names[1:]:
        missing = names.count(None)
        raise InputError(f"{path}: {missing:,} of {num_rows:,} rows have no item, {names.index(None, 1)} the first; add them")
    return names


def _rows(path: Path) -> list[list[str]]:
    check_table(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    first = text.partition("\n")[0]
    delimiter = "\t" if "\t" in first else "," if "," in first else "\x00"
    return list(
        csv.reader(text.splitlines(), delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter != "," else csv.QUOTE_MINIMAL)
    )
