"""The extraction job: every item of a dataset through the frozen encoders, once, into the feature stores.

Started again it continues: batches are cut from what is missing, in the order of items.tsv, and stored one transaction each, so
that a run that was killed and one that was not make the same batches and the same store.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
import xxhash
from tqdm import tqdm

from odmt.data.encoders import ImageEncoder, TextEncoder
from odmt.data.feature_store import FeatureStore, Header, Record
from odmt.data.feature_writer import FeatureWriter, claim_folder, discard, read_records, write_lists
from odmt.data.images import find_images, load_batches
from odmt.data.interactions import read_items
from odmt.errors import InputError

Modality = Literal["image", "text"]
BadImages = Literal["stop", "drop", "blank"]


class Source(Protocol):
    """One modality of a dataset with its encoder.

    Attributes:
        header: of the store that it fills.
        signatures: by item, what its features are made from; another signature means that they are out of date.
    """

    header: Header
    signatures: dict[str, str]

    def batches(self, batches: list[list[str]]) -> Iterator[tuple[object, dict[int, str]]]:
        """Yield what `encode` takes for each batch of items and, by position, why an item could not be read."""

    def encode(self, inputs) -> Sequence[np.ndarray]:
        """The tokens [T, W] of each item of a batch."""


class ImageSource:
    """The images of a dataset."""

    def __init__(self, folder: Path, item_ids: list[str], encoder: ImageEncoder, num_workers: int):
        self.header = encoder.header
        self.encode = encoder.encode
        self._encoder = encoder
        self._num_workers = num_workers
        self._paths = find_images(folder, item_ids)
        # A file's size survives a copy of the dataset, and a repaired or exchanged image has another one.
        self.signatures = {item_id: f"{path.stat().st_size} bytes" if path else "none" for item_id, path in self._paths.items()}

    def batches(self, batches: list[list[str]]) -> Iterator[tuple[torch.Tensor, dict[int, str]]]:
        """Yield pixels, decoded ahead by worker processes."""
        paths = [[self._paths[item_id] for item_id in batch] for batch in batches]
        on_gpu = self._encoder.device.type == "cuda"
        yield from load_batches(paths, self._encoder.image_size, self._num_workers, pin_memory=on_gpu)


class TextSource:
    """The texts of a dataset."""

    def __init__(self, item_ids: list[str], texts: list[str], encoder: TextEncoder):
        self.header = encoder.header
        self.encode = encoder.encode
        self._texts = dict(zip(item_ids, texts))
        self.signatures = {item_id: xxhash.xxh3_64_hexdigest(text.encode()) for item_id, text in self._texts.items()}

    def batches(self, batches: list[list[str]]) -> Iterator[tuple[list[str], dict[int, str]]]:
        """Yield texts; every text can be read."""
        for batch in batches:
            yield [self._texts[item_id] for item_id in batch], {}


def extract_features(
    dataset: Path,
    image_encoder: str = "openai/clip-vit-base-patch32",
    text_encoder: str = "bert-base-uncased",
    modalities: list[Modality] | None = None,
    max_text_tokens: int = 30,
    bad_images: BadImages = "stop",
    batch_size: int = 64,
    num_workers: int | None = None,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    verify: bool = False,
):
    """Compute the image and text features of a dataset's items and store them in DATASET/features.

    Only what is missing is computed: an extraction that was interrupted continues, and items that were added, or whose image or
    text changed, are brought up to date. Under torchrun every process takes its share of the items and writes its own shard.

    Args:
        dataset: the dataset's folder, data/NAME.
        image_encoder: CLIP checkpoint, a folder or a hub name.
        text_encoder: BERT checkpoint, a folder or a hub name; hfl/chinese-roberta-wwm-ext for Chinese.
        modalities: what to extract; by default image and text, or text alone where there is no images folder.
        max_text_tokens: tokens that are kept of a text, [CLS] and [SEP] counted.
        bad_images: what to do about an image that is missing or cannot be decoded: `stop` before anything more is encoded, `drop`
            the item from the dataset, or take it as `blank` (black). All are listed with their reasons in features/image.
        batch_size: items that are encoded together and stored in one transaction.
        num_workers: processes that decode images; by default one a core, 16 at most.
        device: `auto` takes the GPU where there is one.
        verify: read everything back at the end and compare checksums.

    Raises:
        InputError: a checkpoint that cannot be loaded, a store made in another way, a bad image with `stop`, a full disk.
    """
    dataset = Path(dataset)
    item_ids, texts = read_items(dataset / "items.tsv")
    images = dataset / "images"
    modalities = modalities or (["image", "text"] if images.is_dir() else ["text"])
    here = _choose_device(device)
    # All is loaded and compared before the first item is encoded.
    sources: list[Source] = []
    if "image" in modalities:
        if not images.is_dir():
            raise InputError(f"{images}: no such folder; a dataset without images has text features only: --modalities [text]")
        workers = _cores_of_this_process() if num_workers is None else num_workers
        sources.append(ImageSource(images, item_ids, ImageEncoder(image_encoder, here), workers))
    if "text" in modalities:
        sources.append(TextSource(item_ids, texts, TextEncoder(text_encoder, max_text_tokens, here)))
    for source in sources:
        claim_folder(dataset / "features" / source.header.modality, source.header)
    for source in sources:
        folder = dataset / "features" / source.header.modality
        fill_store(folder, source, item_ids, batch_size, bad_images)
        if verify:
            verify_store(folder, item_ids)


def fill_store(folder: Path, source: Source, item_ids: list[str], batch_size: int, bad_images: BadImages = "stop"):
    """Bring a store up to date: this process's share of what is missing or has changed."""
    rank, num_processes = _rank_and_size()
    share = item_ids[rank::num_processes]
    records = read_records(folder)
    fates = {"stored", bad_images} - {"stop"}
    known = [item_id for item_id in share if item_id in records]
    stale = {item for item in known if records[item].source != source.signatures[item] or records[item].fate not in fates}
    discard(folder, stale)
    pending = [item_id for item_id in share if item_id not in records or item_id in stale]
    batches = [pending[start : start + batch_size] for start in range(0, len(pending), batch_size)]
    if pending:
        with FeatureWriter(folder, source.header, shard=rank) as writer:
            _encode_into(writer, source, batches, bad_images)
    listed = write_lists(folder)
    _report(folder, listed, len(pending))


def verify_store(folder: Path, item_ids: list[str]):
    """Read the features of every item that has some and compare them with their checksums.

    Raises:
        InputError: a damaged item.
    """
    rank, num_processes = _rank_and_size()
    with FeatureStore(folder) as store:
        stored = [item_id for item_id in item_ids[rank::num_processes] if item_id in store]
        for item_id in tqdm(stored, desc=f"{folder.name}: verifying", unit="item", disable=rank > 0):
            store.read(item_id)
    print(f"{folder}: {len(stored):,} items read back, every checksum right")


def _encode_into(writer: FeatureWriter, source: Source, batches: list[list[str]], bad_images: BadImages):
    """Encode and store batch by batch; after the first bad image with `stop` look for the other ones only."""
    rank, num_processes = _rank_and_size()
    name = source.header.modality + (f" (1 of {num_processes} processes)" if num_processes > 1 else "")
    stopped = False
    with tqdm(total=sum(map(len, batches)), desc=name, unit="item", disable=rank > 0) as progress:
        for batch, (inputs, reasons) in zip(batches, source.batches(batches)):
            bad = {batch[position]: reason for position, reason in reasons.items()}
            records = {item: Record(source.signatures[item], bad_images, reason) for item, reason in bad.items()}
            features = {}
            if bad and bad_images == "stop" and not stopped:
                stopped = True
                progress.set_description(f"{name}: looking for bad images")
            if not stopped:
                kept = [item for item in batch if item not in bad or bad_images == "blank"]
                encoded = dict(zip(batch, source.encode(inputs)))
                features = {item: encoded[item] for item in kept}
                records = {item: Record(source.signatures[item]) for item in kept} | records
            writer.add(features, records)
            progress.update(len(batch))


def _report(folder: Path, listed: dict[str, dict[str, Record]], num_new: int):
    if stopping := listed["stop"]:
        item_id, record = next(iter(stopping.items()))
        raise InputError(
            f"{len(stopping)} images are missing or cannot be decoded, listed in {folder / 'bad_images.tsv'}; the first is "
            f"{item_id}: {record.reason}. Mend them, or pass --bad-images drop or --bad-images blank; what was stored stays"
        )
    with FeatureStore(folder) as store:
        print(f"{folder}: {len(store):,} items, {num_new:,} of them new")
    for fate, name in (("drop", "dropped.tsv"), ("blank", "blank.tsv")):
        if listed[fate]:
            print(f"{folder / name}: {len(listed[fate]):,} items whose image is missing or cannot be decoded")


def _choose_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no GPU here; take --device cpu, or mend the driver")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def _rank_and_size() -> tuple[int, int]:
    """Number of this process and how many torchrun started; the processes need no other connection than the folder."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def _cores_of_this_process() -> int:
    return max(1, min(16, os.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
