"""Writing feature stores: whole batches in transactions, so that a process can die at any moment and the next one continues."""

import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import lmdb
import numpy as np
import xxhash

from odmt.cores import rank_and_size
from odmt.errors import InputError
from odmt.features.header import FATES, Fate, Header, Record
from odmt.features.store import HEADER_KEY, Shard, shard_paths
from odmt.files import write_text, written_whole

INITIAL_MAP_BYTES = 1 << 26

LOCK = "extraction.lock"
MAX_NAME_BYTES = 511

# The file that lists the items of a fate other than `stored`, a line each: item<TAB>reason.
LISTS: dict[Fate, str] = {"stop": "bad_images.tsv", "drop": "dropped.tsv", "blank": "blank.tsv"}


def check_names(item_ids: Collection[str]):
    """Refuse items whose names are longer than a key of LMDB."""
    if too_long := [item_id for item_id in item_ids if len(item_id.encode()) > MAX_NAME_BYTES]:
        raise InputError(
            f"item {too_long[0][:40]!r}...: a name of {len(too_long[0].encode())} bytes, {MAX_NAME_BYTES} are the most; shorten it "
            "in items.tsv and wherever it is used"
        )


class FeatureWriter:
    """Adds items to one shard of a store.

    Args:
        folder: the store's folder, made where it is missing.
        header: what will be added; a store that holds something else is refused.
        shard: number of the shard; no two processes may write to the same one.
    """

    def __init__(self, folder: Path, header: Header, shard: int = 0):
        self.folder = folder
        claim_folder(folder, header)
        self._type = header.stored_type
        self._shard = _open_for_writing(folder / f"shard-{shard:05d}.lmdb")
        if self._shard.header():
            self._shard.check_header(header)
        else:
            _transact(self._shard, lambda transaction: transaction.put(HEADER_KEY, header.to_json().encode()))

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(self, *_):
        self._shard.env.close()

    def add(self, features: Mapping[str, np.ndarray], records: Mapping[str, Record]):
        """Write the features [T, W] of some items and the records of these and others: all of it or, where it fails, nothing."""

        def write(transaction: lmdb.Transaction):
            for item_id, tokens in features.items():
                data = np.ascontiguousarray(tokens, self._type).tobytes()
                transaction.put(item_id.encode(), data + xxhash.xxh3_64_digest(data), db=self._shard.features)
            for item_id, record in records.items():
                transaction.put(item_id.encode(), record.to_bytes(), db=self._shard.records)

        _transact(self._shard, write)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other jobs from writing to a store; the processes that were started together share it.

    The lock is the operating system's, which lets go of it however a process ends; decoding processes do not inherit it. A folder
    that cannot be written to needs none.

    Raises:
        InputError: another job writes to the store.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        yield
        return
    with _explained(folder):
        file = (folder / LOCK).open("a+")
    with file:
        with _locked(folder):
            _join(file, folder)
        yield


def _join(file: TextIO, folder: Path):
    """Take the lock of a store's folder, alone or with the other processes of the same job."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(f"{_job()}\n{os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    except (BlockingIOError, PermissionError):  # whichever of the two a file system has for it
        file.seek(0)
        job, _, process = file.read().partition("\n")
        if job != _job():
            raise InputError(
                f"{folder}: another process writes to it, number {process.strip()}; wait until it has ended and start again"
            ) from None
    fcntl.lockf(file, fcntl.LOCK_SH)


def _job() -> str:
    """What the processes of one job have in common, and those of two at the same time not."""
    if rank_and_size()[1] == 1:
        return f"process {os.getpid()} on {socket.gethostname()}"
    return " ".join(os.environ.get(key, "") for key in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))


def claim_folder(folder: Path, header: Header):
    """Write the header of a store that is still empty; compare it with that of one that is not.

    Raises:
        InputError: the store holds other features, or a shard of another store; the keys that differ are named.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if not shard_paths(folder):
            return write_text(folder / "header.json", header.to_json())
        found = Header.read(folder)
    if keys := found.differing_keys(header):
        differences = "; ".join(f"{key} is {getattr(found, key)!r}, asked for {getattr(header, key)!r}" for key in keys)
        raise InputError(
            f"{folder}: holds features of {found.encoder!r} that differ from those of {header.encoder!r}: {differences}. "
            "Ask for what is there, or remove the folder to extract again"
        )
    for path in shard_paths(folder):
        shard = open_for_reading(path)
        shard.check_header(header)
        shard.env.close()


def read_records(folder: Path) -> dict[str, Record]:
    """Everything that extraction has dealt with so far, while other processes may be writing."""
    records: dict[str, Record] = {}
    for path in shard_paths(folder):
        shard = open_for_reading(path)
        records.update(shard.read_records())
        shard.env.close()
    return records


def update_records(folder: Path, records: Mapping[str, Record]):
    """Write records in place of those of the same items, in whatever shards they are; not where the folder is read only."""

    def replace(transaction: lmdb.Transaction):
        for item_id, record in records.items():
            if transaction.get(item_id.encode(), db=shard.records) is not None:
                transaction.put(item_id.encode(), record.to_bytes(), db=shard.records)

    for path in shard_paths(folder) if records and os.access(folder, os.W_OK) else []:
        shard = _open_for_writing(path)
        _transact(shard, replace)
        shard.env.close()


def discard(folder: Path, item_ids: Collection[str]):
    """Remove items from whatever shards hold them."""

    def remove(transaction: lmdb.Transaction):
        for item_id in item_ids:
            transaction.delete(item_id.encode(), db=shard.features)
            transaction.delete(item_id.encode(), db=shard.records)

    for path in shard_paths(folder) if item_ids else []:
        shard = _open_for_writing(path)
        _transact(shard, remove)
        shard.env.close()


def write_lists(folder: Path, item_ids: Collection[str]) -> dict[Fate, dict[str, Record]]:
    """List the items whose images could not be decoded in files of the store's folder, a file for each fate.

    Args:
        folder: of the store.
        item_ids: the dataset's items; the store may know others, which were in it once.

    Returns:
        the dataset's items and their records, by fate.
    """
    with _locked(folder):
        found = read_records(folder)
        records = sorted((item_id, found[item_id]) for item_id in item_ids if item_id in found)
        by_fate = {fate: {item_id: record for item_id, record in records if record.fate == fate} for fate in FATES}
        for fate, name in LISTS.items():
            text = "".join(f"{item_id}\t{record.reason}\n" for item_id, record in by_fate[fate].items())
            _write_list(folder / name, text)
    return by_fate


def _write_list(path: Path, text: str):
    """Bring a list up to date; what is right already is left alone, so that a read-only folder can be looked through."""
    old = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    if text and text != old:
        write_text(path, text)
    elif not text and path.exists():
        path.unlink()


def open_for_reading(path: Path) -> Shard:
    """Open a shard that other processes may be writing to; without a lock where the folder cannot be written to."""
    return Shard(path, readonly=True, lock=os.access(path.parent, os.W_OK))


def _open_for_writing(path: Path) -> Shard:
    if not path.exists():
        # Readers never see a file without its tables.
        with written_whole(path) as partial, _explained(path):
            partial.unlink(missing_ok=True)
            Shard(partial, map_size=INITIAL_MAP_BYTES).env.close()
            partial.with_name(partial.name + "-lock").unlink(missing_ok=True)
    with _explained(path):
        os.close(os.open(path, os.O_RDWR))
    return Shard(path, map_size=INITIAL_MAP_BYTES)


def _transact(shard: Shard, write: Callable[[lmdb.Transaction], object]):
    """Run `write` in one transaction, with as much room in the memory map as it takes."""
    with _explained(shard.path):
        while True:
            try:
                with shard.env.begin(write=True) as transaction:
                    write(transaction)
                return _fill_up(shard)
            except lmdb.MapFullError:
                shard.env.set_mapsize(2 * shard.env.info()["map_size"])
            except lmdb.MapResizedError:  # another process made room
                shard.env.set_mapsize(0)


def _fill_up(shard: Shard):
    """Give the file its full length, which LMDB leaves out where its last pages are free; readers take the lack for damage."""
    if shard.missing_bytes() > 0:
        with shard.env.begin(write=True):  # no other process writes meanwhile
            os.truncate(shard.path, shard.path.stat().st_size + max(0, shard.missing_bytes()))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep the other processes of an extraction out."""
    with _explained(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say what to do when the disk takes no more, cannot be written to or is gone; LMDB reports a full one as an I/O error too."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        folder = path if path.is_dir() else path.parent
        above = next(part for part in (folder, *folder.parents) if part.exists())
        if getattr(error, "errno", None) in (errno.EROFS, errno.EACCES, errno.EPERM) or not os.access(above, os.W_OK):
            message = f"read only, so nothing can be stored; extract into a copy of the dataset, or see to the rights ({error})"
        elif above != folder:
            message = f"the folder is gone ({error}); bring the dataset back and start the same command again"
        else:
            free = shutil.disk_usage(folder).free / 1e9
            message = (
                f"cannot be written: {error}; {free:.2f} GB are free on that disk. What was stored before is safe: "
                "make room and start the same command again, it continues"
            )
        raise InputError(f"{path}: {message}") from error
