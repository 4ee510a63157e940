"""A dataset small enough to be learnt by heart: after item k comes item k + 1, around a ring; a user's items are distinct."""

from pathlib import Path

import numpy as np

from odmt.features.header import Header, Record
from odmt.features.writer import FeatureWriter

WIDTH = 12


def write_ring(
    folder: Path, num_items: int, length: int, modalities: tuple[str, ...] = ("text", "image"), names=("user{}", "{}")
) -> Path:
    """Write a dataset with a user for every place of the ring to start from; an item has random features of 2 to 4 tokens.

    Categories are three; `names` are forms of the names of users and items.
    """
    folder.mkdir(parents=True)
    rings = [[(start + step) % num_items + 1 for step in range(length)] for start in range(num_items)]
    user, item_name = names
    lines = [f"{user.format(start)}\t{' '.join(map(item_name.format, ring))}\n" for start, ring in enumerate(rings)]
    (folder / "behaviours.tsv").write_text("".join(lines))
    items = {item_name.format(item): item for item in range(1, num_items + 1)}
    (folder / "items.tsv").write_text("".join(f"{name}\tthing {item}\n" for name, item in items.items()))
    (folder / "labels.tsv").write_text("".join(f"{name}\tkind {item % 3}\n" for name, item in items.items()))
    if "image" in modalities:
        (folder / "images").mkdir()
    random = np.random.default_rng(0)
    for modality in modalities:
        header = Header(modality, "random numbers", "none", "none", WIDTH, 4, "none")
        tokens = {name: random.normal(size=(2 + item % 3, WIDTH)).astype(np.float16) for name, item in items.items()}
        with FeatureWriter(folder / "features" / modality, header) as writer:
            writer.add(tokens, {name: Record("none") for name in items})
    return folder
