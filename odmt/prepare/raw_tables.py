"""Raw CSV and JSON-lines files as tables, block by block."""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from odmt.errors import InputError
from odmt.prepare.loose_json import parse_objects
from odmt.prepare.quoted_lines import is_row
from odmt.prepare.raw_files import suffix
from odmt.prepare.raw_json import json_lines
from odmt.prepare.raw_lines import RawLines, count

JSON = (".json", ".jsonl", ".ndjson")
TABS = (".tsv", ".tab", ".inter", ".item")  # the last two are RecBole's and MMRec's
Convert = Callable[[pl.DataFrame], pl.DataFrame]
NAMELESS = re.compile(r"|Unnamed: \d+(\.\d+)*")  # what pandas writes for an index, and what it makes of it when it reads it again


def delimiter(path: Path) -> str:
    """What stands between the columns of a table, by the file's name."""
    return "\t" if suffix(path) in TABS else ","


def read_header(path: Path) -> list[str]:
    """The names of a CSV file's columns, without blanks around them."""
    (line,) = RawLines(path).head()
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter(path), strict=True))]
    except csv.Error as error:
        raise InputError(f"{path}, line 1: {error}; is it a CSV file?") from error


def check_columns(path: Path, names: Sequence[str], needed: Sequence[str]):
    """Raise InputError for a column that is needed and stands nowhere, or twice."""
    for name in needed:
        if name not in names:
            other = next((mark for mark in ";\t|," if len(names) == 1 and mark in names[0]), None)
            remedy = f"; {other!r} seems to stand between its columns: make it a comma, or a tab in a file that ends in .tsv"
            known = ", ".join(_named(name, n) for n, name in enumerate(names, 1))
            raise InputError(f"{path}, line 1: no column {name!r}; its columns are {known}{remedy if other else ''}")
        if names.count(name) > 1:
            first, second, *_ = (n for n, other in enumerate(names, 1) if other == name)
            raise InputError(f"{path}, line 1: columns {first} and {second} are both called {name!r}; rename one")


def _named(name: str, number: int) -> str:
    return f"(column {number}, without a name)" if NAMELESS.fullmatch(name) else name


def read_csv(
    path: Path,
    columns: Sequence[pl.Expr],
    names: Sequence[str] | None = None,
    skip_bad_lines: int = 0,
    convert: Convert = lambda table: table,
) -> Iterator[pl.DataFrame]:
    """Read a CSV file (or, if its name ends in .tsv, tabs), block by block.

    Quoted values may hold line breaks, which are read as blanks. In a file with tabs a row is a line, and quotation marks are
    part of the value unless they enclose all of it.

    Args:
        path: the file, compressed or not.
        columns: what is made of the file's columns, all texts; a null in the result makes a line bad.
        names: the file's columns; without, they stand in its first line.
        skip_bad_lines: as in `RawLines`.
        convert: what is made of the result in turn.
    """
    separator = delimiter(path)
    header = names is None
    given = read_header(path) if names is None else names
    needed = list(dict.fromkeys(name for column in columns for name in column.meta.root_names()))
    check_columns(path, given, needed)
    quoted = separator == ","
    width = len(given)
    lines = RawLines(path, skip_bad_lines, (width, separator) if quoted else None)

    def parse(block: bytes, num_lines: int) -> pl.DataFrame:
        if not block.endswith(b"\n"):
            # The end of the file: a line cut off within a value would otherwise pass for a shorter value.
            last = block[block.rfind(b"\n") + 1 :].decode("utf-8", "replace")
            row = csv.reader([last], delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
            if len(next(row)) < width:
                raise InputError(f"fewer than {width} columns")
        # Only when polars reads all columns does it notice that a line has too many.
        regular = count(block, separator) == num_lines * (width - 1)
        schema = {f"column_{n}": pl.String() for n in range(width)}
        try:
            table = pl.read_csv(
                block,
                has_header=False,
                separator=separator,
                quote_char='"' if quoted else None,
                schema=schema,
                columns=[given.index(name) for name in needed] if regular else None,
            )
        except pl.exceptions.PolarsError:
            # A quotation mark within a value that is not quoted, as in 5" wide.
            if num_lines > 1 or not quoted or not is_row(block, width, separator):
                raise
            table = pl.DataFrame([next(csv.reader([block.decode().strip()], delimiter=separator))], schema, orient="row")
        table = table.select(pl.col(f"column_{given.index(name)}").alias(name) for name in needed)
        return convert((table if quoted else table.select(without_quotes(pl.all()))).select(columns))

    yield from lines.tables(parse, header=header)


def without_quotes(value: pl.Expr) -> pl.Expr:
    """A value of a file with tabs: without the quotation marks that enclose all of it, as some writers put them."""
    inner = value.str.strip_prefix('"').str.strip_suffix('"').str.replace_all('""', '"', literal=True)
    return pl.when(value.str.contains('^"(?:[^"]|"")*"\r?$')).then(inner).otherwise(value)


def without_enclosing_quotes(value: str) -> str:
    """As `without_quotes`, of one text."""
    return value[1:-1].replace('""', '"') if re.fullmatch('"(?:[^"]|"")*"', value) else value


def read_json_lines(
    path: Path,
    schema: Mapping[str, pl.DataType],
    optional: Sequence[str] = (),
    skip_bad_lines: int = 0,
    convert: Convert = lambda table: table,
) -> Iterator[pl.DataFrame]:
    """Read some keys of a file with a JSON object a line, block by block; an array of objects is read as well.

    Args:
        path: the file, compressed or not.
        schema: the keys and their types; a list or object read as a text is given as its JSON.
        optional: keys that may be absent.
        skip_bad_lines: as in `RawLines`.
        convert: what is made of each table.
    """

    def parse(block: bytes, _: int) -> pl.DataFrame:
        try:
            table = pl.read_ndjson(block, schema=schema)
        except pl.exceptions.PolarsError:
            table = parse_objects(block, schema)
        return convert(table)

    yield from json_lines(path, skip_bad_lines).tables(parse, optional=optional)
