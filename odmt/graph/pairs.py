"""A dataset as pairs of users and items: three splits without an order, numbering, popularity.

`train.tsv`, `test.tsv` and, optional, `valid.tsv` hold a user a line: `user<TAB>item item ...`. A dataset of `behaviours.tsv` is
read as it is: the last item of a user's window is his test item, the one before his validation item, as sequential models have it.
Legend: U users and N items, both numbered from 0, E pairs.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from odmt.config import Split
from odmt.errors import InputError
from odmt.features.behaviours import ListFile, read_windows
from odmt.features.item_table import read_items
from odmt.item_lists import ItemLists, fingerprint

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Pairs:
    """What users have had, by split.

    Every user has a train item. No pair stands twice, unless a dataset of sequences repeats an item: then the held-out one is
    among those that the user has seen, and no model can rank it.

    Attributes:
        user_ids: U names.
        item_ids: N names, of the items that stand in any split, in the order of items.tsv.
        texts: N texts, fields joined by one space, lower-cased.
        train: what models learn from.
        valid: by what epochs and settings are chosen; without any pair where a dataset has none.
        test: looked at once.
        ordered: whether a user's items stand in the order of a sequence.
    """

    user_ids: list[str]
    item_ids: list[str]
    texts: list[str]
    train: ItemLists
    valid: ItemLists
    test: ItemLists
    ordered: bool = False

    @classmethod
    def load(
        cls,
        folder: Path,
        max_seq_len: int = 12,
        min_seq_len: int = 5,
        without: Collection[str] = frozenset(),
        leave_one_out: bool = False,
    ) -> "Pairs":
        """Read a dataset: its own split where it has one, else the last two items of each user held out.

        Args:
            folder: holds items.tsv and train.tsv with test.tsv, or behaviours.tsv.
            max_seq_len: of the behaviours, as for sequential models: of each user the last `max_seq_len` + 3 items are kept.
            min_seq_len: of the behaviours: the least interactions a user has.
            without: names of items that are left out of everything; users that are left without a train item are dropped.
            leave_one_out: take the behaviours also where there is a split.

        Raises:
            InputError: a table that is missing, empty or broken, with file, line and remedy; a pair that stands twice.
        """
        folder = Path(folder)
        if (folder / "train.tsv").exists() and not leave_one_out:
            return cls._read_split(folder, without)
        if not (folder / "behaviours.tsv").exists() and not leave_one_out:
            raise InputError(
                f"{folder}: neither train.tsv nor behaviours.tsv; scripts/prepare.py makes a dataset, data/README.md tells how"
            )
        return cls._leave_one_out(folder, max_seq_len, min_seq_len, without)

    @classmethod
    def _leave_one_out(cls, folder: Path, max_seq_len: int, min_seq_len: int, without: Collection[str]) -> "Pairs":
        windows = read_windows(folder, max_seq_len, min_seq_len, without)
        items, offsets = windows.items.astype(np.int64) - 1, windows.offsets
        in_train = np.ones(len(items), bool)
        in_train[offsets[1:] - 1] = in_train[offsets[1:] - 2] = False
        users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        # A graph has an edge or not, so that a repeated item counts once.
        first = np.unique(users[in_train] * len(windows.item_ids) + items[in_train], return_index=True)[1]
        kept = np.flatnonzero(in_train)[np.sort(first)]
        train = ItemLists.of_counts(items[kept], np.bincount(users[kept], minlength=len(offsets) - 1))
        held_out = {split: items[offsets[1:] - back] for split, back in {"test": 1, "valid": 2}.items()}
        one_each = np.arange(len(offsets))
        edges = {split: ItemLists(numbers, one_each) for split, numbers in held_out.items()}
        return cls(windows.user_ids, windows.item_ids, windows.texts, train, **edges, ordered=True)

    @classmethod
    def _read_split(cls, folder: Path, without: Collection[str]) -> "Pairs":
        names, texts = read_items(folder / "items.tsv")
        present = [split for split in SPLITS if split != "valid" or (folder / "valid.tsv").exists()]
        lists = {split: ListFile(folder / f"{split}.tsv", names, without) for split in present}
        rows = pl.Enum(lists["train"].users)
        pairs = {split: _pairs(lists[split], rows) for split in present}
        _check_distinct(folder, pairs, lists, names)
        num_users = len(lists["train"].users)
        kept = np.bincount(pairs["train"][0], minlength=num_users) > 0
        if not kept.any():
            raise InputError(f"{folder / 'train.tsv'}: no user has a train item; add data")
        pairs = {split: (users[kept[users]], items[kept[users]]) for split, (users, items) in pairs.items()}
        used = np.flatnonzero(np.bincount(np.concatenate([items for _, items in pairs.values()]), minlength=len(names)))
        renumbered = np.zeros(len(names), np.int64)
        renumbered[used] = np.arange(len(used))
        edges = {}
        for split in SPLITS:
            users, items = pairs.get(split, (np.empty(0, np.int64),) * 2)
            order = np.argsort(users, kind="stable")
            edges[split] = ItemLists.of_counts(renumbered[items[order]], np.bincount(users, minlength=num_users)[kept])
        user_ids = lists["train"].users.filter(pl.Series(kept)).to_list()
        return cls(user_ids, [names[n] for n in used], [texts[n] for n in used], **edges, ordered=False)

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.item_ids)

    def held_out(self, split: Split) -> ItemLists:
        """What is to be found; users may have none."""
        return self.valid if split == "valid" else self.test

    def seen(self, split: Split) -> ItemLists:
        """What is known of the users then and never recommended: train for `valid`, train and valid for `test`."""
        return self.train if split == "valid" else self.train.join(self.valid)

    def train_counts(self) -> np.ndarray:
        """How many users have each item in train, int64 [N]."""
        return np.bincount(self.train.items, minlength=self.num_items)

    def fingerprint(self) -> str:
        """A hash of names and pairs: what a model with tables of users and items cannot do without."""
        splits = (self.train, self.valid, self.test)
        return fingerprint((array for split in splits for array in (split.items, split.offsets)), self.user_ids, self.item_ids)


def _pairs(lists: ListFile, train_users: pl.Enum) -> tuple[np.ndarray, np.ndarray]:
    """Users, by their line in train.tsv, and items of a split, int64 [E]."""
    rows = lists.users.cast(train_users, strict=False).to_physical()
    if (unknown := rows.is_null().arg_true()).len():
        raise InputError(
            f"{lists.path}, line {unknown[0] + 1}: user {lists.users[unknown[0]]!r} is not in train.tsv; "
            "give every user a train item or remove the line"
        )
    blocks = list(lists.blocks())
    counts = np.concatenate([counts for _, counts in blocks])
    return np.repeat(rows.to_numpy().astype(np.int64), counts), np.concatenate([items for items, _ in blocks]).astype(np.int64)


def _check_distinct(folder: Path, pairs: dict[str, tuple[np.ndarray, np.ndarray]], lists: dict[str, ListFile], names: list[str]):
    """Refuse a pair that stands twice: in two splits it would be learnt and tested."""
    keys = np.concatenate([users * len(names) + items for users, items in pairs.values()])
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    if not len(same):
        return
    splits = np.repeat(list(pairs), [len(items) for _, items in pairs.values()])
    first, second = (splits[order[same[0] + step]] for step in (0, 1))
    row, item = divmod(int(keys[order[same[0]]]), len(names))
    user = lists["train"].users[row]
    line = (lists[second].users == user).arg_true()[0] + 1
    place = "twice in that line" if first == second else f"in {first}.tsv too"
    raise InputError(
        f"{folder / second}.tsv, line {line}: item {names[item]!r} of user {user!r} stands {place}; remove one of the two "
        f"(pairs that stand twice: {len(same)})"
    )
