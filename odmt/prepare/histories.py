"""What users did, in time order: from tables of interactions and from files of a user a line."""

import re
from pathlib import Path

import polars as pl

from odmt.errors import InputError
from odmt.prepare.raw_lines import RawLines, decoded_lines
from odmt.prepare.raw_tables import first_rows, read_csv

DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def histories_by_time(events: pl.DataFrame) -> pl.DataFrame:
    """Collect the interactions of each user: stable order, by time and then by row; users by their first row.

    Args:
        events: user, item, time; a row an interaction.

    Returns:
        user, items (a list).
    """
    return (
        events.with_row_index("row")
        .sort("time", maintain_order=True)
        .group_by("user")
        .agg(pl.col("item").alias("items"), pl.col("row").min())
        .sort("row")
        .select("user", "items")
    )


def read_events(path: Path, user: str, item: str, timestamp: str, skip_bad_lines: int = 0) -> pl.DataFrame:
    """Read an interaction table with a header and an interaction a line.

    Args:
        path: CSV file (.tsv: tabs).
        user: column.
        item: column.
        timestamp: column: numbers, or ISO dates all written alike.
        skip_bad_lines: as in `RawLines`.

    Returns:
        user, item, time.
    """
    header, *first = first_rows(path, 2)
    time = pl.col(timestamp).str.strip_chars()
    if first and DATE.match(dict(zip(header, first[0])).get(timestamp, "")):
        # Dates written alike are in time order when they are in the order of the alphabet.
        time = time.str.extract(f"({DATE.pattern}.*)")
    else:
        time = time.cast(pl.Float64, strict=False)
    columns = [pl.col(user).alias("user"), pl.col(item).alias("item"), time.alias("time")]
    return pl.concat(read_csv(path, columns, skip_bad_lines=skip_bad_lines))


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
