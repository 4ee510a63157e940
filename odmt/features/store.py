"""Frozen features of items on disk (paper, Section 3.2): a JSON header and LMDB files, the shards, read as one store.

A shard holds two tables. `features`: item id -> [T, W] of the header's type in C order, little-endian, then an 8-byte xxh3
checksum of it.
`records`: item id -> what the features were made from and whether there are any. Nothing is padded, nothing is pickled. Beside
the tables, under the key `header`, a shard keeps the header that it was written with; shards of earlier versions have none.

Legend: T tokens of an item, the CLS token first, W feature width.
"""

import json
import threading
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lmdb
import numpy as np
import xxhash

from odmt.errors import InputError
from odmt.features.header import Header, Record

CHECKSUM_BYTES = 8
HEADER_KEY = b"header"


class FeatureStore:
    """The features of a modality, read-only.

    Opening takes the same time whatever the number of items. Reading is safe from several threads and in forked processes; a
    pickled store is opened anew. A store that is still being extended is
    not for reading.

    Attributes:
        folder: where the store lies.
        header: what it holds.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.header = Header.read(self.folder)
        self._shards = [_open_shard(path) for path in shard_paths(self.folder)]
        for shard in self._shards:
            shard.check_header(self.header)

    def __reduce__(self):
        return FeatureStore, (self.folder,)

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Let go of the files; they are closed when no other store of this process has them open."""
        self._shards = []

    def __len__(self) -> int:
        return sum(shard.num_items() for shard in self._shards)

    def __contains__(self, item_id: str) -> bool:
        return self._num_bytes(item_id) is not None

    def num_tokens(self, item_id: str) -> int:
        """T of an item, read off the size of its value."""
        num_bytes = self._num_bytes(item_id)
        if num_bytes is None:
            raise self._missing(item_id)
        return (num_bytes - CHECKSUM_BYTES) // (self.header.width * self.header.stored_type.itemsize)

    def read(self, item_id: str) -> np.ndarray:
        """The tokens of an item [T, W] as they are stored, the caller's own copy.

        Raises:
            InputError: the item is not in the store, or its bytes are not those that were written.
        """
        key = item_id.encode()
        for shard in self._shards:
            with shard.explained(), shard.env.begin(db=shard.features, buffers=True) as transaction:
                value = transaction.get(key)
                if value is not None:
                    return shard.decode(item_id, value, self.header)
        raise self._missing(item_id)

    def read_into(self, item_ids: Sequence[str], rows: Sequence[np.ndarray]):
        """Copy the first tokens of items, as many as each array [T', W] takes, straight from the map; raises as `read`."""
        with ExitStack() as opened:
            shards = []
            for shard in self._shards:
                opened.enter_context(shard.explained())
                shards.append((shard, opened.enter_context(shard.env.begin(db=shard.features, buffers=True))))
            for item_id, out in zip(item_ids, rows, strict=True):
                key = item_id.encode()
                for shard, transaction in shards:
                    value = transaction.get(key)
                    if value is not None:
                        out[:] = shard.view(item_id, value, self.header)[: len(out)]
                        break
                else:
                    raise self._missing(item_id)

    def records(self) -> Iterator[tuple[str, Record]]:
        """Every item that extraction has dealt with, those without features too."""
        for shard in self._shards:
            yield from shard.read_records()

    def content_fingerprint(self, item_ids: Collection[str] | None = None) -> str:
        """A hash of what the features were made from, item by item: images and texts, or the features that were imported.

        It stays the same when an extraction is continued that finds nothing to do, and whatever the shards are.

        Args:
            item_ids: of which items alone; None: of all.
        """
        chosen = None if item_ids is None else set(item_ids)
        made = sorted(
            (item_id, record.source)
            for item_id, record in self.records()
            if record.fate in ("stored", "blank") and (chosen is None or item_id in chosen)
        )
        return xxhash.xxh3_64_hexdigest(json.dumps(made).encode())

    def _num_bytes(self, item_id: str) -> int | None:
        key = item_id.encode()
        for shard in self._shards:
            with shard.explained(), shard.env.begin(db=shard.features, buffers=True) as transaction:
                value = transaction.get(key)
                if value is not None:
                    return len(value)
        return None

    def _missing(self, item_id: str) -> InputError:
        return InputError(
            f"{self.folder}: no features of item {item_id!r}; run scripts/extract_features.py, which adds what is missing"
        )


class Shard:
    """One LMDB file with its two tables, opened for reading or writing.

    Args:
        path: the file; a file that is to be written may be missing.
        options: of `lmdb.open`.
    """

    def __init__(self, path: Path, **options):
        self.path = path
        try:
            self.env = lmdb.open(str(path), subdir=False, max_dbs=2, **options)
            self._check_complete()
            create = not options.get("readonly", False)
            self.features = self.env.open_db(b"features", create=create)
            self.records = self.env.open_db(b"records", create=create)
        except lmdb.Error as error:
            raise InputError(f"{path}: cannot be opened: {error}") from error

    def header(self) -> Header | None:
        """What this file was written with; None where an earlier version wrote it."""
        with self.explained(), self.env.begin() as transaction:
            text = transaction.get(HEADER_KEY)
        try:
            return None if text is None else Header.from_json(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{self.path}: its header is damaged ({error}); remove the file and extract again") from error

    def check_header(self, header: Header):
        """Refuse a file that was written for another store.

        Raises:
            InputError: naming what differs.
        """
        own = self.header()
        if own is not None and (keys := own.differing_keys(header)):
            differences = "; ".join(f"{key} is {getattr(own, key)!r}, there {getattr(header, key)!r}" for key in keys)
            raise InputError(
                f"{self.path}: was not written for the header.json beside it: {differences}. Put the right file back or "
                f"remove {self.path.parent} and extract again"
            )

    def read_features(self, header: Header) -> Iterator[tuple[str, np.ndarray]]:
        """Yield item ids and their tokens [T, W], comparing checksums."""
        with self.explained(), self.env.begin(db=self.features, buffers=True) as transaction:
            for key, value in transaction.cursor():
                item_id = bytes(key).decode()
                yield item_id, self.decode(item_id, value, header)

    def decode(self, item_id: str, value: memoryview, header: Header) -> np.ndarray:
        """Copy the tokens [T, W] of a stored value; raises as `view`."""
        return self.view(item_id, value, header).copy()

    def view(self, item_id: str, value: memoryview, header: Header) -> np.ndarray:
        """The tokens [T, W] of a stored value where they lie, as long as its transaction is open.

        Raises:
            InputError: the bytes are not those that were written.
        """
        data, checksum = value[:-CHECKSUM_BYTES], value[-CHECKSUM_BYTES:]
        if xxhash.xxh3_64_digest(data) != checksum or len(data) % (header.width * header.stored_type.itemsize):
            raise InputError(f"{self.path}: the features of item {item_id!r} are damaged; remove the file and extract again")
        return np.frombuffer(data, header.stored_type).reshape(-1, header.width)

    def missing_bytes(self) -> int:
        """How much shorter the file is than its pages take."""
        pages = self.env.info()["last_pgno"] + 1
        return pages * self.env.stat()["psize"] - self.path.stat().st_size

    def _check_complete(self):
        """Refuse a file whose end is missing, as an interrupted copy leaves it: reading past it would kill the process."""
        if (missing := self.missing_bytes()) > 0:
            raise InputError(
                f"{self.path}: the last {missing} bytes are missing, as after a copy that was cut off; copy it again, or remove "
                f"{self.path.parent} and extract again"
            )

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what LMDB finds wrong with the file into an `InputError` that names it."""
        try:
            yield
        except lmdb.Error as error:
            raise InputError(f"{self.path}: cannot be read: {error}; remove the file and extract again") from error

    def num_items(self) -> int:
        """Items that have features here."""
        with self.explained(), self.env.begin() as transaction:
            return transaction.stat(self.features)["entries"]

    def read_records(self) -> Iterator[tuple[str, Record]]:
        """Yield item ids and their records.

        Raises:
            InputError: one is not what was written.
        """
        with self.explained(), self.env.begin(db=self.records) as transaction:
            for key, value in transaction.cursor():
                try:
                    entry = key.decode(), Record.from_bytes(value)
                except (ValueError, TypeError) as error:
                    item_id = key.decode(errors="replace")
                    raise InputError(
                        f"{self.path}: the record of item {item_id!r} is damaged ({error}); remove the file and extract again"
                    ) from error
                yield entry


def shard_paths(folder: Path) -> list[Path]:
    """The LMDB files of a store, in order."""
    return sorted(folder.glob("shard-*.lmdb"))


def shard_number(path: Path) -> int:
    """The number in a shard's file name."""
    return int(path.stem.removeprefix("shard-"))


# LMDB forbids that a process opens a file twice, so stores of the same folder share their shards. Without locks a read-only map
# needs no write permission, has no limit of readers and survives a fork.
_open_shards: "weakref.WeakValueDictionary[tuple[int, int], Shard]" = weakref.WeakValueDictionary()
_opening = threading.Lock()


def _open_shard(path: Path) -> Shard:
    with _opening:
        stat = path.stat()
        file = (stat.st_dev, stat.st_ino)
        shard = _open_shards.get(file)
        if shard is None:
            shard = Shard(path, readonly=True, lock=False)
            _open_shards[file] = shard
        return shard
