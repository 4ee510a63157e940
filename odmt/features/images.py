"""Item images: finding their files, decoding them in worker processes.

Legend: B images, S side of the square that the encoder takes.
"""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from odmt.errors import InputError


def find_images(folder: Path, item_ids: list[str]) -> dict[str, Path | None]:
    """Find the file ITEM_ID.<any suffix> of every item, None where there is none.

    Raises:
        InputError: an item with two images.
    """
    found: dict[str, Path | None] = dict.fromkeys(item_ids)
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry)
            if path.stem not in found:
                continue
            if other := found[path.stem]:
                raise InputError(f"{folder}: item {path.stem!r} has two images, {other.name} and {path.name}; remove one")
            found[path.stem] = path
    return found


def decode(path: Path, size: int, shrink_jpegs: bool = False) -> np.ndarray:
    """Read an image as RGB and resize it to [S, S, 3] uint8: bilinear, its aspect not kept.

    Args:
        path: the image file.
        size: S.
        shrink_jpegs: decode a large JPEG at 1/2, 1/4 or 1/8 of its size, the smallest in which no side falls below S. Faster, and
            slightly other pixels.
    """
    with Image.open(path) as image:
        if shrink_jpegs:
            image.draft("RGB", (size, size))
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


class DecodedBatches(Dataset):
    """Batches of images by number: pixels [B, S, S, 3] uint8 and, by position, why an image could not be decoded.

    Such an image, or one that has no file, is black.
    """

    def __init__(self, batches: list[list[Path | None]], size: int, shrink_jpegs: bool = False):
        self.batches = batches
        self.size = size
        self.shrink_jpegs = shrink_jpegs

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[Tensor, dict[int, str]]:
        paths = self.batches[number]
        pixels = np.zeros((len(paths), self.size, self.size, 3), np.uint8)
        bad = {}
        for position, path in enumerate(paths):
            if path is None:
                bad[position] = "no image file"
                continue
            try:
                pixels[position] = decode(path, self.size, self.shrink_jpegs)
            except Exception as error:  # a decoder raises whatever the broken file leads it to
                bad[position] = f"{path.name}: {type(error).__name__}: {error}"
        return torch.from_numpy(pixels), bad


def load_batches(images: DecodedBatches, num_workers: int, pin_memory: bool) -> DataLoader:
    """Decode batches ahead, in order, in worker processes; with 0 of them in this one."""
    return DataLoader(images, batch_size=None, num_workers=min(num_workers, len(images)), pin_memory=pin_memory)
