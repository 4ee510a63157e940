"""Features that somebody else made, taken into a dataset's stores: whole batches in transactions, so that a kill loses nothing.

Legend: R rows of the file, T tokens of an item, W feature width.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash
from tqdm import tqdm

from odmt.errors import InputError
from odmt.features.dataset import find_dataset
from odmt.features.feature_files import FeatureFile, open_features
from odmt.features.header import IMPORTED, MODALITIES, Header, Record
from odmt.features.item_table import read_items
from odmt.features.row_names import read_row_names
from odmt.features.store import shard_paths
from odmt.features.writer import LISTS, FeatureWriter, claim_folder, discard, exclusive, read_records, write_lists
from odmt.files import reading

BLOCK_BYTES = 32 << 20  # that are read, and stored in one transaction, at a time

FirstToken = Literal["cls", "pooled", "mean", "add-mean"]
_LAYERS = {
    "cls": "tokens as imported, the encoder's CLS token first",
    "pooled": "tokens as imported, the encoder's pooled output first",
    "mean": "tokens as imported, their mean first",
    "add-mean": "tokens as imported, their mean put in front",
}


@dataclass(frozen=True)
class Form:
    """How features are stored.

    Attributes:
        dtype: of the stored numbers.
        first_token: what the first of several tokens is; with add-mean their mean is put in front.
    """

    dtype: Literal["float16", "float32"] = "float16"
    first_token: FirstToken | None = None


def import_features(
    dataset: Path,
    modality: Literal["image", "text"],
    file: Path,
    ids: Path | None = None,
    key: str | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    first_token: FirstToken | None = None,
    ignore_unknown: bool = False,
):
    """Store ready features of a dataset's items in DATASET/features, in place of what extract_features.py computes.

    Taken are .npy, .npz, .pt, .pth, .safetensors and .parquet files and folders with a file an item (ITEM.npy, .pt, .pth or
    .safetensors); arrays [items, width] or [items, tokens, width] of float16, float32, float64 or bfloat16. Nothing is unpickled.
    An import that was interrupted continues when it is started again.

    Args:
        dataset: the dataset's folder, data/NAME, or its name.
        modality: what the features are of.
        file: the file or folder. Rows stand in the order of items.tsv, unless the file names its items (a folder; a column
            item_id of a .parquet file, an array item_ids in an .npz file) or --ids does.
        ids: what names the rows: a text file with an item a line, or a numbering file of RecBole or MMRec (i_id_mapping.csv,
            X.item2index): item<TAB>row, rows from 0.
        key: which array of a file that has several, which column of a .parquet file.
        dtype: float32 keeps values that float16 cannot hold; it takes twice the room.
        first_token: what the first of an item's several tokens is, which many models read alone: the encoder's `cls` token, its
            `pooled` output or the `mean` of the tokens; `add-mean`: nothing of that kind, so put their mean in front.
        ignore_unknown: leave out rows of items that the dataset does not have.

    Raises:
        InputError: a file that cannot be read; too few or too many rows; names that are unknown, missing or stand twice; values
            that are not finite or too large, with item and value; a store that holds something else.
    """
    dataset = find_dataset(dataset)
    item_ids, _ = read_items(dataset / "items.tsv")
    source = open_features(Path(file), key)
    if ids is not None and source.path.is_dir():
        raise InputError(f"{file}: a folder names its items by its files; leave --ids out")
    names: Sequence[str | None]
    if ids is not None:
        names = read_row_names(Path(ids), source.num_rows)
    elif source.names is not None:
        names = source.names
    elif source.num_rows == len(item_ids):
        names = item_ids
    else:
        raise InputError(
            f"{file}: {source.num_rows:,} rows, but {dataset / 'items.tsv'} has {len(item_ids):,} items; rows stand in its order, "
            "or --ids FILE names them"
        )
    place = str(ids or file)
    import_rows(
        dataset / "features" / modality, source, named_rows(place, names, item_ids, ignore_unknown), Form(dtype, first_token)
    )


def named_rows(place: str, names: Sequence[str | None], item_ids: list[str], ignore_unknown: bool = False) -> list[str | None]:
    """The item of every row, None for a row that is not wanted.

    Args:
        place: what to call the list of names in a message.
        names: of the rows; None: a row of nothing.
        item_ids: the dataset's items; each must have a row.
        ignore_unknown: rows of other items are not wanted; otherwise there must be none.
    """
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        if name is not None and rows.setdefault(name, row) != row:
            raise InputError(f"{place}: item {name!r} has two rows, {rows[name] + 1} and {row + 1}; remove one of the two")
    if missing := [item for item in item_ids if item not in rows]:
        raise InputError(f"{place}: {len(missing):,} of {len(item_ids):,} items have no row, {missing[0]!r} the first; add them")
    known = set(item_ids)
    unknown = [name for name in rows if name not in known]
    if unknown and not ignore_unknown:
        raise InputError(
            f"{place}: {len(unknown):,} items are not in items.tsv, {unknown[0]!r} the first; --ignore-unknown leaves them out"
        )
    return [name if name in known else None for name in names]


def import_rows(folder: Path, source: FeatureFile, names: Sequence[str | None], form: Form):
    """Bring a store up to what a file holds.

    Args:
        folder: of the store, named after its modality.
        source: the file; rows beyond those that are named are left out.
        names: the item of every row; None: left out.
        form: how features are stored.
    """
    header = _header(folder.name, source, form)
    places = {name: f"row {row + 1}" for row, name in enumerate(names) if name is not None}
    with exclusive(folder):
        fresh = not shard_paths(folder)
        claim_folder(folder, header)
        records = read_records(folder)
        known = {name for name in places if name in records}
        stored = {name for name in known if records[name].seen == places[name]}
        discard(folder, known - stored)
        try:
            with (
                FeatureWriter(folder, header) as writer,
                tqdm(total=len(places), desc=folder.name, unit="item", delay=1) as progress,
            ):
                progress.update(len(stored))
                for features in _batches(
                    source, names, stored, lambda name, row: _stored_form(source.path, name, row, header, form)
                ):
                    writer.add(features, {name: _record(tokens, places[name]) for name, tokens in features.items()})
                    progress.update(len(features))
        except _BadFile:
            if fresh:  # another file will be imported in its place
                shutil.rmtree(folder)
            raise
        by_fate = write_lists(folder, list(places))
    print(f"{header.modality} features of {len(places):,} items; {len(places) - len(stored):,} were not there yet or have changed")
    if blank := by_fate["blank"]:
        print(
            f"{header.modality} features of {len(blank):,} items are all zero, the usual mark of a missing {header.modality}: "
            f"{', '.join(list(blank)[:3])}{' ...' * (len(blank) > 3)}, listed in {LISTS['blank']} beside them"
        )


class _BadFile(InputError):
    """A file that cannot be read to its end, or features that cannot be stored as they are."""


def _batches(
    source: FeatureFile, names: Sequence[str | None], stored: set[str], convert: Callable[[str, np.ndarray], np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the features of the items that are wanted and not stored yet."""
    wanted = [None if name in stored else name for name in names]
    start = next((row for row, name in enumerate(wanted) if name is not None), None)
    if start is None:
        return
    size = max(1, BLOCK_BYTES // max(1, source.row_bytes))
    try:
        for first, block in zip(count(start, size), source.blocks(size, start)):
            features = {name: convert(name, row) for name, row in zip(wanted[first : first + size], block) if name is not None}
            if features:
                yield features
            if first + size >= len(names):
                return
    except InputError as error:
        raise _BadFile(str(error)) from error


def _stored_form(path: Path, name: str, row: np.ndarray, header: Header, form: Form) -> np.ndarray:
    """The tokens [T, W] of an item as they are stored."""
    tokens = row[None] if row.ndim == 1 else row
    if tokens.ndim != 2 or tokens.shape[1] != header.width or not len(tokens):
        raise InputError(f"{path}: item {name!r} has features of shape {list(row.shape)}, the first item of width {header.width}")
    if not np.isfinite(tokens).all():
        bad = tokens[~np.isfinite(tokens)]
        raise InputError(f"{path}: item {name!r} has {len(bad)} values that are not finite, {bad[0]} the first; mend the file")
    if form.first_token == "add-mean":
        tokens = np.concatenate([tokens.mean(0, dtype=np.float64)[None], tokens])
    with np.errstate(over="ignore", under="ignore"):
        result = tokens.astype(header.stored_type)
    lost = ~np.isfinite(result)
    if not result.any() and tokens.any():
        lost = tokens != 0
    if lost.any():
        remedy = "store them as they are with --dtype float32" if form.dtype == "float16" else "scale the features"
        raise InputError(f"{path}: item {name!r} has the value {tokens[lost][0]:.6g}, which {form.dtype} cannot hold; {remedy}")
    return result


def _record(tokens: np.ndarray, place: str) -> Record:
    """What an item's features are, by content, and where in the file they stand, by which a continued import knows them."""
    content = xxhash.xxh3_64_hexdigest(np.ascontiguousarray(tokens).data)
    return Record(content, seen=place) if tokens.any() else Record(content, "blank", "all zero", place)


def _header(modality: str, source: FeatureFile, form: Form) -> Header:
    assert modality in MODALITIES
    layer, num_added = "one vector, as imported", 0
    if source.max_tokens > 1:
        if form.first_token is None:
            raise InputError(
                f"{source.path}: {source.max_tokens} tokens an item, and many models read the first alone: say what it is with "
                "--first-token cls, pooled or mean, or put the mean in front with --first-token add-mean"
            )
        layer, num_added = _LAYERS[form.first_token], int(form.first_token == "add-mean")
    return Header(
        modality=modality,
        encoder=str(source.path),
        weights=_fingerprint(source.path),
        layer=layer,
        width=source.width,
        max_tokens=source.max_tokens + num_added,
        preprocessing=IMPORTED,
        dtype=form.dtype,
    )


def _fingerprint(path: Path) -> str:
    """A hash of the whole content, so that a store never mixes two states of a file; a folder's by the files' names too."""
    digest = xxhash.xxh3_64()
    paths = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    total = sum(file.stat().st_size for file in paths)
    with tqdm(total=total, desc=f"{path.name}: comparing", unit="B", unit_scale=True, delay=2) as progress:
        for file in paths:
            digest.update(f"{file.name}\n".encode() if path.is_dir() else b"")
            with reading(file), file.open("rb") as opened:
                while chunk := opened.read(BLOCK_BYTES):
                    digest.update(chunk)
                    progress.update(len(chunk))
    return digest.hexdigest()
