"""Files of ready features that somebody else made, read block by block in flat memory; nothing is ever unpickled.

Legend: R rows of a file, T tokens of a row, W feature width.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from safetensors import safe_open
from torch import Tensor

from odmt.errors import InputError
from odmt.features.array_files import (
    ArrayFile,
    Npy,
    Npz,
    Safetensors,
    TorchFile,
    check_array,
    choose,
    explained,
    load_torch,
    tensor_names,
    to_numpy,
)
from odmt.features.row_names import ID_NAMES


class FeatureFile(Protocol):
    """Rows of features.

    Attributes:
        path: of the file.
        names: the items that the rows are of, where the file says so.
        num_rows: R.
        max_tokens: the most tokens of a row.
        width: W of the first row.
        row_bytes: roughly, of one row.
    """

    path: Path
    names: list[str] | None
    num_rows: int
    max_tokens: int
    width: int
    row_bytes: int

    def blocks(self, size: int, start: int = 0) -> Iterator[Sequence[np.ndarray]]:
        """Yield `size` rows at a time from row `start` on: each [W] or [T, W], floats that NumPy knows."""


def open_features(path: Path, key: str | None = None) -> FeatureFile:
    """Open a file of features, or a folder with a file an item.

    Args:
        path: .npy, .npz, .pt, .pth, .safetensors, .parquet, or a folder of such files (but .npz and .parquet) named by items.
        key: the array of an .npz, .pt or .safetensors file, the column of a .parquet file; None where there is only one.

    Raises:
        InputError: no such file, a broken one, one that would have to be unpickled, no floats.
    """
    path = Path(path)
    if path.is_dir():
        return _FolderOfItems(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; --file names a file of features or a folder with a file an item")
    if path.suffix not in _OPENERS:
        raise InputError(f"{path}: features are read from {', '.join(_OPENERS)} and from folders; convert the file")
    return _OPENERS[path.suffix](path, key)


class _Parquet(ArrayFile):
    """A column of lists of a .parquet file, beside a column of item names where there is one."""

    def __init__(self, path: Path, key: str | None):
        super().__init__(path)
        with explained(path):
            self._table = pl.scan_parquet(path)
            schema = self._table.collect_schema()
            self._column = choose(path, [name for name, dtype in schema.items() if _is_list(dtype)], key, "columns of lists")
            num_rows = self._table.select(pl.len()).collect().item()
            if not num_rows:
                raise ValueError("no row in it")
            ids = next((name for name in ID_NAMES if name in schema and name != self._column), None)
            self.names = None if ids is None else self._table.select(pl.col(ids).cast(pl.String)).collect()[ids].to_list()
            (first,) = next(self._rows(1, 0, num_rows))
        inner = _inner(schema[self._column])
        is_nested = _is_list(inner)
        self._describe(first.dtype.kind == "f", _inner(inner) if is_nested else inner, (num_rows, *first.shape), 8)
        if isinstance(schema[self._column], pl.List) and is_nested:
            self.max_tokens = self._table.select(pl.col(self._column).list.len().max()).collect().item()

    def blocks(self, size: int, start: int = 0) -> Iterator[list[np.ndarray]]:
        """Yield rows as `FeatureFile.blocks`."""
        yield from self._rows(size, start, self.num_rows)

    def _rows(self, size: int, start: int, end: int) -> Iterator[list[np.ndarray]]:
        for begin in range(start, end, size):
            with explained(self.path):
                column = self._table.select(self._column).slice(begin, size).collect()[self._column]
                yield _split(column, begin + 1)


class _FolderOfItems:
    """A folder with a file an item, of one vector [W] or tokens [T, W], or [1, T, W]."""

    def __init__(self, folder: Path):
        self._paths = sorted(path for path in folder.iterdir() if path.suffix in _ITEM_READERS)
        if not self._paths:
            raise InputError(
                f"{folder}: no file ITEM{' or ITEM'.join(_ITEM_READERS)} in it; --file names a folder with a file an item"
            )
        self.names: list[str] | None = [path.stem for path in self._paths]
        self.path = folder
        self.num_rows = len(self._paths)
        shapes = [self._read(path).shape for path in self._paths]
        self.width = shapes[0][-1]
        self.max_tokens = max(1 if len(shape) == 1 else shape[0] for shape in shapes)
        self.row_bytes = 4 * self.width * self.max_tokens

    def blocks(self, size: int, start: int = 0) -> Iterator[list[np.ndarray]]:
        """Yield rows as `FeatureFile.blocks`."""
        for begin in range(start, self.num_rows, size):
            yield [self._read(path) for path in self._paths[begin : begin + size]]

    def _read(self, path: Path) -> np.ndarray:
        with explained(path):
            array = _ITEM_READERS[path.suffix](path)
        check_array(path, array.dtype.kind == "f", array.dtype, (1, *array.shape) if array.ndim < 3 else array.shape)
        if array.ndim == 3 and len(array) != 1:
            raise InputError(f"{path}: {len(array)} rows in the file of one item; it holds [W], [T, W] or [1, T, W]")
        return array[0] if array.ndim == 3 else array


def _read_one_tensor(path: Path) -> np.ndarray:
    content = load_torch(path)
    return to_numpy(content if isinstance(content, Tensor) else content[choose(path, tensor_names(path, content), None)])


def _read_one_safetensor(path: Path) -> np.ndarray:
    with safe_open(path, "pt") as file:
        return to_numpy(file.get_tensor(choose(path, list(file.keys()), None)))


def _is_list(dtype: pl.DataType) -> bool:
    return isinstance(dtype, (pl.List, pl.Array))


def _inner(dtype: pl.DataType) -> pl.DataType:
    """The type of the values of a column of lists."""
    assert isinstance(dtype, (pl.List, pl.Array))
    assert isinstance(dtype.inner, pl.DataType)
    return dtype.inner


def _split(column: pl.Series, first: int) -> list[np.ndarray]:
    """The values of a column of lists: [W] each, or [T, W] where these are lists again; `first` is the number of the first row."""
    lengths = _lengths(column, np.arange(first, first + len(column)))
    values = column.explode()
    if _is_list(values.dtype):
        widths = _lengths(values, np.repeat(np.arange(first, first + len(column)), lengths))
        flat, starts = values.explode().to_numpy(), np.cumsum(lengths)[:-1]
        if (widths == widths[0]).all():
            return np.split(flat.reshape(-1, widths[0]), starts)
        row = np.repeat(np.arange(first, first + len(column)), lengths)[(widths != widths[0]).argmax()]
        raise ValueError(f"row {row} has tokens of width {widths[widths != widths[0]][0]}, others of {widths[0]}")
    return np.split(values.to_numpy(), np.cumsum(lengths)[:-1])


def _lengths(lists: pl.Series, rows: np.ndarray) -> np.ndarray:
    """How long each list is; `rows` says in which row of the file each stands."""
    lengths = lists.cast(pl.List(_inner(lists.dtype))).list.len().fill_null(0).to_numpy().astype(np.int64)
    if not lengths.all():
        raise ValueError(f"row {rows[lengths.argmin()]} has no value")
    return lengths


_OPENERS = {".npy": Npy, ".npz": Npz, ".pt": TorchFile, ".pth": TorchFile, ".safetensors": Safetensors, ".parquet": _Parquet}
_ITEM_READERS = {
    ".npy": lambda path: np.load(path, mmap_mode="r", allow_pickle=False),
    ".pt": _read_one_tensor,
    ".pth": _read_one_tensor,
    ".safetensors": _read_one_safetensor,
}
