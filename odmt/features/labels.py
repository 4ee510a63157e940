"""The reader of `labels.tsv`, the categories of a dataset's items: `item<TAB>category` a line.

Legend: N items, L categories.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from odmt.errors import InputError
from odmt.features.behaviours import column_of_lines
from odmt.features.item_table import check_table

COMMAND = "scripts/prepare.py csv --label-column COLUMN writes it (sgfd, recbole and mmrec: --help)"


@dataclass(frozen=True)
class Labels:
    """The category of every item.

    Attributes:
        numbers: int64 [N], from 0 to L - 1.
        names: L categories, in the order of their numbers.
    """

    numbers: np.ndarray
    names: list[str]

    def fingerprint(self) -> str:
        """A hash of names and numbers."""
        return hashlib.sha256("\n".join(self.names).encode() + self.numbers.tobytes()).hexdigest()[:16]


def read_labels(path: Path, item_ids: list[str]) -> Labels:
    """Read the categories of some items.

    Categories are numbered over the whole file, integers by size and anything else by the alphabet, so that the numbers do not
    change when items are left out.

    Args:
        path: labels.tsv; it may name other items too.
        item_ids: N names.

    Raises:
        InputError: no such file, with the command that makes it; a line that is broken; an item without category or with two.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file, and a model that learns from the items' categories needs it; {COMMAND}")
    check_table(path)
    table = column_of_lines(path).str.split("\t")
    if (wrong := (table.list.len() != 2).arg_true()).len():
        columns = len(table[wrong[0]])
        raise InputError(f"{path}, line {wrong[0] + 1}: {columns} columns, expected 2: item<TAB>category")
    items, categories = table.list.get(0), table.list.get(1).str.strip_chars()
    if (empty := (categories == "").arg_true()).len():
        raise InputError(f"{path}, line {empty[0] + 1}: item {items[empty[0]]!r} has no category; name one, or remove the item")
    if items.n_unique() < len(items):
        item = items.filter(items.is_duplicated())[0]
        first, second = (items == item).arg_true()[:2] + 1
        raise InputError(f"{path}, line {second}: item {item!r} stands in line {first} already; remove one of the two")
    names = _in_order(categories.unique())
    rows = pl.Series(item_ids).cast(pl.Enum(items), strict=False).to_physical()
    if (missing := rows.is_null().arg_true()).len():
        raise InputError(
            f"{path}: {len(missing)} items have no category, {item_ids[missing[0]]!r} the first; add them there, or make the "
            f"file again: {COMMAND}"
        )
    numbers = categories.gather(rows).cast(pl.Enum(names)).to_physical()
    return Labels(numbers.to_numpy().astype(np.int64), names)


def _in_order(names: pl.Series) -> list[str]:
    as_numbers = names.cast(pl.Int64, strict=False)
    return sorted(names.to_list(), key=None if as_numbers.null_count() else int)
