"""Item images: finding their files, judging them by their headers, decoding them.

One rule for images from folders and from the net: `open_image` refuses what is no regular file, is but a dot as shops answer with
where they have no image, is of more than 50 million pixels, or has more than 4 MB of metadata.

Deviation: the official code converts every image to RGB as Pillow does, which clips images of 16 bits and floats to white or black
and shows the colour that lies hidden under a transparent ground. Here deep images are scaled by their range, and what is
transparent is laid on white. Ordinary images give the same pixels as there.
Choice: a rotation that EXIF asks for is not applied, as in the official code.

Legend: B images, S side of the square that the encoder takes.
"""

import hashlib
import io
import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
import xxhash
from PIL import Image
from torch import Tensor

from odmt.errors import InputError
from odmt.features.processes import map_ahead
from odmt.files import reading
from odmt.prefetch import prefetch

MIN_SIDE = 8  # pixels; shops answer with an image of one pixel where they have none
MAX_PIXELS = 50_000_000  # 150 MB as RGB
MAX_METADATA_BYTES = 4_000_000  # Pillow takes time with its square

T = TypeVar("T")
Arrays = dict[str, np.ndarray]  # what an image processor makes of an image

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # warned of beyond 89 million, refused beyond MAX_PIXELS


def find_images(folder: Path, item_ids: list[str]) -> dict[str, Path | None]:
    """Find the file ITEM_ID.SUFFIX of every item, of any suffix that Pillow knows or of none; None where there is none.

    Raises:
        InputError: an item with two images.
    """
    found: dict[str, Path | None] = dict.fromkeys(item_ids)
    suffixes = image_suffixes()
    with reading(folder), os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry)
            item_id = path.stem if path.suffix.lower() in suffixes else path.name
            if item_id not in found:
                continue
            if other := found[item_id]:
                raise InputError(f"{folder}: item {item_id!r} has two images, {other.name} and {path.name}; remove one")
            found[item_id] = path
    return found


def image_suffixes() -> set[str]:
    """The suffixes of image files, in small letters with their dots."""
    return {suffix for suffix, name in Image.registered_extensions().items() if name in _formats()}


def _formats() -> list[str]:
    """The formats that Pillow decodes by itself: for EPS it would start Ghostscript."""
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


def check_size(width: int, height: int):
    """Refuse an image for its size, which its header tells before anything is decoded.

    Raises:
        ValueError: a placeholder, or more pixels than are decoded.
    """
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"a placeholder of {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than the {MAX_PIXELS // 10**6} million that are decoded")


@contextmanager
def open_image(source: Path | bytes, formats: list[str] | None = None) -> Iterator[Image.Image]:
    """Open an image, not decoded yet, that takes little memory and time to decode.

    Args:
        source: a file or its content.
        formats: Pillow's names of the formats to allow; by default all that it decodes by itself.

    Raises:
        ValueError: what is refused, and why.
        Exception: whatever Pillow raises of a broken header.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else _open_regular(source) as file:
        metered = _MeteredFile(file, f"of {len(source)} bytes" if isinstance(source, bytes) else repr(str(source)))
        with Image.open(metered, formats=formats or _formats()) as image:
            metered.limit = None
            check_size(*image.size)
            yield image


@contextmanager
def _open_regular(path: Path) -> Iterator[io.BufferedReader]:
    """Open a regular file; what is none, such as a FIFO, is not waited for."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError("not a file")
    with os.fdopen(handle, "rb") as file:
        yield file


class _MeteredFile:
    """A binary file that gives no more than `limit` bytes, those left out that are taken all at once.

    Attributes:
        limit: None to give everything.
    """

    def __init__(self, file: BinaryIO, name: str):
        self.limit: int | None = MAX_METADATA_BYTES
        self._name = name
        self._file = file
        self._given = 0

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        if size is not None and size >= 0:
            self._given += len(content)
            if self.limit is not None and self._given > self.limit:
                raise ValueError(f"more than {self.limit // 10**6} MB of metadata before the picture")
        return content

    def __repr__(self) -> str:
        return self._name  # what Pillow calls the file in its messages

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def content_hash(path: Path) -> str:
    """A hash of a file's content.

    Raises:
        OSError, ValueError: it cannot be read, or is no regular file.
    """
    with _open_regular(path) as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def describe_shared(hashes: Mapping[str, str]) -> str | None:
    """Say how many items share their picture with another, as those do that have a shop's "no image"; None where none does.

    Args:
        hashes: `content_hash` by item.
    """
    items = Counter(hashes.values())
    sharing = sum(count for count in items.values() if count > 1)
    if not sharing:
        return None
    content, most = items.most_common(1)[0]
    example = next(item for item, value in hashes.items() if value == content)
    return f"{sharing:,} items share their picture with another; one picture, that of {example}, stands for {most:,} items"


def is_plain(image: Image.Image) -> bool:
    """True where Pillow's conversion to RGB neither clips nor shows what lies under a transparent ground."""
    return not image.has_transparency_data and not _is_deep(image)


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def to_rgb(image: Image.Image) -> Image.Image:
    """Make an image RGB of 8 bits: deep ones by the range of their mode, what is transparent laid on white.

    Raises:
        ValueError: numbers of which nobody knows what is white.
    """
    if _is_deep(image):
        image = _shallow(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema()[0] == 255:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, layer).convert("RGB")


def _shallow(image: Image.Image) -> Image.Image:
    """8 bits of 16 or of floats; L, or LA where one value is said to be transparent."""
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        white = 1.0
    elif image.mode != "I":
        white = 2 ** tags.get(258, (16,))[0] - 1  # bits of a sample: a TIFF's may be 12
    elif image.format in ("PNG", "PPM"):  # 16 bits that Pillow unpacks to 32
        white = 65535
    else:
        raise ValueError("whole numbers of 32 bits, of which nobody knows what is white; store it with 8 or 16 bits")
    transparent = image.info.get("transparency")
    values = np.asarray(image).astype(np.float64)
    if not ((values >= 0) & (values <= white)).all():
        raise ValueError(f"numbers that are not between 0 and {white:g}, so nobody knows what is white; store it with 8 bits")
    scaled = values / white * 255
    if tags.get(262) == 0:  # white is zero
        scaled = 255 - scaled
    grey = np.rint(scaled).astype(np.uint8)
    if not isinstance(transparent, int):
        return Image.fromarray(grey)
    return Image.fromarray(np.stack([grey, np.where(values == transparent, 0, 255).astype(np.uint8)], axis=2))


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
