"""Looking at feature stores: what is in them, and whether neighbours in feature space look alike.

Legend: N items, Q items that are shown, K neighbours of each, W feature width.
"""

import dataclasses
import textwrap
import warnings
from pathlib import Path

import numpy as np
from jsonargparse.typing import PositiveInt
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate
from tqdm import tqdm

from odmt.errors import InputError
from odmt.features.dataset import find_dataset
from odmt.features.images import find_images, open_image, to_rgb
from odmt.features.item_table import read_items
from odmt.features.store import FeatureStore, shard_paths
from odmt.features.writer import LISTS
from odmt.files import written_whole

# Titles may be Chinese; whichever of these fonts is installed stands in where the first has no glyph.
FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "SimHei"]
CELL = 1.8  # inches
THUMBNAIL = 200  # pixels


def inspect_features(
    dataset: Path, out: Path | None = None, num_items: PositiveInt = 8, num_neighbours: PositiveInt = 4, seed: int = 0
):
    """Print what the feature stores of a dataset hold and draw a contact sheet to look at.

    The sheet shows some items with their texts and, beside each, the items whose image and text features are nearest to its own:
    by cosine of the CLS tokens, from which the mean over all items is taken away.

    Args:
        dataset: the dataset's folder, data/NAME, or its name.
        out: the PNG to write; by default DATASET/contact_sheet.png.
        num_items: rows of the sheet.
        num_neighbours: neighbours of an item by each modality.
        seed: chooses the items that are shown.

    Raises:
        InputError: a dataset without features, or whose items have none; a file that cannot be written.
    """
    dataset = find_dataset(dataset)
    item_ids, texts = read_items(dataset / "items.tsv")
    folders = sorted(path.parent for path in dataset.glob("features/*/header.json"))
    if not folders:
        raise InputError(f"{dataset / 'features'}: no features; make them with: scripts/extract_features.py --dataset {dataset}")
    features = {}
    for folder in folders:
        with FeatureStore(folder) as store:
            print(describe(store, item_ids), end="\n\n")
            features[folder.name] = first_tokens(store, item_ids)
    complete = [index for index in range(len(item_ids)) if all(index in rows for rows in features.values())]
    if not complete:
        raise InputError(f"{dataset}: no item of items.tsv has all features; run scripts/extract_features.py --dataset {dataset}")
    shown = np.random.default_rng(seed).permutation(complete)[:num_items]
    neighbours = {modality: nearest(rows, shown, num_neighbours)[0] for modality, rows in features.items()}
    images = find_images(dataset / "images", item_ids) if (dataset / "images").is_dir() else {}
    cells = [Cell(item_id, text, images.get(item_id)) for item_id, text in zip(item_ids, texts)]
    out = Path(out or dataset / "contact_sheet.png")
    with warnings.catch_warnings(record=True, action="always") as caught:
        _save(contact_sheet(cells, shown, neighbours), out)
    print(f"contact sheet: {out}")
    if any("Glyph" in str(warning.message) for warning in caught):
        print("It has characters that no installed font can draw; for Chinese install Noto Sans CJK.")


@dataclasses.dataclass
class Cell:
    """An item as the contact sheet shows it.

    Attributes:
        item_id: its name.
        text: its text.
        image: its image's file, None where there is none.
    """

    item_id: str
    text: str
    image: Path | None


def describe(store: FeatureStore, item_ids: list[str]) -> str:
    """The header, the numbers of items and tokens and the sizes of a store, as a table."""
    stored = [item_id for item_id in item_ids if item_id in store]
    tokens = np.array([store.num_tokens(item_id) for item_id in stored] or [0])
    sizes = [path.stat().st_size / 1e6 for path in shard_paths(store.folder)]
    rows = [
        ("folder", store.folder),
        *dataclasses.asdict(store.header).items(),
        ("items", f"{len(store):,}; of the {len(item_ids):,} in items.tsv {len(item_ids) - len(stored):,} have no features"),
        ("tokens", f"{tokens.sum():,}; an item has {tokens.min()} to {tokens.max()}, {tokens.mean():.1f} on average"),
        ("size", " + ".join(f"{size:,.1f} MB" for size in sizes)),
    ]
    for name in LISTS.values():
        if (path := store.folder / name).exists():
            rows.append((name, f"{len(path.read_bytes().splitlines()):,} items"))
    return tabulate(rows, tablefmt="plain")


def first_tokens(store: FeatureStore, item_ids: list[str]) -> dict[int, np.ndarray]:
    """The first token [W] of every item that has features, by its position among the items."""
    positions = tqdm(range(len(item_ids)), f"{store.header.modality}: reading", unit="item", leave=False, delay=1)
    return {index: store.read(item_ids[index])[0] for index in positions if item_ids[index] in store}


def nearest(rows: dict[int, np.ndarray], shown: np.ndarray, num_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """The items nearest to some, these themselves left out: positions [Q, K], the nearest first, and their cosines [Q, K].

    Features of one encoder share a large common direction; without taking away their mean all cosines are near 1.
    """
    positions = np.array(list(rows))
    vectors = np.stack(list(rows.values())).astype(np.float32)
    vectors -= vectors.mean(0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    queries = np.searchsorted(positions, shown)
    cosines = vectors[queries] @ vectors.T  # [Q, N]
    cosines[np.arange(len(queries)), queries] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(num_neighbours, len(positions) - 1)]
    return positions[order], np.take_along_axis(cosines, order, axis=1)


def contact_sheet(cells: list[Cell], shown: np.ndarray, neighbours: dict[str, np.ndarray]) -> Figure:
    """Draw a row for each item that is shown: itself, then its neighbours by each modality."""
    num_columns = 1 + sum(found.shape[1] for found in neighbours.values())
    figure = Figure(figsize=(CELL * num_columns, 1.4 * CELL * len(shown) + 0.4), layout="constrained")
    axes = figure.subplots(len(shown), num_columns, squeeze=False)
    installed = font_manager.get_font_names()
    fonts = [name for name in FONTS if name in installed]
    for row, item in enumerate(shown):
        columns = [("item", item)]
        for modality, found in neighbours.items():
            columns += [(f"by {modality}, {rank}", index) for rank, index in enumerate(found[row], 1)]
        for axis, (heading, index) in zip(axes[row], columns):
            _draw(axis, cells[index], heading if row == 0 else "", fonts)
    return figure


def _save(figure: Figure, path: Path):
    with written_whole(path, "or name another file with --out") as partial:
        figure.savefig(partial, format="png", dpi=100)


def _draw(axis: Axes, cell: Cell, heading: str, fonts: list[str]):
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(heading, fontsize=9)
    if cell.image is not None:
        try:
            with open_image(cell.image) as opened:
                image = to_rgb(opened)
                image.thumbnail((THUMBNAIL, THUMBNAIL))
                axis.imshow(np.asarray(image))
        except Exception as error:  # as in odmt.features.images: a broken file, which extraction lists with its reason
            axis.text(0.5, 0.5, type(error).__name__, ha="center", transform=axis.transAxes, fontsize=8)
    lines = textwrap.wrap(f"{cell.item_id}: {cell.text}", 26, max_lines=4, placeholder=" …")
    axis.set_xlabel("\n".join(lines), fontsize=8, family=fonts, parse_math=False)
