"""A dataset of pairs small enough for a test: users like the items of one of three categories, and features tell the category."""

from pathlib import Path

import numpy as np

from odmt.features.header import Header, Record
from odmt.features.writer import FeatureWriter

WIDTHS = {"image": 24, "text": 12}
NUM_LABELS = 3


def write_pairs(folder: Path, num_users: int = 24, num_items: int = 30, valid: bool = True, modalities=("image", "text")) -> Path:
    """Write tables, categories and features; every user has 5 train, 2 validation and 2 test items of his category."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    splits: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for user in range(num_users):
        liked = random.permutation(np.arange(user % NUM_LABELS, num_items, NUM_LABELS))[:9]
        for split, items in {"train": liked[:5], "valid": liked[5:7], "test": liked[7:9]}.items():
            splits[split].append(f"u{user}\t{' '.join(f'i{item}' for item in items)}\n")
    for split, lines in splits.items():
        if split != "valid" or valid:
            (folder / f"{split}.tsv").write_text("".join(lines))
    items = [f"i{item}" for item in range(num_items)]
    (folder / "items.tsv").write_text("".join(f"{item}\tthing {item}\n" for item in items))
    (folder / "labels.tsv").write_text("".join(f"{item}\tkind{number % NUM_LABELS}\n" for number, item in enumerate(items)))
    for modality in modalities:
        centres = random.normal(size=(NUM_LABELS, WIDTHS[modality]))
        noise = random.normal(size=(num_items, WIDTHS[modality]))
        rows = (centres[np.arange(num_items) % NUM_LABELS] + 0.1 * noise).astype(np.float16)
        header = Header(modality, "random numbers", "none", "none", WIDTHS[modality], 1, "none")
        with FeatureWriter(folder / "features" / modality, header) as writer:
            writer.add({item: row[None] for item, row in zip(items, rows)}, {item: Record("none") for item in items})
    return folder
