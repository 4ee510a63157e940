"""Item images: finding their files, judging them by their headers, making them RGB. Needs no PyTorch; `decoding` has batches.

One rule for images from folders and from the net: `open_image` refuses what is no regular file, is but a dot as shops answer with
where they have no image, is of more than 50 million pixels, or has more than 4 MB of metadata.

Deviation: the official code converts every image to RGB as Pillow does, which clips images of 16 bits and floats to white or black
and shows the colour that lies hidden under a transparent ground. Here deep images are scaled by their range, and what is
transparent is laid on white. Ordinary images give the same pixels as there.
Choice: a rotation that EXIF asks for is not applied, as in the official code.
"""

import hashlib
import io
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash
from PIL import Image

from odmt.errors import InputError
from odmt.files import reading

MIN_SIDE = 8  # pixels; shops answer with an image of one pixel where they have none
MAX_PIXELS = 50_000_000  # 150 MB as RGB
MAX_METADATA_BYTES = 4_000_000  # Pillow takes time with its square

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
