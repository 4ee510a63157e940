"""The modalities of a dataset, each with its frozen encoder: what the extraction job walks through."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Protocol

import numpy as np
import torch
import xxhash

from odmt.errors import InputError
from odmt.features.decoding import Arrays, DecodedBatches, load_batches
from odmt.features.encoders import ImageEncoder, TextEncoder
from odmt.features.header import Fate, Header, Record
from odmt.features.images import content_hash, find_images, is_plain, open_image

NO_FILE = "none"
SHOWN_TEXT = 60  # characters of a text that is shown


class Modality(Protocol):
    """One modality of a dataset with its encoder.

    Attributes:
        header: of the store that it fills.
    """

    header: Header

    def record(self, item_id: str, fate: Fate = "stored", reason: str = "") -> Record:
        """What is to be kept of an item that has been read just now."""

    def compare(self, item_id: str, record: Record) -> Record | None:
        """The record as it is or, where only the look of a file has changed, brought up to date; None: the item has changed."""

    def batches(self, batches: list[list[str]]) -> Iterator[tuple[object, dict[int, str]]]:
        """Yield what `encode` takes for each batch of items and, by position, why an item could not be read."""

    def encode(self, inputs) -> list[np.ndarray]:
        """The tokens [T, W] of each item of a batch."""

    def remark(self) -> str:
        """What is to be said of all that has been encoded; empty: nothing."""


class ImageModality:
    """The images of a dataset."""

    def __init__(self, folder: Path, item_ids: list[str], encoder: ImageEncoder, num_workers: int, shrink_jpegs: bool = False):
        preprocessing = encoder.header.preprocessing + ("; large JPEGs decoded at a fraction of their size" if shrink_jpegs else "")
        self.header = dataclasses.replace(encoder.header, preprocessing=preprocessing)
        self.encode = encoder.encode
        self._encoder = encoder
        self._num_workers = num_workers
        self._shrink_jpegs = shrink_jpegs
        self._folder = folder
        self._paths = find_images(folder, item_ids)
        self._looks = {item_id: _look(path) for item_id, path in self._paths.items()}

    def record(self, item_id: str, fate: Fate = "stored", reason: str = "") -> Record:
        """Sign with a hash of the file, unless it has changed since this object was made."""
        path, look = self._paths[item_id], self._looks[item_id]
        if path is None:
            return Record(NO_FILE, fate, reason)
        content = _hash(path)
        if not (content and look) or _look(path) != look:
            return Record("unknown", fate, reason)
        return Record(content, fate, reason, f"{content} {look}")

    def compare(self, item_id: str, record: Record) -> Record | None:
        """Look at the file from outside; where that does not settle it, compare its content with what was read."""
        path, look = self._paths[item_id], self._looks[item_id]
        if path is None:
            return record if record.source == NO_FILE else None
        read, _, seen = record.seen.partition(" ")
        if look and seen == look:
            return record
        content = _hash(path)
        if not content or not (read == content if read else _is_as_before(path, record)):
            return None
        return dataclasses.replace(record, seen=f"{content} {look}")

    def batches(self, batches: list[list[str]]) -> Iterator[tuple[torch.Tensor | list[Arrays], dict[int, str]]]:
        """Yield what `ImageEncoder.encode` takes, made ahead by worker processes."""
        paths = [[self._paths[item_id] for item_id in batch] for batch in batches]
        process = self._encoder.process if self._encoder.preprocessing == "own" else None
        images = DecodedBatches(paths, self._encoder.image_size, self._shrink_jpegs, process)
        for batch, bad in load_batches(images, self._num_workers, pin_memory=self._encoder.device.type == "cuda"):
            if bad and not self._folder.is_dir():
                raise InputError(f"{self._folder}: the folder is gone; bring it back and start the same command again")
            yield batch, bad

    def remark(self) -> str:
        """Nothing: bad images are listed."""
        return ""


def _look(path: Path | None) -> str:
    """What changes when a file does, without reading it; empty where it cannot be had."""
    try:
        status = path.stat() if path else None
    except OSError:
        return ""
    # The time of the last change of the inode too: the other one can be set, and is, by whatever copies files.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}" if status else ""


def _hash(path: Path) -> str:
    try:
        return content_hash(path)
    except (OSError, ValueError):  # decoding says why
        return ""


def _is_as_before(path: Path, record: Record) -> bool:
    """Judge by a record of an earlier version, which knew the size of the file alone and decoded images of any kind."""
    if record.source != f"{path.stat().st_size} bytes":
        return False
    try:
        with open_image(path) as image:
            return is_plain(image)
    except Exception:  # what was bad then may stay as it is; what is refused now is read again, to be listed
        return record.fate != "stored"


class TextModality:
    """The texts of a dataset."""

    def __init__(self, item_ids: list[str], texts: list[str], encoder: TextEncoder):
        self.header = encoder.header
        self.encode = encoder.encode
        self._unknown = encoder.unknown
        self._texts = dict(zip(item_ids, (text.lower() for text in texts) if encoder.lower_case else texts))

    def record(self, item_id: str, fate: Fate = "stored", reason: str = "") -> Record:
        """Sign with a hash of the text."""
        return Record(xxhash.xxh3_64_hexdigest(self._texts[item_id].encode()), fate, reason)

    def compare(self, item_id: str, record: Record) -> Record | None:
        """Compare the hash of the text."""
        return record if record.source == self.record(item_id).source else None

    def batches(self, batches: list[list[str]]) -> Iterator[tuple[list[str], dict[int, str]]]:
        """Yield texts; every text can be read."""
        for batch in batches:
            yield [self._texts[item_id] for item_id in batch], {}

    def remark(self) -> str:
        """Say when the tokenizer does not know the texts, since then features differ little from item to item."""
        found = self._unknown.noticeable()
        if found is None:
            return ""
        share, example = found
        item_id = next(item_id for item_id, text in self._texts.items() if text == example)
        return (
            f"{share:.0%} of the tokens are unknown to the tokenizer of {self.header.encoder} (such as in item {item_id}: "
            f"{shorten(example, SHOWN_TEXT, placeholder=' …')!r}); take an encoder trained on such texts"
        )
