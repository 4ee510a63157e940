"""A dataset as sequences: the leave-one-out split and popularity.

Legend: U users, N items (numbered from 1, 0 is padding), L = max_seq_len.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from odmt.config import Split
from odmt.features.behaviours import Windows, read_windows
from odmt.item_lists import fingerprint, places


@dataclass(frozen=True)
class Interactions(Windows):
    """The windows of all users and what each split knows of them.

    A window is what is kept of a user: the last L + 3 interactions. Its last item is the test target, the one before the
    validation target, the rest the training part.

    Attributes:
        max_seq_len: L.
    """

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
        windows = read_windows(folder, max_seq_len, min_seq_len, without)
        return cls(**vars(windows), max_seq_len=max_seq_len)

    def fingerprint(self) -> str:
        """A hash of names and windows: what a model with an ID table cannot do without."""
        return fingerprint((self.items, self.offsets), self.user_ids, self.item_ids)

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """N, padding not counted."""
        return len(self.item_ids)

    def histories(self, users: np.ndarray, split: Split | Literal["train"]) -> tuple[np.ndarray, np.ndarray]:
        """Everything that a split may know of some users.

        The training part for `train` and `valid`, that and the validation target for `test`.

        Returns:
            items, one user after the other, and the number of items of each user [len(users)].
        """
        ends = self.offsets[users + 1] - (1 if split == "test" else 2)
        return self._slices(self.offsets[users], ends)

    def inputs(self, users: np.ndarray, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """The last L items of the histories, what a backbone sees; returns as `histories`."""
        ends = self.offsets[users + 1] - (1 if split == "test" else 2)
        return self._slices(np.maximum(self.offsets[users], ends - self.max_seq_len), ends)

    def targets(self, split: Split) -> np.ndarray:
        """The held-out item of every user [U]."""
        return self.items[self.offsets[1:] - (1 if split == "test" else 2)]

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
        return self.items[places(starts, ends - starts)], ends - starts
