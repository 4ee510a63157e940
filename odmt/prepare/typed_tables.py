"""Parquet files, whose columns have types, read as the texts that a CSV file would hold."""

import io
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from odmt.errors import InputError, first_line
from odmt.prepare.raw_files import opened
from odmt.prepare.raw_tables import check_columns

PARQUET = (".parquet", ".pq")


def read_parquet(path: Path, columns: Sequence[str] | None = None, between: str = " ") -> pl.DataFrame:
    """Read columns of a Parquet file as texts, dates as ISO and, between values of lists, a text, a blank by default; nulls stay.

    Raises:
        InputError: no Parquet file, or a column that is not there.
    """
    with opened(path) as (file, below):
        source = below if file is below else io.BytesIO(file.read())
        try:
            names = list(pl.read_parquet_schema(source))
            check_columns(path, names, columns or [])
            source.seek(0)
            table = pl.read_parquet(source, columns=list(dict.fromkeys(columns)) if columns else None)
        except pl.exceptions.PolarsError as error:
            raise InputError(f"{path}: cannot be read as Parquet: {first_line(error)}; write or download it again") from error
    return table.select(_text(column, between) for column in table.get_columns())


def _text(column: pl.Series, between: str) -> pl.Series:
    if isinstance(column.dtype, (pl.List, pl.Array)):
        return column.cast(pl.List(pl.String)).list.join(between)
    if column.dtype.is_float() and (column.is_null() | column.is_nan() | (column == column.round())).all():
        # pandas makes whole numbers floats where one is missing.
        whole = column.fill_nan(None)
        return whole.cast(pl.Int64, strict=False).cast(pl.String) if (whole.abs() < 2**53).all() else column.cast(pl.String)
    if column.dtype == pl.Date:
        return column.dt.to_string("%Y-%m-%d")
    if isinstance(column.dtype, pl.Datetime):
        return column.dt.to_string("%Y-%m-%dT%H:%M:%S%.f" + ("%:z" if column.dtype.time_zone else ""))
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        return pl.Series(column.name, [None if value is None else str(value) for value in column], pl.String)
    return column.cast(pl.String)
