"""Amazon's reviews of 2014, 2018 and 2023, or their ratings alone: who had what when."""

import csv
import re
from pathlib import Path

import polars as pl

from odmt.errors import InputError
from odmt.prepare.raw_json import first_objects
from odmt.prepare.raw_lines import RawLines
from odmt.prepare.raw_tables import delimiter, read_csv, read_header, read_json_lines
from odmt.prepare.times import TimeColumn

# What the generations call them, in reviews and in ratings with a header.
NAMES = {
    "user": ("user_id", "reviewerID", "user", "userId", "reviewer_id"),
    "item": ("parent_asin", "asin", "item", "item_id", "itemId", "productId"),
    "time": ("timestamp", "unixReviewTime", "time", "unix_time"),
}
ORDERS = {"2014": ["user", "item", "rating", "time"], "2018": ["item", "user", "rating", "time"]}
LOOKED_AT = 1000  # lines, to see which column holds the users
ITEM, USER = re.compile("[0-9B][0-9A-Z]{9}"), re.compile("(A[0-9A-Z]{9,}|#oc-.+)")


def read_reviews(path: Path, skip_bad_lines: int) -> pl.DataFrame:
    """Read reviews in whatever form they have, and say which that is.

    Returns:
        user, item, time; a row a review.

    Raises:
        InputError: a file of another form.
    """
    times = TimeColumn()

    def convert(table: pl.DataFrame) -> pl.DataFrame:
        return table.select("user", "item", times.read(table["time"]))

    first = next((line for line in RawLines(path).head(10) if line.strip()), "").lstrip()
    if first.startswith(("{", "[")):
        names = _choose(path, list(dict.fromkeys(key for found in first_objects(path) for key in found)))
        print(f"{path}: reviews of {'2023' if names['item'] == 'parent_asin' else '2014 or 2018'}, an object each")
        schema = dict.fromkeys(names.values(), pl.String())
        renamed = [pl.col(name).alias(part) for part, name in names.items()]
        tables = read_json_lines(path, schema, skip_bad_lines=skip_bad_lines, convert=lambda table: convert(table.select(renamed)))
    else:
        rows = [row for row in csv.reader(RawLines(path).head(LOOKED_AT), delimiter=delimiter(path)) if row]
        if TimeColumn().read(pl.Series([rows[0][-1], "x"]))[0] is None:
            columns, header = _choose(path, read_header(path)), None
            print(f"{path}: ratings by their header: {', '.join(columns.values())}")
        else:
            header = _order(path, rows)
            columns = {part: part for part in NAMES}
        texts = [pl.col(name).alias(part) for part, name in columns.items()]
        tables = read_csv(path, texts, header, skip_bad_lines, convert)
    return pl.concat(tables)


def _choose(path: Path, keys: list[str]) -> dict[str, str]:
    """What users, items and times are called here."""
    chosen: dict[str, str] = {}
    for part, names in NAMES.items():
        name = next((name for name in names if name in keys), None)
        if name is None:
            raise InputError(
                f"{path}: neither of the keys {', '.join(names)}, which tell the {part}; it has {', '.join(keys) or 'none'}. "
                "Read are reviews and ratings of 2014, 2018 and 2023"
            )
        chosen[part] = name
    return chosen


def _item_first(pair: list[str]) -> bool:
    """Whether two columns look like an item and a user."""
    first, second = (bool(ITEM.fullmatch(name)) - bool(USER.fullmatch(name)) for name in pair)
    return first > second


def _order(path: Path, rows: list[list[str]]) -> list[str]:
    """The columns of ratings without a header, by what the first two look like."""
    if len(rows[0]) != 4:
        raise InputError(
            f"{path}, line 1: {len(rows[0])} columns without a header; ratings have four: item,user,rating,time (2018) or "
            "user,item,rating,time (2014)"
        )
    pairs = [row[:2] for row in rows if len(row) == 4]
    item_first, user_first = sum(map(_item_first, pairs)), sum(_item_first(pair[::-1]) for pair in pairs)
    generation = "2014" if user_first > item_first else "2018"
    print(f"{path}: ratings without a header, read as {','.join(ORDERS[generation])} ({generation})")
    return ORDERS[generation]
