"""A dataset's folder: where it is, and what `scripts/prepare.py` recorded of its tables, so that one that was cut off is noticed.

dataset.json holds for each table its lines, bytes and hash, and beside them the counts, what was dropped, and from what the dataset
was made. A dataset without it is read as it is.
"""

import difflib
import json
import os
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from odmt.errors import InputError
from odmt.files import reading, write_text

RECORD = "dataset.json"
LISTS = ("behaviours.tsv", "train.tsv", "valid.tsv", "test.tsv")  # of items, a user a line
TABLES = (*LISTS, "items.tsv", "labels.tsv")
OLDER = "interactions older than their user's last"  # what `dropped` calls those that a limit has left out
CHUNK_BYTES = 1 << 20


class TableState(NamedTuple):
    """What a table is recognised by."""

    lines: int
    bytes: int
    xxh3: str


def find_dataset(dataset: Path) -> Path:
    """The folder of a dataset that is given as data/NAME or by its name alone, as the configuration has it.

    Raises:
        InputError: there is neither, or there are both.
    """
    dataset = Path(dataset)
    by_name = len(dataset.parts) == 1 and dataset.name != ".."
    tried = [dataset, Path("data") / dataset] if by_name else [dataset]
    with reading(dataset):
        found = list({folder.resolve(): folder for folder in tried if folder.is_dir()}.values())
    if len(found) > 1:
        raise InputError(f"{dataset}: names two folders; give --dataset the one that is meant: {dataset.resolve()} or {found[1]}")
    if found:
        return found[0]
    raise no_dataset(tried[-1])


def no_dataset(folder: Path) -> InputError:
    """The error about a dataset that is not there, with the one beside it that may have been meant."""
    near = difflib.get_close_matches(folder.name, [each.name for each in folder.parent.glob("*/")], n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return InputError(f"{folder}: no such dataset{meant}; scripts/prepare.py makes one from raw files, data/README.md tells how")


def table_state(path: Path) -> TableState:
    """Count and hash a table."""
    digest, lines, size, end = xxhash.xxh3_128(), 0, 0, b"\n"
    with reading(path), path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            lines += chunk.count(b"\n")
            size += len(chunk)
            end = chunk[-1:]
    return TableState(lines + (end != b"\n"), size, digest.hexdigest())


def write_record(folder: Path, about: dict[str, Any]):
    """Record the tables that lie in a folder, and what else is known about the dataset."""
    tables = {name: table_state(folder / name)._asdict() for name in TABLES if (folder / name).is_file()}
    write_text(folder / RECORD, json.dumps({**about, "tables": tables}, indent=1, ensure_ascii=False) + "\n")


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read what was recorded of a dataset; None: nothing was.

    Raises:
        InputError: the record cannot be read.
    """
    path = folder / RECORD
    if not os.path.lexists(path):
        return None
    with reading(path):
        content = path.read_bytes()
    try:
        record = json.loads(content)
        return {**record, "tables": {name: TableState(**state) for name, state in record["tables"].items()}}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: damaged ({type(error).__name__}: {error}); restore it, or have it made from the tables as they are: "
            f"{_accept(folder)}"
        ) from None


def may_be_cut(folder: Path) -> bool:
    """Whether older interactions of a dataset may have been left out: what was recorded says so, or nothing was."""
    record = read_record(folder)
    return not record or OLDER in str(record.get("dropped"))


def check_recorded(path: Path):
    """Compare a table with what was recorded when it was prepared.

    Raises:
        InputError: it differs; with what differs, and how an edited table is accepted.
    """
    record = read_record(path.parent)
    if not record or not (then := record["tables"].get(path.name)):
        return
    now = table_state(path)
    if now == then:
        return
    if (now.lines, now.bytes) == (then.lines, then.bytes):
        difference = f"other content in as many lines ({now.lines:,}) and bytes"
    else:
        difference = f"{now.lines:,} lines of {now.bytes:,} bytes in all, which were {then.lines:,} lines and {then.bytes:,} bytes"
    raise InputError(
        f"{path}: not as it was prepared: {difference}. If it was cut off or damaged, copy or prepare it again; if it was edited "
        f"on purpose: {_accept(path.parent)}"
    )


def _accept(folder: Path) -> str:
    return f"python scripts/prepare.py accept --dataset {shlex.quote(str(folder))}"
