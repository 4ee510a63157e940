"""Images of the official release: LMDB files whose values are pickles of a class `LMDB_Image`, read without trusting them."""

import io
import pickle
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image
from tqdm import tqdm

from odmt.errors import InputError

# Stream's images: raw float32, channels first, normalised by mean and standard deviation 0.5.
STREAM_SHAPE = (3, 224, 224)


class StoredImage:
    """What a pickled `LMDB_Image` becomes: a bare object with the attributes of the file."""


class _ImageUnpickler(pickle.Unpickler):
    """Builds `StoredImage` and plain containers; every other class or function of a pickle is refused."""

    def find_class(self, module: str, name: str):
        if name == "LMDB_Image":
            return StoredImage
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def decode_image(value: bytes) -> Image.Image:
    """Read an image of the official release: uint8 of any size, or Stream's normalised floats, made uint8 again.

    Raises:
        ValueError: anything else, a pickle that asks for other classes among it.
    """
    try:
        stored = vars(_ImageUnpickler(io.BytesIO(value)).load())
        return _image_of(**stored)
    except Exception as error:  # the attributes are whatever the file says
        raise ValueError(f"not a pickled LMDB_Image: {error}") from error


def _image_of(image: bytes, size: tuple[int, int] | None = None, channels: int = 3, **_) -> Image.Image:
    if not isinstance(image, bytes) or not image:
        raise ValueError("its image is not bytes, or empty")
    if size is None:
        values = np.frombuffer(image, np.float32).reshape(STREAM_SHAPE)
        return Image.fromarray(np.rint((values * 0.5 + 0.5) * 255).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    height, width = size
    pixels = np.frombuffer(image, np.uint8).reshape(height, width, channels)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels).convert("RGB")


class LmdbImages:
    """The images of an official LMDB file by item.

    A key is the item's name or, in H&M, the number in it: v0108775015 has the key 108775015.

    Args:
        path: the LMDB file or folder.
        item_ids: the items whose images are looked for; those found are `item_ids`.
    """

    def __init__(self, path: Path, item_ids: Iterable[str]):
        self.path = Path(path)
        try:
            self._env = lmdb.open(str(path), subdir=self.path.is_dir(), readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise InputError(
                f"{path}: not an LMDB file ({error}); expected *.lmdb of the official release or an image folder"
            ) from error
        self._check_complete()
        with self._env.begin() as transaction:
            keys = {item: next((key for key in _keys(item) if transaction.get(key) is not None), None) for item in item_ids}
        self._keys = {item: key for item, key in keys.items() if key}

    def _check_complete(self):
        """Refuse a file whose end is missing: reading past it would kill the process without a word."""
        file = self.path / "data.mdb" if self.path.is_dir() else self.path
        missing = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"] - file.stat().st_size
        if missing > 0:
            raise InputError(f"{file}: the last {missing:,} bytes are missing, as after a broken download; download it again")

    @property
    def item_ids(self) -> list[str]:
        """The items that have an image."""
        return list(self._keys)

    def place(self, item_ids: list[str], folder: Path):
        """Write the images as PNG, which keeps every pixel."""
        folder.mkdir()

        def write(item: str):
            with self._env.begin() as transaction:
                try:
                    image = decode_image(transaction.get(self._keys[item], b""))
                except ValueError as error:
                    raise InputError(f"{self.path}, key {self._keys[item]!r}: {error}; download the file again") from error
            image.save(folder / f"{item}.png", compress_level=1)

        with ThreadPoolExecutor() as pool:
            for _ in tqdm(pool.map(write, item_ids), total=len(item_ids), desc="images", unit=" images", delay=2):
                pass


def _keys(item: str) -> list[bytes]:
    number = item.removeprefix("v")
    return [item.encode(), *([str(int(number)).encode()] if number.isascii() and number.isdigit() else [])]
