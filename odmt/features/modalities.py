"""The modalities of a dataset, each with its frozen encoder: what the extraction job walks through."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import xxhash

from odmt.features.encoders import ImageEncoder, TextEncoder
from odmt.features.images import DecodedBatches, find_images, load_batches
from odmt.features.store import Header


class Modality(Protocol):
    """One modality of a dataset with its encoder.

    Attributes:
        header: of the store that it fills.
        signatures: by item, what its features are made from; another signature means that they are out of date.
    """

    header: Header
    signatures: dict[str, str]

    def batches(self, batches: list[list[str]]) -> Iterator[tuple[object, dict[int, str]]]:
        """Yield what `encode` takes for each batch of items and, by position, why an item could not be read."""

    def encode(self, inputs) -> list[np.ndarray]:
        """The tokens [T, W] of each item of a batch."""


class ImageModality:
    """The images of a dataset."""

    def __init__(self, folder: Path, item_ids: list[str], encoder: ImageEncoder, num_workers: int, shrink_jpegs: bool = False):
        preprocessing = encoder.header.preprocessing + ("; large JPEGs decoded at a fraction of their size" if shrink_jpegs else "")
        self.header = dataclasses.replace(encoder.header, preprocessing=preprocessing)
        self.encode = encoder.encode
        self._encoder = encoder
        self._num_workers = num_workers
        self._shrink_jpegs = shrink_jpegs
        self._paths = find_images(folder, item_ids)
        # A file's size survives a copy of the dataset, and a repaired or exchanged image has another one.
        self.signatures = {item_id: f"{path.stat().st_size} bytes" if path else "none" for item_id, path in self._paths.items()}

    def batches(self, batches: list[list[str]]) -> Iterator[tuple[torch.Tensor, dict[int, str]]]:
        """Yield pixels, decoded ahead by worker processes."""
        paths = [[self._paths[item_id] for item_id in batch] for batch in batches]
        images = DecodedBatches(paths, self._encoder.image_size, self._shrink_jpegs)
        yield from load_batches(images, self._num_workers, pin_memory=self._encoder.device.type == "cuda")


class TextModality:
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
