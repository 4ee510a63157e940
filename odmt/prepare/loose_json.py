"""Objects that are almost JSON: with NaN, as pandas writes it, or dicts as Python prints them (Amazon of 2014)."""

import ast
import json
from collections.abc import Iterable, Mapping

import polars as pl

from odmt.errors import InputError


def parse_objects(block: bytes, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Read an object a line; returns as `polars.read_ndjson` does, what is no number being null where one is asked for.

    Raises:
        InputError: a line that is neither JSON nor a Python dict.
    """
    rows = [parse_object(line) for line in _lines(block)]
    columns = {key: [_value(row.get(key), kind) for row in rows] for key, kind in schema.items()}
    return pl.DataFrame(columns, schema=schema)


def parse_object(line: str) -> dict:
    """Read one object.

    Raises:
        InputError: the line is neither JSON nor a Python dict.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        try:
            found = ast.literal_eval(line.strip())  # literals alone: nothing is run
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise InputError(f"not a JSON object: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"not a JSON object but a {type(found).__name__}")
    return found


def _lines(block: bytes) -> Iterable[str]:
    try:
        return [line for line in block.decode().split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"invalid utf-8: {error.reason}") from None


def _value(value, kind: pl.DataType):
    """What polars makes of a JSON value in a column of a type."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if kind == pl.String:
        return value if isinstance(value, str) else json.dumps(value)
    return value if isinstance(value, int) and abs(value) < 1 << 63 else None
