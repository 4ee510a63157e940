"""Batches of decoded images, made ahead in processes of their own.

Legend: B images, S side of the square that the encoder takes.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from odmt.errors import InputError
from odmt.features.images import open_image, to_rgb
from odmt.features.processes import map_ahead
from odmt.prefetch import prefetch

T = TypeVar("T")
Arrays = dict[str, np.ndarray]  # what an image processor makes of an image


def decode(path: Path, size: int, shrink_jpegs: bool = False) -> np.ndarray:
    """Read an image as RGB and resize it to [S, S, 3] uint8: bilinear, its aspect not kept.

    Args:
        path: the image file.
        size: S.
        shrink_jpegs: decode a large JPEG at 1/2, 1/4 or 1/8 of its size, the smallest in which no side falls below S. Faster, and
            slightly other pixels.
    """
    with open_image(path) as image:
        if shrink_jpegs:
            image.draft("RGB", (size, size))
        return np.asarray(to_rgb(image).resize((size, size), Image.Resampling.BILINEAR))


class DecodedBatches:
    """Batches of images by number: pixels [B, S, S, 3] uint8 and, by position, why an image could not be decoded.

    Such an image, or one that has no file, is black.

    Args:
        batches: the images' files, None where there is none.
        size: S.
        shrink_jpegs: as in `decode`.
        process: what is to be made of RGB images of any size in place of pixels; a batch is then a list of its results.
    """

    def __init__(
        self,
        batches: list[list[Path | None]],
        size: int,
        shrink_jpegs: bool = False,
        process: Callable[[Image.Image], Arrays] | None = None,
    ):
        self.batches = batches
        self.size = size
        self.shrink_jpegs = shrink_jpegs
        self.process = process

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[np.ndarray | list[Arrays], dict[int, str]]:
        paths, process = self.batches[number], self.process
        black = np.zeros((self.size, self.size, 3), np.uint8)
        if process is None:
            squares, bad = _each(paths, lambda path: decode(path, self.size, self.shrink_jpegs), lambda: black)
            return np.stack(squares), bad

        def processed(path: Path) -> Arrays:
            with open_image(path) as image:
                return process(to_rgb(image))

        return _each(paths, processed, lambda: process(Image.fromarray(black)))


def _each(paths: Sequence[Path | None], decode_one: Callable[[Path], T], black: Callable[[], T]) -> tuple[list[T], dict[int, str]]:
    """What is made of each image, black where that fails, and by position why it failed."""
    results, bad = [], {}
    for position, path in enumerate(paths):
        if path is None:
            bad[position] = "no image file"
            results.append(black())
            continue
        try:
            results.append(decode_one(path))
        except MemoryError:
            raise
        except Exception as error:  # a decoder raises whatever the broken file leads it to
            bad[position] = f"{path.name}: {type(error).__name__}: {error}"
            results.append(black())
    return results, bad


Batch = tuple[Tensor | list[Arrays], dict[int, str]]


def load_batches(images: DecodedBatches, num_workers: int, pin_memory: bool) -> Iterator[Batch]:
    """Decode batches ahead, in order, in worker processes; with 0 of them in this one.

    Raises:
        InputError: a worker process was killed, or memory is short.
    """

    def pinned() -> Iterator[Batch]:
        for batch, bad in map_ahead(images.__getitem__, len(images), num_workers):
            if isinstance(batch, list):
                yield batch, bad
                continue
            pixels = torch.from_numpy(batch)
            yield (pixels.pin_memory() if pin_memory else pixels), bad

    try:
        yield from prefetch(pinned()) if pin_memory else pinned()
    except MemoryError as error:
        raise InputError(
            "memory is too short to decode images; take fewer processes (--num-workers 0 for none) or a smaller --batch-size"
        ) from error
