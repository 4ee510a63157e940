"""What users did, in time order: from tables of interactions and from files of a user a line."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from odmt.errors import InputError
from odmt.prepare.raw_files import suffix
from odmt.prepare.raw_json import first_objects
from odmt.prepare.raw_lines import RawLines, decoded_lines
from odmt.prepare.raw_tables import JSON, Convert, check_columns, read_csv, read_json_lines
from odmt.prepare.times import TimeColumn, begins_with_day, first_true, is_unsure
from odmt.prepare.typed_tables import PARQUET, read_parquet

Read = Callable[[Convert, int], Iterator[pl.DataFrame]]  # what is made of each block, and how many bad lines are left out


def histories_by_time(events: pl.DataFrame) -> pl.DataFrame:
    """Collect the interactions of each user: stable order, by time and then by row; users by their first row.

    Says how many interactions of a user have equal times, since there the order of the file decides.

    Args:
        events: user, item, time; a row an interaction.

    Returns:
        user, items (a list).
    """
    same = events.filter(events.select("user", "time").is_duplicated())
    if len(same):
        print(
            f"{len(same):,} of {len(events):,} interactions, of {same['user'].n_unique():,} users, have the time of another one "
            "of the same user: among them the order of the file decides"
        )
    if repeated := len(same) - same.n_unique():
        print(f"{repeated:,} rows repeat an earlier one: equal user, item and time, as when two exports were put together")
    return (
        events.with_row_index("row")
        .sort("time", maintain_order=True)
        .group_by("user")
        .agg(pl.col("item").alias("items"), pl.col("row").min())
        .sort("row")
        .select("user", "items")
    )


def read_events(
    path: Path, user: str, item: str, timestamp: str | None, skip_bad_lines: int = 0, timestamp_format: str | None = None
) -> pl.DataFrame:
    """Read an interaction table with names of columns and an interaction a row.

    Args:
        path: CSV (.tsv: tabs), JSON lines or Parquet, compressed or not.
        user: column.
        item: column.
        timestamp: column: numbers or dates, as `TimeColumn` reads them; None: times do not matter.
        skip_bad_lines: as in `RawLines`.
        timestamp_format: of dates that are written in another way, in the letters of strptime.

    Returns:
        user, item and, if a column of times is named, time.
    """
    columns = {"user": user, "item": item} | ({"time": timestamp} if timestamp else {})
    form = suffix(path)
    times = TimeColumn(timestamp_format)

    def convert(table: pl.DataFrame) -> pl.DataFrame:
        return table.select("user", "item", *([times.read(table["time"])] if timestamp else []))

    if form in PARQUET:
        table = read_parquet(path, list(columns.values())).select(**{name: pl.col(column) for name, column in columns.items()})
        if timestamp:
            times.day_first = begins_with_day(table["time"])
        return _without_bad_rows(path, table, convert, skip_bad_lines)
    texts = [pl.col(column).alias(name) for name, column in columns.items()]
    if form in JSON:
        keys = list(dict.fromkeys(key for found in first_objects(path) for key in found))
        check_columns(path, keys, list(columns.values()))
        schema = dict.fromkeys(columns.values(), pl.String())

        def read(convert: Convert, skip: int) -> Iterator[pl.DataFrame]:
            return read_json_lines(path, schema, skip_bad_lines=skip, convert=lambda table: convert(table.select(texts)))
    else:

        def read(convert: Convert, skip: int) -> Iterator[pl.DataFrame]:
            return read_csv(path, texts, skip_bad_lines=skip, convert=convert)

    if timestamp and not timestamp_format:
        times.day_first = _day_first(read)
    return pl.concat(read(convert, skip_bad_lines))


def histories_of_pairs(events: pl.DataFrame) -> pl.DataFrame:
    """Collect the items of each user, each once; users and items by their first row.

    Args:
        events: user, item; a row an interaction.

    Returns:
        user, items (a list).
    """
    pairs = events.select("user", "item").unique(maintain_order=True)
    if repeated := len(events) - len(pairs):
        print(f"{repeated:,} of {len(events):,} interactions repeat a pair of user and item, which counts once")
    return pairs.group_by("user", maintain_order=True).agg(pl.col("item").alias("items"))


def read_histories(path: Path, skip_bad_lines: int = 0) -> pl.DataFrame:
    """Read a file of `user<TAB>item item ...`, in time order, a user a line.

    Returns:
        user, items (a list).

    Raises:
        InputError: a line with another number of columns or no item, a user that stands twice.
    """

    def parse(block: bytes, num_lines: int) -> pl.DataFrame:
        schema = {"user": pl.String, "items": pl.String}
        return pl.read_csv(block, has_header=False, separator="\t", quote_char=None, schema=schema)

    table = pl.concat(RawLines(path, skip_bad_lines).tables(parse))
    if twice := table["user"].filter(table["user"].is_duplicated()).to_list():
        lines = [number for number, line in enumerate(decoded_lines(path), 1) if line.partition("\t")[0] == twice[0]]
        raise InputError(f"{path}, line {lines[1]}: user {twice[0]!r} stands in line {lines[0]} already; join the two lines")
    return table.with_columns(pl.col("items").str.extract_all(r"\S+"))


def _day_first(read: Read) -> bool | None:
    """Whether the dates of a table, if they are like 05/06/2023, begin with the day, as far as others of them tell."""
    for table in read(lambda table: table, sys.maxsize):
        if not is_unsure(table["time"]):
            return None
        if (found := begins_with_day(table["time"])) is not None:
            return found
    return None


def _without_bad_rows(path: Path, table: pl.DataFrame, convert: Convert, skip_bad_lines: int) -> pl.DataFrame:
    read = convert(table)
    bad = read.select(row=pl.any_horizontal(pl.all().is_null(), pl.col("user", "item") == "")).to_series()
    if bad.sum() > skip_bad_lines:
        first = first_true(bad)
        missing = [name for name in ("user", "item") if not table[name][first]]
        try:
            problem = f"no valid {missing[0]}" if missing else str(convert(table[first : first + 1]))
        except InputError as error:
            problem = str(error)
        raise InputError(
            f"{path}, row {first + 1}: {problem}; mend the file, or let --skip-bad-lines {bad.sum()} or more leave such rows out"
        )
    if bad.any():
        print(f"{path}: {bad.sum()} bad rows left out, the first: row {first_true(bad) + 1}")
    return read.filter(~bad)
