"""The reader of a dataset's lists of items, a user a line: `user<TAB>item item ...`.

`behaviours.tsv` has them in time order; each family makes of the windows that are read here what it needs, so that all models see
the same interactions and the same held-out items. Legend: U users, N items (numbered from 1, 0 is padding), L = max_seq_len.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from odmt.errors import InputError
from odmt.features.item_table import check_table, not_utf8, read_items
from odmt.files import reading

BLOCK = 100_000  # lines that are taken apart at a time


@dataclass(frozen=True)
class Windows:
    """What is kept of every user, the last interactions, as one flat array.

    Attributes:
        user_ids: U names, in the order of the file.
        item_ids: N names; item n is `item_ids[n - 1]`.
        texts: N texts, fields joined by one space, lower-cased.
        items: int32 item numbers of all windows, one user after the other.
        offsets: int64 [U + 1]; the window of user u is `items[offsets[u]:offsets[u + 1]]`.
    """

    user_ids: list[str]
    item_ids: list[str]
    texts: list[str]
    items: np.ndarray
    offsets: np.ndarray


def read_windows(folder: Path, max_seq_len: int, min_seq_len: int, without: Collection[str] = frozenset()) -> Windows:
    """Read a dataset, dropping users with fewer than `min_seq_len` interactions, then items without any.

    Args:
        folder: holds behaviours.tsv and items.tsv.
        max_seq_len: L; the last L + 3 interactions of a user are his window.
        min_seq_len: the least interactions a user has; counted before the window is cut.
        without: names of items that are left out of everything, as if they stood in neither table.

    Raises:
        InputError: a table that is missing, empty or broken, with file, line and remedy; no user left.
    """
    folder = Path(folder)
    if (folder / "train.tsv").exists() and not (folder / "behaviours.tsv").exists():
        raise InputError(
            f"{folder}: its interactions are split and have no order (train.tsv), which sequential models need; take a graph "
            "model, or prepare the dataset with timestamps and without --split"
        )
    names, texts = read_items(folder / "items.tsv")
    user_ids, items, offsets = _read_windows(folder / "behaviours.tsv", names, without, max_seq_len + 3, min_seq_len)
    # Items left with no interaction are dropped; the others are renumbered in the order of items.tsv.
    used = np.flatnonzero(np.bincount(items, minlength=len(names) + 1))
    renumbered = np.zeros(len(names) + 1, np.int32)
    renumbered[used] = np.arange(1, len(used) + 1)
    return Windows(user_ids, [names[n - 1] for n in used], [texts[n - 1] for n in used], renumbered[items], offsets)


def _read_windows(path: Path, names: list[str], without: Collection[str], window: int, min_seq_len: int):
    flags, items, lengths = [], [], []
    lines = ListFile(path, names, without)
    for numbers, length in lines.blocks():
        long_enough = length >= min_seq_len
        from_end = np.repeat(np.cumsum(length), length) - np.arange(len(numbers))
        items.append(numbers[(from_end <= window) & np.repeat(long_enough, length)] + 1)
        flags.append(long_enough)
        lengths.append(np.minimum(length[long_enough], window))
    kept = np.concatenate(flags)
    if not kept.any():
        raise InputError(f"{path}: none of {len(kept)} users has {min_seq_len} interactions; lower data.min_seq_len or add data")
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return lines.users.filter(pl.Series(kept)).to_list(), np.concatenate(items), offsets


class ListFile:
    """A file of `user<TAB>item item ...`, taken apart column-wise: 15 million item names are too many for a Python loop.

    Args:
        path: the file.
        names: the items that may stand in it.
        without: those of them that are left out.

    Attributes:
        users: names, a line each.

    Raises:
        InputError: no such file, another number of columns, a user that stands twice.
    """

    def __init__(self, path: Path, names: list[str], without: Collection[str] = frozenset()):
        self.path = path
        self._lines = column_of_lines(path)
        tabs = self._lines.str.count_matches("\t")
        if (wrong := (tabs != 1).arg_true()).len():
            raise InputError(
                f"{path}, line {wrong[0] + 1}: {tabs[wrong[0]] + 1} columns, expected 2: user<TAB>item item ..., "
                "items separated by blanks"
            )
        self.users = self._lines.str.extract("^([^\t]*)")
        if self.users.n_unique() < len(self.users):
            user = self.users.filter(self.users.is_duplicated())[0]
            first, second = (self.users == user).arg_true()[:2] + 1
            raise InputError(f"{path}, line {second}: user {user!r} stands in line {first} already; join the two lines")
        self._codes = pl.Enum(names)
        self._left_out = np.isin(names, list(without))

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, block by block, the numbers of the items from 0 (int32), one line after the other, and how many each line has.

        Raises:
            InputError: an item that is not among the names.
        """
        for start in range(0, len(self._lines), BLOCK):
            tokens = self._lines[start : start + BLOCK].str.extract("\t(.*)").str.split(" ")
            num_lines = len(tokens)
            rows = np.repeat(np.arange(num_lines), tokens.list.len().to_numpy())
            tokens = tokens.explode()
            numbers = tokens.cast(self._codes, strict=False).to_physical()
            if (unknown := (numbers.is_null() & (tokens != "")).arg_true()).len():
                line = start + rows[unknown[0]] + 1
                raise InputError(
                    f"{self.path}, line {line}: item {tokens[unknown[0]]!r} is not in items.tsv; add it there or remove it here"
                )
            present = numbers.is_not_null().to_numpy()
            rows, block = rows[present], numbers.drop_nulls().to_numpy().astype(np.int32)
            kept = ~self._left_out[block]
            yield block[kept], np.bincount(rows[kept], minlength=num_lines)


def column_of_lines(path: Path) -> pl.Series:
    """The file as one column of text, a line a row, without line ends.

    Raises:
        InputError: no such file, an empty one, one that is no UTF-8.
    """
    check_table(path)
    try:
        with reading(path):
            table = pl.read_csv(path, separator="\n", has_header=False, quote_char=None, new_columns=["line"], infer_schema=False)
    except pl.exceptions.PolarsError:
        raise not_utf8(path) from None
    return table["line"].fill_null("").str.strip_suffix("\r")
