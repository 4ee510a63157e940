"""Lists of items, one a user: what users had, and what is held out of it.

Legend: U users, E items of all of them.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


def places(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Where the elements of some pieces of an array stand in it, one piece after the other.

    Args:
        starts: first place of each piece.
        lengths: elements of each piece.
    """
    return np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)


def fingerprint(arrays: Iterable[np.ndarray], *names: list[str]) -> str:
    """A hash of lists of items and of the names of their users and items."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    for of_kind in names:
        digest.update("\n".join(of_kind).encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class ItemLists:
    """The items of every user as one flat array.

    Attributes:
        items: int64 [E] numbers of items, one user after the other.
        offsets: int64 [U + 1]; the items of user u are `items[offsets[u]:offsets[u + 1]]`.
    """

    items: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of_counts(cls, items: np.ndarray, counts: np.ndarray) -> "ItemLists":
        """From the items of all users and how many each has [U]."""
        return cls(items.astype(np.int64), np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))

    @property
    def counts(self) -> np.ndarray:
        """How many items each user has, int64 [U]."""
        return np.diff(self.offsets)

    @property
    def users(self) -> np.ndarray:
        """The user of every pair, int64 [E]."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)

    def of(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items of some users, one user after the other, and how many each has [len(users)]."""
        return self.last(users, len(self.items))

    def last(self, users: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """The last items of some users, so many of each one's at most; returns as `of`."""
        ends = self.offsets[users + 1]
        starts = np.maximum(self.offsets[users], ends - most)
        return self.items[places(starts, ends - starts)], ends - starts

    def join(self, other: "ItemLists") -> "ItemLists":
        """The items of both, each user's own before the other's."""
        users, counts = np.concatenate([self.users, other.users]), self.counts + other.counts
        return ItemLists.of_counts(np.concatenate([self.items, other.items])[np.argsort(users, kind="stable")], counts)
