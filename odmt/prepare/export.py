"""Datasets in the formats of RecBole and MMRec, so that a peer is run on exactly the data that the models here see.

What is exported is what is read here: the windows of users who are long enough, items with features, the split that is given or,
without one, the last two items of each user held out.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import yaml
from tqdm import tqdm

from odmt.features.behaviours import ListFile, read_windows
from odmt.features.dataset import find_dataset
from odmt.features.item_table import read_items
from odmt.features.labels import read_labels
from odmt.features.store import FeatureStore
from odmt.features.tables import left_out_items
from odmt.prepare.new_folder import new_folder

PARTS = ("train", "valid", "test")


def export_dataset(dataset: Path, to: Literal["recbole", "mmrec"], out: Path, max_seq_len: int = 12, min_seq_len: int = 5):
    """Write a dataset for RecBole (atomic files and a configuration) or MMRec (a folder with its features).

    Args:
        dataset: the dataset's folder, data/NAME, or its name; the files are called after it.
        to: the format.
        out: the folder to write, new or empty.
        max_seq_len: as in training (data.max_seq_len): of each user's sequence the last max_seq_len + 3 items are exported.
        min_seq_len: as in training (data.min_seq_len): users with fewer items in their sequence are not.
    """
    dataset = find_dataset(dataset)
    content = Content.read(dataset, max_seq_len, min_seq_len)
    name = dataset.resolve().name
    with new_folder(out) as folder:
        if to == "recbole":
            _write_recbole(folder, name, content)
        else:
            _write_mmrec(folder, name, content, dataset / "features")
    print(f"{out}: {name} with {len(content.items):,} items for {'RecBole' if to == 'recbole' else 'MMRec'}")


@dataclass(frozen=True)
class Content:
    """What is exported.

    Attributes:
        items: item, text and, where there are categories, category.
        parts: user, item and, where they are parts of the sequences, time, by `train`, `valid` and `test`.
        given: whether the parts are a split that the dataset has, rather than the last items of its sequences.
        sequence: user, item, time, where the dataset knows an order; the time is the place in the sequence, from 0.
    """

    items: pl.DataFrame
    parts: dict[str, pl.DataFrame]
    given: bool
    sequence: pl.DataFrame | None

    @classmethod
    def read(cls, folder: Path, max_seq_len: int, min_seq_len: int) -> "Content":
        """Read a dataset, without the items that feature extraction left out."""
        without = left_out_items(folder)
        names, texts = read_items(folder / "items.tsv")
        given = (folder / "train.tsv").exists()
        sequence = None
        if (folder / "behaviours.tsv").exists() or not given:
            windows = read_windows(folder, max_seq_len, min_seq_len, without)
            counts = np.diff(windows.offsets)
            sequence = pl.DataFrame(
                {
                    "user": np.repeat(np.array(windows.user_ids, object), counts).tolist(),
                    "item": np.array(windows.item_ids, object)[windows.items - 1].tolist(),
                    "time": np.arange(len(windows.items)) - np.repeat(windows.offsets[:-1], counts),
                    "left": np.repeat(windows.offsets[1:], counts) - np.arange(len(windows.items)) - 1,
                }
            )
        if given:
            parts = {part: _read_part(folder / f"{part}.tsv", names, without) for part in PARTS}
        else:
            assert sequence is not None
            held_out = {"train": pl.col("left") > 1, "valid": pl.col("left") == 1, "test": pl.col("left") == 0}
            parts = {part: sequence.filter(chosen).drop("left") for part, chosen in held_out.items()}
        used = set().union(*(part["item"] for part in parts.values()), [] if sequence is None else sequence["item"])
        items = pl.DataFrame({"item": names, "text": texts}).filter(pl.col("item").is_in(list(used)))
        if (folder / "labels.tsv").exists():
            labels = read_labels(folder / "labels.tsv", items["item"].to_list())
            items = items.with_columns(category=pl.Series([labels.names[number] for number in labels.numbers]))
        return cls(items, parts, given, None if sequence is None else sequence.drop("left"))


def _read_part(path: Path, names: list[str], without: Collection[str]) -> pl.DataFrame:
    if path.name == "valid.tsv" and not path.exists():
        return pl.DataFrame(schema={"user": pl.String, "item": pl.String})
    lists = ListFile(path, names, without)
    blocks = list(lists.blocks())
    counts = np.concatenate([counts for _, counts in blocks])
    items = pl.Series(names).gather(np.concatenate([items for items, _ in blocks]))
    return pl.DataFrame({"user": lists.users.gather(np.repeat(np.arange(len(counts)), counts)), "item": items})


def _write(path: Path, table: pl.DataFrame, separator: str = "\t"):
    table.write_csv(path, separator=separator, quote_style="never" if separator == "\t" else "necessary")


def _write_recbole(folder: Path, name: str, content: Content):
    columns = {"user": "user_id:token", "item": "item_id:token", "time": "timestamp:float"}
    types = {"item": "item_id:token", "text": "text:token_seq", "category": "category:token"}
    _write(folder / f"{name}.item", content.items.rename({key: types[key] for key in content.items.columns}))
    loaded = ["user_id", "item_id"]
    config: dict[str, object] = {"field_separator": "\t", "seq_separator": " "}
    if content.sequence is not None:
        _write(folder / f"{name}.inter", content.sequence.rename(columns))
        loaded = [*loaded, "timestamp"]
        config["eval_args"] = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"}
    if content.given:
        present = [part for part in PARTS if len(content.parts[part])]
        for part in present:
            _write(folder / f"{name}.{part}.inter", content.parts[part].rename({key: columns[key] for key in ("user", "item")}))
        config["benchmark_filename"] = present
        loaded = ["user_id", "item_id"]
    config["load_col"] = {"inter": loaded}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _write_mmrec(folder: Path, name: str, content: Content, features: Path):
    rows = pl.concat([content.parts[part].with_columns(x_label=pl.lit(label)) for label, part in enumerate(PARTS)])
    users, items = rows["user"].unique(maintain_order=True), content.items["item"]
    rows = _with_times(rows, content.sequence) if content.given else rows.rename({"time": "timestamp"})
    numbers = {"user": {user: n for n, user in enumerate(users)}, "item": {item: n for n, item in enumerate(items)}}
    for key, column in {"user": "userID", "item": "itemID"}.items():
        rows = rows.with_columns(pl.col(key).replace_strict(numbers[key]).alias(column))
    times = ["timestamp"] if "timestamp" in rows.columns else []
    _write(folder / f"{name}.inter", rows.sort("userID", *times, maintain_order=True).select("userID", "itemID", *times, "x_label"))
    for key, (first, column) in {"u": ("user_id", "userID"), "i": ("asin", "itemID")}.items():
        names = users if key == "u" else items
        _write(folder / f"{key}_id_mapping.csv", pl.DataFrame({first: names, column: range(len(names))}))
    _write(folder / "items.csv", content.items.rename({"item": "asin"}).with_row_index("itemID"), ",")
    for path in sorted(features.glob("*/header.json")):
        _write_features(folder / f"{path.parent.name}_feat.npy", FeatureStore(path.parent), items.to_list())


def _with_times(rows: pl.DataFrame, sequence: pl.DataFrame | None) -> pl.DataFrame:
    """The pairs of a given split with their places in the sequences, if these are of the same pairs."""
    if sequence is None:
        return rows
    joined = rows.join(sequence, on=["user", "item"], how="left", maintain_order="left").rename({"time": "timestamp"})
    if joined["timestamp"].null_count() or len(joined) != len(rows) or len(sequence) != len(rows):
        print("the split and the sequences are not of the same pairs, so the split is exported without an order")
        return rows
    return joined


def _write_features(path: Path, store: FeatureStore, items: list[str]):
    """Write the first token of each item, float32 [N, W]."""
    array = np.lib.format.open_memmap(path, "w+", np.float32, (len(items), store.header.width))
    for row, item in enumerate(tqdm(items, path.name, unit="item", delay=2)):
        array[row] = store.read(item)[0]
    array.flush()
