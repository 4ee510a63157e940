"""The one reader of a dataset's two tables: numbering, the leave-one-out split and popularity.

`behaviours.tsv` holds a user a line (`user<TAB>item item ...`, in time order), `items.tsv` an item a line
(`item<TAB>field<TAB>field ...`). Legend: U users, N items (numbered from 1, 0 is padding), L = max_seq_len.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from odmt.errors import InputError
from odmt.features.item_table import check_table, not_utf8, read_items

Split = Literal["train", "valid", "test"]

BLOCK = 100_000  # lines that are taken apart at a time


@dataclass(frozen=True)
class Interactions:
    """The windows of all users as one flat array.

    A window is what is kept of a user: the last L + 3 interactions. Its last item is the test target, the one before the
    validation target, the rest the training part.

    Attributes:
        user_ids: U names, in the order of the file.
        item_ids: N names; item n is `item_ids[n - 1]`.
        texts: N texts, fields joined by one space, lower-cased.
        items: int32 item numbers of all windows, one user after the other.
        offsets: int64 [U + 1]; the window of user u is `items[offsets[u]:offsets[u + 1]]`.
        max_seq_len: L.
    """

    user_ids: list[str]
    item_ids: list[str]
    texts: list[str]
    items: np.ndarray
    offsets: np.ndarray
    max_seq_len: int

    @classmethod
    def load(
        cls, folder: Path, max_seq_len: int = 12, min_seq_len: int = 5, without: Collection[str] = frozenset()
    ) -> "Interactions":
        """Read a dataset, dropping users with fewer than `min_seq_len` interactions, then items without any.

        Args:
            folder: holds behaviours.tsv and items.tsv.
            max_seq_len: L.
            min_seq_len: the least interactions a user has; counted before the window is cut.
            without: names of items that are left out of everything, as if they stood in neither table.

        Raises:
            InputError: a table that is missing, empty or broken, with file, line and remedy; no user left.
        """
        folder = Path(folder)
        names, texts = read_items(folder / "items.tsv")
        user_ids, items, offsets = _read_windows(folder / "behaviours.tsv", names, without, max_seq_len + 3, min_seq_len)
        # Items left with no interaction are dropped; the others are renumbered in the order of items.tsv.
        used = np.flatnonzero(np.bincount(items, minlength=len(names) + 1))
        renumbered = np.zeros(len(names) + 1, np.int32)
        renumbered[used] = np.arange(1, len(used) + 1)
        return cls(
            user_ids=user_ids,
            item_ids=[names[n - 1] for n in used],
            texts=[texts[n - 1] for n in used],
            items=renumbered[items],
            offsets=offsets,
            max_seq_len=max_seq_len,
        )

    def fingerprint(self) -> str:
        """A hash of names and windows: what a model with an ID table cannot do without."""
        digest = hashlib.sha256(self.items.tobytes() + self.offsets.tobytes())
        for names in (self.user_ids, self.item_ids):
            digest.update("\n".join(names).encode())
        return digest.hexdigest()[:16]

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """N, padding not counted."""
        return len(self.item_ids)

    def histories(self, users: np.ndarray, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Everything that a split may know of some users.

        The training part for `train` and `valid`, that and the validation target for `test`.

        Returns:
            items, one user after the other, and the number of items of each user [len(users)].
        """
        ends = self.offsets[users + 1] - (1 if split == "test" else 2)
        return self._slices(self.offsets[users], ends)

    def inputs(self, users: np.ndarray, split: Literal["valid", "test"]) -> tuple[np.ndarray, np.ndarray]:
        """The last L items of the histories, what a backbone sees; returns as `histories`."""
        ends = self.offsets[users + 1] - (1 if split == "test" else 2)
        return self._slices(np.maximum(self.offsets[users], ends - self.max_seq_len), ends)

    def targets(self, split: Literal["valid", "test"]) -> np.ndarray:
        """The held-out item of every user [U]."""
        return self.items[self.offsets[1:] - (1 if split == "test" else 2)]

    def num_repeated(self, split: Literal["valid", "test"]) -> int:
        """How many users' targets stand in their history, where no model can rank them."""
        items, lengths = self.histories(np.arange(self.num_users), split)
        found = items == np.repeat(self.targets(split), lengths)
        return len(np.unique(np.repeat(np.arange(self.num_users), lengths)[found]))

    def train_counts(self) -> np.ndarray:
        """How often each item occurs in the training parts [N + 1], 0 for padding."""
        in_train = np.ones(len(self.items), bool)
        in_train[self.offsets[1:] - 1] = False
        in_train[self.offsets[1:] - 2] = False
        return np.bincount(self.items[in_train], minlength=self.num_items + 1)

    def popularity(self, power: float = 1.0) -> np.ndarray:
        """pop(i) of Eq. 6: training counts to `power`, normalised to sum 1 [N + 1]; 1 for padding.

        Items that never occur in training have popularity 0; they are never candidates of the training loss.
        """
        counts = self.train_counts().astype(np.float64)
        # 0 ** 0 is 1: what is absent stays absent at power 0.
        weights = np.where(counts > 0, counts**power, 0.0)
        popularity = weights / weights.sum()
        popularity[0] = 1.0
        return popularity

    def _slices(self, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lengths = ends - starts
        shifts = np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
        return self.items[np.arange(lengths.sum()) + shifts], lengths


def _read_windows(path: Path, names: list[str], without: Collection[str], window: int, min_seq_len: int):
    """Read the behaviours in blocks of lines, column-wise: 15 million item names are too many for a Python loop."""
    lines = _column_of_lines(path)
    tabs = lines.str.count_matches("\t")
    if (wrong := (tabs != 1).arg_true()).len():
        raise InputError(
            f"{path}, line {wrong[0] + 1}: {tabs[wrong[0]] + 1} columns, expected 2: user<TAB>item item ..., "
            "items separated by blanks"
        )
    _check_distinct(path, users := lines.str.extract("^([^\t]*)"))
    left_out = np.isin(names, list(without))
    codes = pl.Enum(names)
    kept, items, lengths = [], [], []
    for start in range(0, len(lines), BLOCK):
        tokens = lines[start : start + BLOCK].str.extract("\t(.*)").str.split(" ")
        rows = np.repeat(np.arange(len(tokens)), tokens.list.len().to_numpy())
        tokens = tokens.explode()
        numbers = tokens.cast(codes, strict=False).to_physical()
        if (unknown := (numbers.is_null() & (tokens != "")).arg_true()).len():
            line = start + rows[unknown[0]] + 1
            raise InputError(
                f"{path}, line {line}: item {tokens[unknown[0]]!r} is not in items.tsv; add it there or remove it here"
            )
        present = numbers.is_not_null().to_numpy()
        rows, block = rows[present], numbers.drop_nulls().to_numpy().astype(np.int32)
        rows, block = rows[~left_out[block]], block[~left_out[block]] + 1
        length = np.bincount(rows, minlength=min(BLOCK, len(lines) - start))
        from_end = np.repeat(np.cumsum(length), length) - np.arange(len(block))
        items.append(block[(from_end <= window) & (length >= min_seq_len)[rows]])
        kept.append(length >= min_seq_len)
        lengths.append(np.minimum(length[kept[-1]], window))
    kept = np.concatenate(kept)
    if not kept.any():
        raise InputError(f"{path}: none of {len(lines)} users has {min_seq_len} interactions; lower data.min_seq_len or add data")
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return users.filter(pl.Series(kept)).to_list(), np.concatenate(items), offsets


def _check_distinct(path: Path, users: pl.Series):
    if users.n_unique() == len(users):
        return
    user = users.filter(users.is_duplicated())[0]
    first, second = (users == user).arg_true()[:2] + 1
    raise InputError(f"{path}, line {second}: user {user!r} stands in line {first} already; join the two lines")


def _column_of_lines(path: Path) -> pl.Series:
    """The file as one column of text, a line a row, without line ends."""
    check_table(path)
    try:
        table = pl.read_csv(path, separator="\n", has_header=False, quote_char=None, new_columns=["line"], infer_schema=False)
    except pl.exceptions.ComputeError:
        raise not_utf8(path) from None
    return table["line"].fill_null("").str.strip_suffix("\r")
