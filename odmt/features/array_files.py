"""Files that hold one array of features, or several of which one is chosen: .npy, .npz, .pt, .safetensors.

Legend: R rows of a file, T tokens of a row, W feature width.
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from odmt.errors import InputError, first_line
from odmt.features.row_names import ID_NAMES

FLOATS = "float16, float32, float64 or bfloat16"


class ArrayFile:
    """What the formats of one array share."""

    names: list[str] | None = None

    def __init__(self, path: Path):
        self.path = path

    def _describe(self, is_float: bool, dtype, shape: tuple[int, ...], itemsize: int):
        """Take shape [R, W] or [R, T, W] and type down; refuse any other."""
        check_array(self.path, is_float, dtype, shape)
        self.num_rows, self.width = shape[0], shape[-1]
        self.max_tokens = 1 if len(shape) == 2 else shape[1]
        self.row_bytes = itemsize * self.max_tokens * self.width


class Npy(ArrayFile):
    """An .npy file; mapped anew for every block, so that pages which have been read do not count as this process's memory."""

    def __init__(self, path: Path, key: str | None = None):
        super().__init__(path)
        array = self._open()
        self._describe(array.dtype.kind == "f", array.dtype, array.shape, array.itemsize)

    def _open(self) -> np.ndarray:
        with explained(self.path):
            return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def blocks(self, size: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield rows as `FeatureFile.blocks`."""
        for begin in range(start, self.num_rows, size):
            yield np.array(self._open()[begin : begin + size])


class Npz(ArrayFile):
    """An array of an .npz file, streamed, since what is compressed cannot be mapped."""

    def __init__(self, path: Path, key: str | None):
        super().__init__(path)
        with explained(path), np.load(path, allow_pickle=False) as arrays:
            ids = next((name for name in ID_NAMES if name in arrays.files and name != key), None)
            self._member = choose(path, [name for name in arrays.files if name != ids], key) + ".npy"
            self.names = None if ids is None else [str(name) for name in arrays[ids].tolist()]
        with self._stream() as (_, shape, dtype):
            self._describe(dtype.kind == "f", dtype, shape, dtype.itemsize)

    @contextmanager
    def _stream(self) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
        """The member at the first byte of its values, and its shape and type."""
        with explained(self.path), zipfile.ZipFile(self.path) as archive, archive.open(self._member) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = read(file)
            if by_columns and len(shape) > 1:
                raise ValueError("an array in Fortran order; save np.ascontiguousarray of it")
            yield file, shape, dtype

    def blocks(self, size: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield rows as `FeatureFile.blocks`."""
        with self._stream() as (file, shape, dtype):
            file.seek(start * self.row_bytes, 1)
            for begin in range(start, self.num_rows, size):
                count = min(size, self.num_rows - begin)
                data = file.read(count * self.row_bytes)
                if len(data) < count * self.row_bytes:
                    raise ValueError("the file ends early")
                yield np.frombuffer(data, dtype).reshape(count, *shape[1:])


class TorchFile(ArrayFile):
    """A tensor of a .pt or .pth file."""

    def __init__(self, path: Path, key: str | None):
        super().__init__(path)
        self._key = key
        tensor = self._open()
        self._describe(tensor.is_floating_point(), tensor.dtype, tuple(tensor.shape), tensor.element_size())

    def _open(self) -> Tensor:
        content = load_torch(self.path)
        tensor = content if isinstance(content, Tensor) else content[self._choose(content)]
        if tensor.layout != torch.strided:
            raise InputError(f"{self.path}: a sparse tensor; save its to_dense()")
        return tensor

    def _choose(self, content) -> str:
        return choose(self.path, tensor_names(self.path, content), self._key)

    def blocks(self, size: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield rows as `FeatureFile.blocks`."""
        for begin in range(start, self.num_rows, size):
            yield to_numpy(self._open()[begin : begin + size])


class Safetensors(ArrayFile):
    """A tensor of a .safetensors file."""

    def __init__(self, path: Path, key: str | None):
        super().__init__(path)
        with explained(path), safe_open(path, "pt") as file:
            self._key = choose(path, list(file.keys()), key)
            part = file.get_slice(self._key)
            shape, first = tuple(part.get_shape()), part[:1] if part.get_shape() else torch.zeros(())
        self._describe(first.is_floating_point(), first.dtype, shape, first.element_size())

    def blocks(self, size: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield rows as `FeatureFile.blocks`."""
        for begin in range(start, self.num_rows, size):
            with safe_open(self.path, "pt") as file:
                yield to_numpy(file.get_slice(self._key)[begin : begin + size])


def load_torch(path: Path):
    """The content of a .pt file, memory-mapped where its format allows."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # pickle.UnpicklingError, RuntimeError and others, by what is broken
        reason = first_line(error)
        raise InputError(
            f"{path}: no tensors that can be read without unpickling: {reason}; save a tensor with torch.save"
        ) from None


def tensor_names(path: Path, content) -> list[str]:
    """The tensors among the content of a .pt file."""
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; expected a tensor, or a dict of tensors")
    return [name for name, value in content.items() if isinstance(value, Tensor)]


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy for NumPy; types that it lacks as float32."""
    known = tensor.dtype in (torch.float16, torch.float32, torch.float64)
    # A copy, since the map behind the tensor goes away.
    return (tensor if known else tensor.float()).detach().numpy().copy()


def choose(path: Path, names: list[str], key: str | None, what: str = "arrays") -> str:
    """The array that is named, or the only one.

    Raises:
        InputError: none or several, or none of that name.
    """
    if key is not None and key in names:
        return key
    if key is None and len(names) == 1:
        return names[0]
    found = ", ".join(map(str, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"
    problem = f"no {key!r} in it" if key is not None else f"has not one but {len(names)}"
    raise InputError(f"{path}: {problem}; its {what}: {found}; choose with --key")


def check_array(path: Path, is_float: bool, dtype, shape: tuple[int, ...]):
    """Refuse what are no floats, and shapes other than [R, W] and [R, T, W]."""
    if not is_float:
        remedy = "save the features as an array of numbers" if str(dtype) == "object" else "convert them"
        raise InputError(f"{path}: values of type {dtype}; features are {FLOATS}: {remedy}")
    if len(shape) not in (2, 3) or 0 in shape[1:]:
        raise InputError(f"{path}: an array of shape {list(shape)}; features are [items, width] or [items, tokens, width]")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say of a file that cannot be read what is wrong with it."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, SafetensorError, pl.exceptions.PolarsError) as error:
        reason = first_line(error)
        if "allow_pickle" in reason or "Python objects" in reason:
            reason = "an object array, which would have to be unpickled; save the features as an array of numbers"
        raise InputError(f"{path}: cannot be read: {reason}") from error
