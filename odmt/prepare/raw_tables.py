"""Raw CSV and JSON-lines files as tables, block by block."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from odmt.errors import InputError
from odmt.prepare.raw_lines import RawLines, count


def delimiter(path: Path) -> str:
    """What stands between the columns of a table, by the file's name."""
    return "\t" if ".tsv" in Path(path).suffixes else ","


def first_rows(path: Path, num_rows: int = 1) -> list[list[str]]:
    """The values in the first lines of a CSV file."""
    try:
        return list(csv.reader(RawLines(path).head(num_rows), delimiter=delimiter(path)))
    except csv.Error as error:
        raise InputError(f"{path}, line 1: {error}; is it a CSV file?") from error


def read_csv(
    path: Path, columns: Sequence[pl.Expr], names: Sequence[str] | None = None, skip_bad_lines: int = 0
) -> Iterator[pl.DataFrame]:
    """Read a CSV file of a row a line (or, if its name ends in .tsv, tabs), block by block.

    Args:
        path: the file, gzipped or not.
        columns: what is made of the file's columns, all texts; a null in the result makes a line bad.
        names: the file's columns; without, they stand in its first line.
        skip_bad_lines: as in `RawLines`.
    """
    lines = RawLines(path, skip_bad_lines)
    separator = delimiter(path)
    header = names is None
    if header:
        (names,) = first_rows(path)
    needed = list(dict.fromkeys(name for column in columns for name in column.meta.root_names()))
    for name in needed:
        if name not in names:
            raise InputError(f"{path}, line 1: no column {name!r}; its columns are {', '.join(names)}")

    def parse(block: bytes, num_lines: int) -> pl.DataFrame:
        if not block.endswith(b"\n"):
            # The end of the file: a line cut off within a value would otherwise pass for a shorter value.
            last = block[block.rfind(b"\n") + 1 :].decode("utf-8", "replace")
            if len(next(csv.reader([last], delimiter=separator))) < len(names):
                raise InputError(f"fewer than {len(names)} columns")
        # Only when polars reads all columns does it notice that a line has too many.
        regular = count(block, separator) == num_lines * (len(names) - 1)
        table = pl.read_csv(
            block,
            has_header=False,
            separator=separator,
            schema={f"column_{n}": pl.String for n in range(len(names))},
            columns=[names.index(name) for name in needed] if regular else None,
        )
        return table.select(pl.all().name.map(lambda column: names[int(column[7:])])).select(columns)

    yield from lines.tables(parse, header=header)


def read_json_lines(
    path: Path, schema: dict[str, pl.DataType], optional: Sequence[str] = (), skip_bad_lines: int = 0
) -> Iterator[pl.DataFrame]:
    """Read some keys of a file with a JSON object a line, block by block.

    Args:
        path: the file, gzipped or not.
        schema: the keys and their types; a list or object read as a text is given as its JSON.
        optional: keys that may be absent.
        skip_bad_lines: as in `RawLines`.
    """
    yield from RawLines(path, skip_bad_lines).tables(lambda block, _: pl.read_ndjson(block, schema=schema), optional=optional)
