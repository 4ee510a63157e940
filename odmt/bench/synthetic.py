"""Data of a published dataset's shape: random, but as long, as repetitive and as large as the real one.

Legend: U users, N items, T tokens, W feature width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from odmt.features.header import MODALITIES, Header, Record
from odmt.features.tables import ResidentTable
from odmt.features.writer import FeatureWriter
from odmt.sequential.interactions import Interactions

Shape = Literal["arts", "office", "hm", "stream", "arts-small", "tiny"]

WIDTH = 768  # of BERT's and CLIP's tokens
TEXT_TOKENS = 30
IMAGE_TOKENS = 50
MAX_SEQ_LEN = 12
MIN_SEQ_LEN = 5
CHUNK = 1 << 22  # random numbers that are drawn at a time
POOL = 1000  # items whose features stand for those of all where all would not fit or take too long to make


@dataclass(frozen=True)
class Counts:
    """Users, items and the mean number of interactions of a user before he is cut to his window (Table 1)."""

    users: int
    items: int
    mean_length: float


COUNTS: dict[Shape, Counts] = {
    "arts": Counts(43_583, 58_900, 7.656),
    "office": Counts(71_865, 91_527, 9.288),
    "hm": Counts(50_000, 61_042, 12.138),
    "stream": Counts(100_000, 19_683, 6.875),
    "arts-small": Counts(4_000, 6_000, 7.656),
    "tiny": Counts(60, 90, 7.656),  # to try the commands
}


def synthetic_interactions(counts: Counts, seed: int = 0) -> Interactions:
    """Draw the windows of all users.

    Choice: lengths are 5 and more, beyond that negative-binomial with shape 1/2, so that few users are very active; items
    follow a power law of exponent 0.82 after everyone of them occurred once. With the counts of Arts a batch of 128 users then has
    about 690 real slots and 610 distinct items, as the real dataset does.
    """
    rng = np.random.default_rng(seed)
    beyond = counts.mean_length - MIN_SEQ_LEN
    lengths = MIN_SEQ_LEN + rng.negative_binomial(0.5, 0.5 / (0.5 + beyond), counts.users)
    lengths = np.minimum(lengths, MAX_SEQ_LEN + 3)
    total = int(lengths.sum())
    once = rng.permutation(counts.items)[: total // 2]
    weights = (1 + np.arange(counts.items)) ** -0.82
    drawn = np.searchsorted((weights / weights.sum()).cumsum(), rng.random(total - len(once)))
    items = np.concatenate([once, np.minimum(drawn, counts.items - 1)])
    rng.shuffle(items)
    return Interactions(
        user_ids=[f"u{n}" for n in range(1, counts.users + 1)],
        item_ids=[f"i{n}" for n in range(1, counts.items + 1)],
        texts=[""] * counts.items,
        items=(items + 1).astype(np.int32),
        offsets=np.concatenate([[0], lengths.cumsum()]),
        max_seq_len=MAX_SEQ_LEN,
    )


def text_lengths(count: int, seed: int = 0) -> np.ndarray:
    """Tokens of some texts: 10 to 40 before they are cut to 30, so that a third fills all of them; 23 on average."""
    return np.minimum(np.random.default_rng(seed).integers(10, 41, count), TEXT_TOKENS)


class SyntheticTable(ResidentTable):
    """A resident table of random features, several items to a row where there are fewer rows than items.

    Args:
        lengths: tokens of every row.
        row_of_item: [N], the row of each item from 1 on.
        device: where the features are.
        width: W.
    """

    def __init__(self, lengths: np.ndarray, row_of_item: np.ndarray, device: torch.device, width: int = WIDTH):
        self.width = width
        self.lengths = lengths[row_of_item]
        self.starts = (lengths.cumsum() - lengths)[row_of_item]
        self.values = torch.empty(int(lengths.sum()), width, dtype=torch.float16, device=device)
        flat = self.values.view(-1)
        for begin in range(0, len(flat), CHUNK):
            part = flat[begin : begin + CHUNK]
            part.copy_(torch.randn(len(part), device=device))


def synthetic_tables(row_of_item: np.ndarray, device: torch.device) -> dict[str, SyntheticTable]:
    """Random text and image features.

    Args:
        row_of_item: [N], the row of each item from 1 on; items that share a row have the same features.
        device: where the features are.
    """
    rows = int(row_of_item.max()) + 1
    return {
        "text": SyntheticTable(text_lengths(rows), row_of_item, device),
        "image": SyntheticTable(np.full(rows, IMAGE_TOKENS), row_of_item, device),
    }


def write_dataset(folder: Path, interactions: Interactions):
    """Write the two tables and the feature stores of a dataset; the features come from a pool of 1,000 items.

    Args:
        folder: the dataset's folder, made here.
        interactions: whose windows become the users' lines.
    """
    folder.mkdir(parents=True)
    windows = np.split(interactions.items, interactions.offsets[1:-1])
    lines = (f"{user}\t{' '.join(f'i{n}' for n in window)}\n" for user, window in zip(interactions.user_ids, windows))
    (folder / "behaviours.tsv").write_text("".join(lines))
    (folder / "items.tsv").write_text("".join(f"{item}\tan item\n" for item in interactions.item_ids))
    tables = synthetic_tables(np.arange(min(POOL, interactions.num_items)), torch.device("cpu"))
    for modality in MODALITIES:
        table = tables[modality]
        parts = table.values.split(table.lengths.tolist())
        header = Header(modality, "random", "none", "none", table.width, int(table.lengths.max()), "none")
        with FeatureWriter(folder / "features" / modality, header) as writer:
            for begin in tqdm(range(0, interactions.num_items, POOL), desc=f"{modality} features", leave=False, delay=2):
                block = interactions.item_ids[begin : begin + POOL]
                writer.add({item: part.numpy() for item, part in zip(block, parts)}, dict.fromkeys(block, Record("none")))
