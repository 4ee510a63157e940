"""The reader of `items.tsv`, the item table that every family of models and the encoders share.

An item a line: `item<TAB>field<TAB>field ...`.
"""

from collections.abc import Iterator
from pathlib import Path

from odmt.errors import InputError
from odmt.features.dataset import check_recorded, no_dataset
from odmt.files import reading


def read_items(path: Path, lower_case: bool = True) -> tuple[list[str], list[str]]:
    """Read the item table.

    Returns:
        the items' names and their texts: fields joined by one space and, with `lower_case`, lower-cased.

    Raises:
        InputError: a line without name or text, an item that stands twice, a number of columns that differs from line 1's.
    """
    first_line: dict[str, int] = {}
    texts: list[str] = []
    columns = 0
    for line, row in _lines(path):
        name, *fields = row.split("\t")
        columns = columns or len(fields) + 1
        if len(fields) + 1 != columns or columns < 2:
            expected = f"{columns} as in line 1" if columns > 1 else "2 or more: item<TAB>field<TAB>field ..."
            raise InputError(f"{path}, line {line}: {len(fields) + 1} columns, expected {expected}; separate columns by one tab")
        if not name.strip() or len(name.split()) > 1:
            raise InputError(f"{path}, line {line}: {name!r} is no item name; names have no blanks and are not empty")
        if name in first_line:
            raise InputError(f"{path}, line {line}: item {name!r} stands in line {first_line[name]} already; remove one of the two")
        text = " ".join(fields)
        if not text.strip():
            raise InputError(f"{path}, line {line}: item {name!r} has no text; give it one or remove the item")
        first_line[name] = line
        texts.append(text.lower() if lower_case else text)
    return list(first_line), texts


def read_fields(path: Path) -> dict[str, list[str]]:
    """The fields of every item as they stand in a table that `read_items` has read, by name."""
    rows = (row.split("\t") for _, row in _lines(path))
    return {name: fields for name, *fields in rows}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines with their numbers from 1, without their ends."""
    check_table(path)
    with reading(path), path.open(encoding="utf-8-sig", newline="\n") as file:
        try:
            for line, row in enumerate(file, 1):
                yield line, row.rstrip("\r\n")
        except UnicodeDecodeError:
            raise not_utf8(path) from None


def check_table(path: Path):
    """Refuse a table of a dataset that is missing, empty, or not as it was prepared.

    Raises:
        InputError: with the command that makes it, or accepts it.
    """
    with reading(path):
        if not path.parent.is_dir():
            raise no_dataset(path.parent)
        if not path.is_file():
            raise InputError(f"{path}: no such file; scripts/prepare.py makes a dataset's tables, data/README.md tells how")
        empty = path.stat().st_size == 0
    check_recorded(path)
    if empty:
        raise InputError(f"{path}: the file is empty; make it again with scripts/prepare.py")


def not_utf8(path: Path) -> InputError:
    """The error that names the first line of a file which is no UTF-8."""
    with reading(path), path.open("rb") as file:
        for line, row in enumerate(file, 1):
            try:
                row.decode("utf-8")
            except UnicodeDecodeError:
                return InputError(f"{path}, line {line}: not UTF-8; convert the file, e.g. with iconv -t utf-8")
    return InputError(f"{path}: cannot be read as a table; make it again with scripts/prepare.py")
