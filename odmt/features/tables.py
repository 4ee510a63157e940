"""The frozen features of a dataset's items where a training process wants them: on the device, in pinned RAM or on disk.

Legend: N items, M items asked for, T tokens, W feature width.
"""

import functools
import logging
import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from odmt.errors import InputError
from odmt.features.header import IMPORTED
from odmt.features.items import Tokens
from odmt.features.store import FeatureStore
from odmt.files import read_text
from odmt.item_lists import places
from odmt.transfer import pin_exactly

log = logging.getLogger(__name__)


NUM_READERS = 4  # threads, of all tables together


@functools.cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(NUM_READERS, "features")


class FeatureTable(Protocol):
    """One modality's features of N items.

    Attributes:
        store: where they come from.
        item_ids: names of the items.
        width: W.
        lengths: int64 [N], tokens of every item.
    """

    store: FeatureStore
    item_ids: list[str]
    width: int
    lengths: np.ndarray

    def gather(self, numbers: Tensor) -> Tokens:
        """The tokens of items [M], numbered from 1 and given on the CPU; on a CPU perhaps rows of a table, not copied yet."""

    def cls(self) -> Tensor:
        """The first token of every item, float32 [N + 1, W] on the CPU; row 0, the padding's, is zero."""


class StoredTable:
    """Features read from the store for every batch.

    The store is a memory map: what has been read once stays in the page cache, which all processes share.

    Args:
        store: the modality's.
        item_ids: N names.
        first_token_only: leave the others out.
        pinned: gather into page-locked memory, for a GPU.
    """

    def __init__(
        self,
        store: FeatureStore,
        item_ids: list[str],
        first_token_only: bool = False,
        pinned: bool = False,
    ):
        self.store = store
        self.pinned = pinned
        self.item_ids = item_ids
        self.width = store.header.width
        self.dtype = getattr(torch, store.header.dtype)
        lengths = np.array([store.num_tokens(item_id) for item_id in item_ids], np.int64)
        self.lengths = np.minimum(lengths, 1) if first_token_only else lengths

    @property
    def nbytes(self) -> int:
        """Bytes of all features."""
        return int(self.lengths.sum()) * self.width * self.dtype.itemsize

    def gather(self, numbers: Tensor) -> Tokens:
        """The tokens of items [M] as they are stored, on the CPU."""
        indices = numbers.numpy() - 1
        lengths = self.lengths[indices]
        starts = np.cumsum(lengths) - lengths
        values = torch.empty(int(lengths.sum()), self.width, dtype=self.dtype, pin_memory=self.pinned)
        self.read_into(values.numpy(), starts, indices)
        return Tokens(values, torch.from_numpy(lengths), int(lengths.max()))

    def read_into(self, out: np.ndarray, starts: np.ndarray, indices: np.ndarray):
        """Copy the tokens of some items to rows `starts` of `out`: by several threads, each a piece of the store, in its order."""
        order = np.argsort(indices)  # items were written in the order of the table, or nearly so

        def copy(part: np.ndarray):
            pieces = zip(starts[part], self.lengths[indices[part]])
            item_ids = [self.item_ids[index] for index in indices[part]]
            self.store.read_into(item_ids, [out[start : start + length] for start, length in pieces])

        for _ in _readers().map(copy, np.array_split(order, NUM_READERS)):
            pass

    def cls(self) -> Tensor:
        """The first token of every item, float32 [N + 1, W]."""
        first = np.zeros((len(self.item_ids) + 1, self.width), np.float32)
        for row, item_id in enumerate(tqdm(self.item_ids, desc="CLS features", leave=False, delay=2), 1):
            first[row] = self.store.read(item_id)[0]
        return torch.from_numpy(first)


class ResidentTable:
    """All features as one tensor of the store's type, on the device or in pinned RAM."""

    def __init__(self, stored: StoredTable, device: torch.device, pinned: bool = False):
        self.store, self.item_ids = stored.store, stored.item_ids
        self.width = stored.width
        self.lengths = stored.lengths
        self.starts = np.cumsum(self.lengths) - self.lengths
        total = int(self.lengths.sum())
        self.values = torch.empty(total, self.width, dtype=stored.dtype, device=device)
        if pinned:
            pin_exactly(self.values)
        # Block by block, so that no second copy of everything is ever held.
        block = 1024
        for begin in tqdm(range(0, len(self.lengths), block), desc="features", leave=False, delay=2):
            indices = np.arange(begin, min(begin + block, len(self.lengths)))
            first, rows = self.starts[begin], int(self.lengths[indices].sum())
            staged = torch.empty(rows, self.width, dtype=stored.dtype)
            stored.read_into(staged.numpy(), self.starts[indices] - first, indices)
            self.values[first : first + rows] = staged.to(device)

    def gather(self, numbers: Tensor) -> Tokens:
        """The tokens of items [M] where the features are; from pinned RAM into pinned RAM; on a CPU not copied yet."""
        indices = numbers.numpy() - 1
        counts = self.lengths[indices]
        rows, lengths = torch.from_numpy(places(self.starts[indices], counts)), torch.from_numpy(counts)
        device, pinned, longest = self.values.device, self.values.is_pinned(), int(counts.max())
        if device.type == "cpu" and not pinned:
            return Tokens(self.values, lengths, longest, rows)
        values = torch.empty(len(rows), self.width, dtype=self.values.dtype, device=device, pin_memory=pinned)
        torch.index_select(self.values, 0, rows.to(device, non_blocking=True), out=values)
        return Tokens(values, lengths, longest)

    def cls(self) -> Tensor:
        """The first token of every item, float32 [N + 1, W] on the CPU."""
        first = self.values[torch.from_numpy(self.starts).to(self.values.device)].float().cpu()
        return torch.cat([torch.zeros(1, self.width), first])


class Placed(Protocol):
    """Where a dataset's features are to live: settings of a family."""

    placement: Literal["auto", "device", "pinned", "disk"]
    device_budget_gb: float
    pinned_budget_gb: float

    @property
    def folder(self) -> Path:
        """The dataset's folder."""


def load_features(data: Placed, item_ids: list[str], needs: Mapping[str, str], device: torch.device) -> dict[str, FeatureTable]:
    """Open the stores that a model needs and put their features where they fit.

    Args:
        data: names the dataset, the placement and its budgets.
        item_ids: names of the items that are looked up.
        needs: `tokens` or `cls` by modality.
        device: the device that computes.

    Raises:
        InputError: no store, or an item that is not in it; the message says which command mends it.
    """
    pinned = device.type == "cuda"
    stored = {source: open_table(data.folder, source, item_ids, need == "cls", pinned) for source, need in needs.items()}
    size = sum(table.nbytes for table in stored.values())
    placement = _choose(data, size / 1e9, device)
    if stored:
        log.info("features: %s, %s, placement %s", ", ".join(stored), tqdm.format_sizeof(size, "B"), placement)
    if placement == "disk":
        return dict(stored)
    in_ram = placement == "pinned"
    where = torch.device("cpu") if in_ram else device
    return {source: ResidentTable(table, where, in_ram) for source, table in stored.items()}


def describe_encoders(tables: Mapping[str, FeatureTable]) -> dict[str, dict]:
    """What features were made with, for environment.json."""
    return {"encoders": {modality: asdict(table.store.header) for modality, table in tables.items()}}


def feature_fingerprints(tables: Mapping[str, FeatureTable]) -> dict[str, str]:
    """What the features of the tables' items were made with, and from what, as hashes by name; a store may hold more items."""
    found = {}
    for modality, table in tables.items():
        found[f"{modality} features"] = table.store.header.fingerprint()
        found[f"{modality} content"] = table.store.content_fingerprint(table.item_ids)
    return found


def renamed_contents(tables: Mapping[str, FeatureTable]) -> dict[str, str]:
    """The contents of whole stores, which earlier versions noted, and those of the tables' items."""
    return {table.store.content_fingerprint(): table.store.content_fingerprint(table.item_ids) for table in tables.values()}


def left_out_items(folder: Path) -> set[str]:
    """Names of the items that feature extraction dropped, for whatever model: all see the same dataset."""
    dropped: set[str] = set()
    for path in folder.glob("features/*/dropped.tsv"):
        text = read_text(path, "scripts/extract_features.py writes it anew")
        dropped |= {line.split("\t")[0] for line in text.splitlines()}
    return dropped


def gather_features(tables: Mapping[str, FeatureTable], numbers: Tensor) -> dict[str, Tokens]:
    """Tokens by modality of items [M]."""
    return {source: table.gather(numbers) for source, table in tables.items()}


def count_tokens(tables: Mapping[str, FeatureTable], num_items: int) -> np.ndarray:
    """Tokens of all modalities together, by item number [N + 1]."""
    counts = np.zeros(num_items + 1, np.int64)
    for table in tables.values():
        counts[1:] += table.lengths
    return counts


def _choose(data: Placed, size: float, device: torch.device) -> str:
    if data.placement == "pinned" and device.type == "cpu":
        raise InputError("data.placement=pinned speeds up copies to a GPU, and this run is on a CPU; take disk or device")
    if data.placement != "auto":
        return data.placement
    if device.type == "cpu":
        return "disk"  # the page cache is RAM, shared by all processes and filled without waiting
    if size <= data.device_budget_gb:
        return "device"
    return "pinned" if size <= data.pinned_budget_gb else "disk"


def open_table(folder: Path, source: str, item_ids: list[str], first_token_only: bool, pinned: bool = False) -> StoredTable:
    """Open a modality's store of a dataset, for some of its items.

    Raises:
        InputError: no store, or an item that is not in it; the message says which command mends it.
    """
    command = f"python scripts/extract_features.py --dataset {shlex.quote(str(folder))}"
    path = folder / "features" / source
    if source == "image" and not path.is_dir() and not (folder / "images").is_dir():
        raise InputError(
            f"{folder}: the dataset has no images; take a model without them, model.sources=[id,text] (of the graph: "
            "model.modalities=[text]), or import features"
        )
    if not path.is_dir():
        raise InputError(f"{path}: the dataset has no {source} features; make them with: {command}, or import them")
    store = FeatureStore(path)
    missing = [item_id for item_id in item_ids if item_id not in store]
    if missing:
        encoder = shlex.quote(store.header.encoder)
        again = f"continue with: {command} --modality {source} --{source}-encoder {encoder}"
        if store.header.preprocessing == IMPORTED:
            again = f"import those of all items again, as was done from {encoder} with scripts/import_features.py"
        raise InputError(f"{path}: {len(missing)} items have no features, {missing[0]!r} the first; {again}")
    return StoredTable(store, item_ids, first_token_only, pinned)
