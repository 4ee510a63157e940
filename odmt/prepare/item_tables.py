"""Tables of items with their texts."""

import ast
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import polars as pl

from odmt.errors import InputError
from odmt.prepare.item_rows import ItemRows, read_rows
from odmt.prepare.layout import tidy
from odmt.prepare.raw_lines import RawLines, decoded_lines
from odmt.prepare.raw_tables import NAMELESS, check_columns

BETWEEN = "\x1f"  # between the values of a list, since a blank may stand within one
NO_CATEGORY = "(none)"
SEPARATORS = "|;,"  # that lists in a column are likely to have
LISTS_AMONG = 1 / 3  # share of categories with a separator above which they may be lists
MAX_SAMPLE = 40  # characters of a column's sample


def read_items(path: Path, item: str, fields: list[str] | None = None, list_separator: str | None = None) -> pl.DataFrame:
    """Read a table of items and say which columns make their texts; values may hold commas, quotes and line breaks.

    Args:
        path: CSV (.tsv: tabs), JSON lines or Parquet, compressed or not.
        item: column of the items' names.
        fields: columns of their texts; without, all others that have a name.
        list_separator: character that is read as a blank.

    Returns:
        item and the fields, in the order of the file.

    Raises:
        InputError: a missing column, one that stands twice, a row of another length, an item without name or that stands twice.
    """
    table = read_rows(path)
    chosen = fields if fields is not None else [name for name in table.names if name != item and not NAMELESS.fullmatch(name)]
    check_columns(path, table.names, [item, *chosen])
    if not chosen:
        raise InputError(f"{path}, line 1: no column but {item!r}; add one with the items' texts")
    item_ids = table.column(item)
    check_distinct(path, zip(table.lines, item_ids), table.unit)

    def clean(value: str) -> str:
        return tidy(value.replace(list_separator, " ") if list_separator else value)

    # Numbered, since a file may call a field "item".
    texts = {f"field_{n}": [clean(value) for value in table.column(name)] for n, name in enumerate(chosen)}
    _say_columns(path, table, dict(zip(chosen, texts.values())), fields is None)
    return pl.DataFrame({"item": item_ids, **texts}, schema=dict.fromkeys(["item", *texts], pl.String))


def read_labels(path: Path, item: str, column: str, list_separator: str | None = None) -> pl.DataFrame:
    """Read the categories of items, of a list the first; those that have none get one of their own, and are counted.

    Args:
        path: as `read_items`.
        item: column of the items' names.
        column: that of their categories.
        list_separator: character between the values of a list.

    Returns:
        item, label, in the order of the file.
    """
    table = read_rows(path, BETWEEN)
    check_columns(path, table.names, [item, column])
    labels = [_first(value, list_separator) or NO_CATEGORY for value in table.column(column)]
    if without := labels.count(NO_CATEGORY):
        print(f"{without:,} of {len(labels):,} items have no {column}; their category is called {NO_CATEGORY}")
    number = len(set(labels))
    alone = "; most items have one of their own, from which nothing can be learnt about others" if 2 * number > len(labels) else ""
    print(f"{number:,} categories in {column}, of {len(labels):,} items{alone}")
    if list_separator is None:
        _hint_at_lists(sorted(set(labels)))
    return pl.DataFrame({"item": table.column(item), "label": labels}, schema={"item": pl.String, "label": pl.String})


def _hint_at_lists(categories: list[str]):
    """Say it when many categories look like lists that were taken whole."""
    for separator in SEPARATORS:
        lists = [category for category in categories if separator in category.strip(separator)]
        if len(lists) > LISTS_AMONG * len(categories):
            print(f"{lists[0]!r} counts as one category: with --list-separator '{separator}' the first of a list is taken")
            return


def _first(value: str, list_separator: str | None) -> str:
    """The first value of a list, however it is written."""
    if value.startswith("[") and value.endswith("]"):  # as Python and JSON write a list into a CSV file
        with suppress(ValueError, SyntaxError):
            values = ast.literal_eval(value)
            value = str(values[0]) if values else ""
    value = value.split(BETWEEN)[0]
    return tidy(value.split(list_separator)[0] if list_separator else value)


Table = TypeVar("Table", pl.DataFrame, pl.DataFrame | None)


def with_all(table: Table, occurring: pl.DataFrame, value: str | None = None) -> Table:
    """A table of items with all that occur; those that stand nowhere in it, or empty, have a value of their own.

    Args:
        table: item and other columns; None stays so.
        occurring: item, a row each.
        value: of the first of the other columns; None: the item's name.
    """
    if table is None:
        return None
    first, *others = (name for name in table.columns if name != "item")
    own = pl.col("item") if value is None else pl.lit(value)
    empty = pl.all_horizontal(pl.col(name) == "" for name in (first, *others))
    missing = occurring.join(table, on="item", how="anti", maintain_order="left")
    rest = missing.with_columns(own.alias(first), *(pl.lit("").alias(name) for name in others))
    named = len(rest) + table.select(empty.sum()).item()
    if named and value is None:
        print(f"{named:,} items have no text; it is their name")
    return pl.concat([table.with_columns(pl.when(empty).then(own).otherwise(first).alias(first)), rest.select(table.columns)])


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


def check_distinct(path: Path, item_ids: Iterable[tuple[int, str]], unit: str = "line"):
    """Raise InputError for an item, given with its line, that has no name or stands twice."""
    seen: dict[str, int] = {}
    for line, name in item_ids:
        if not name:
            raise InputError(f"{path}, {unit} {line}: the item has no name; give it one or remove the {unit}")
        if name in seen:
            raise InputError(f"{path}, {unit} {line}: item {name!r} stands in {unit} {seen[name]} already; remove one of the two")
        seen[name] = line


def _say_columns(path: Path, table: ItemRows, texts: dict[str, list[str]], all_columns: bool):
    samples = {name: next((value for value in values if value), "") for name, values in texts.items()}
    shown = ", ".join(f"{name} ({_shortened(sample)!r})" for name, sample in samples.items())
    nameless = [str(n) for n, name in enumerate(table.names, 1) if NAMELESS.fullmatch(name)]
    left_out = f"; column {', '.join(nameless)} has no name and is left out" if nameless and all_columns else ""
    choice = "; --text names those that are wanted" if all_columns and len(texts) > 1 else ""
    print(f"text of the items, from {Path(path).name}: {shown}{left_out}{choice}")
    if table.broken:
        first, last = table.broken[0]
        print(f"{path}: {len(table.broken)} rows go over several lines, the first one over lines {first} to {last}")


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SAMPLE else text[: MAX_SAMPLE - 3] + "..."
