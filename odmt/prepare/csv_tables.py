"""A dataset from one's own CSV files and a folder of images."""

import csv as csv_format
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from odmt.errors import InputError
from odmt.prepare.layout import Cut, Dataset, histories_by_time, new_folder, tidy
from odmt.prepare.pictures import find_pictures, place_pictures
from odmt.prepare.raw_lines import RawLines, delimiter, read_csv

DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def csv(
    interactions: Path,
    items: Path,
    out: Path,
    images: Path | None = None,
    user: str = "user_id",
    item: str = "item_id",
    timestamp: str = "timestamp",
    text: str | None = None,
    list_separator: str | None = None,
    min_length: int = 5,
    last: int = 15,
    skip_bad_lines: int = 0,
    overwrite: bool = False,
):
    """Prepare a dataset from an interaction table, an item table and a folder of images.

    Args:
        interactions: CSV file (.tsv: tabs) with a header and an interaction a line.
        items: CSV file with a header and an item a row.
        out: the dataset's folder, data/NAME.
        images: folder of files ITEM_ID.SUFFIX, which are hard-linked or, across file systems, copied; without, a dataset of IDs
            and texts.
        user: column of the interaction table.
        item: column of both tables.
        timestamp: column of the interaction table: numbers, or ISO dates all written alike. Equal times keep the file's order.
        text: columns of the item table that make the text, separated by commas; without, all but the item's name.
        list_separator: character within text columns that is read as a blank, e.g. | in Drama|Comedy.
        min_length: users with fewer interactions are dropped.
        last: so many of a user's newest interactions are kept: max_seq_len + 3.
        skip_bad_lines: leave out up to so many lines of the interaction table that cannot be read.
        overwrite: replace the dataset that is there, with its images and features.
    """
    cut = Cut(min_length, last)
    with new_folder(out, overwrite) as folder:
        pictures = find_pictures(images) if images else None
        fields = text.split(",") if text else None
        table = read_items(items, item, fields, list_separator)
        histories = histories_by_time(_read_events(interactions, user, item, timestamp, skip_bad_lines))
        dataset = Dataset(histories, table, pictures, cut)
        if pictures:
            place_pictures(pictures, dataset.item_ids, folder / "images")
        dataset.write(folder)
    dataset.report(Path(out).name)


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
    seen: dict[str, int] = {}
    for name, line in zip(columns[names.index(item)], lines):
        if not name:
            raise InputError(f"{path}, line {line}: no value in column {item!r}; give the item a name or remove the line")
        if name in seen:
            raise InputError(f"{path}, line {line}: item {name!r} stands in line {seen[name]} already; remove one of the two")
        seen[name] = line

    def clean(value: str) -> str:
        return tidy(value.replace(list_separator, " ") if list_separator else value)

    # Numbered, since a file may call a field "item".
    texts = {f"field_{n}": [clean(value) for value in columns[names.index(name)]] for n, name in enumerate(fields)}
    return pl.DataFrame({"item": list(seen), **texts}, schema=dict.fromkeys(["item", *texts], pl.String))


def _read_rows(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows and the line in which each row ends."""
    RawLines(path).head()
    csv_format.field_size_limit(1 << 30)
    rows, lines = [], []
    reader = csv_format.reader(_decoded(path), delimiter=delimiter(path), strict=True)
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


def _decoded(path: Path) -> Iterator[str]:
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise InputError(f"{path}, line {number}: not UTF-8; convert the file, e.g. with iconv -t utf-8") from None


def _read_events(path: Path, user: str, item: str, timestamp: str, skip_bad_lines: int) -> pl.DataFrame:
    header, *first = csv_format.reader(RawLines(path).head(2), delimiter=delimiter(path))
    time = pl.col(timestamp).str.strip_chars()
    if first and DATE.match(dict(zip(header, first[0])).get(timestamp, "")):
        # Dates written alike are in time order when they are in the order of the alphabet.
        time = time.str.extract(f"({DATE.pattern}.*)")
    else:
        time = time.cast(pl.Float64, strict=False)
    columns = [pl.col(user).alias("user"), pl.col(item).alias("item"), time.alias("time")]
    return pl.concat(read_csv(path, columns, skip_bad_lines=skip_bad_lines))
