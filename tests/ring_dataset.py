"""A dataset small enough to be learnt by heart: after item k comes item k + 1, around a ring; a user's items are distinct."""

from pathlib import Path

import numpy as np

from odmt.features.header import Header, Record
from odmt.features.writer import FeatureWriter

WIDTH = 12


def write_ring(folder: Path, num_items: int, length: int, modalities: tuple[str, ...] = ("text", "image")) -> Path:
    """Write a dataset with a user for every place of the ring to start from; an item has random features of 2 to 4 tokens.

    Categories are three.
    """
    folder.mkdir(parents=True)
    rings = [[(start + step) % num_items + 1 for step in range(length)] for start in range(num_items)]
    lines = [f"user{start}\t{' '.join(map(str, ring))}\n" for start, ring in enumerate(rings)]
    (folder / "behaviours.tsv").write_text("".join(lines))
    items = [str(item) for item in range(1, num_items + 1)]
    (folder / "items.tsv").write_text("".join(f"{item}\tthing {item}\n" for item in items))
    (folder / "labels.tsv").write_text("".join(f"{item}\tkind {int(item) % 3}\n" for item in items))
    if "image" in modalities:
        (folder / "images").mkdir()
    random = np.random.default_rng(0)
    for modality in modalities:
        header = Header(modality, "random numbers", "none", "none", WIDTH, 4, "none")
        tokens = {item: random.normal(size=(2 + int(item) % 3, WIDTH)).astype(np.float16) for item in items}
        with FeatureWriter(folder / "features" / modality, header) as writer:
            writer.add(tokens, {item: Record("none") for item in items})
    return folder
