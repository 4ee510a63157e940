"""What leaves a run for other programs: tables of recommendations, and vectors as vector databases take them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import torch

from odmt.checkpoint import save_tensors
from odmt.errors import InputError
from odmt.features.item_table import not_utf8
from odmt.files import write_text, written_whole
from odmt.outputs import check_file, whole_folder
from odmt.recommend import Recommendations

WRITERS: dict[str, Callable[[pl.DataFrame, Path], None]] = {
    ".parquet": lambda table, path: table.write_parquet(path),
    ".csv": lambda table, path: table.write_csv(path),
    ".jsonl": lambda table, path: table.write_ndjson(path),
}
SCANS: dict[str, Callable[[Path], pl.LazyFrame]] = {".parquet": pl.scan_parquet, ".csv": pl.scan_csv, ".jsonl": pl.scan_ndjson}
COLUMNS = (["user", "rank", "item", "score"], ["item", "rank", "neighbour", "score"])  # that a table begins with
ABOUT = "about.json"
VECTORS = (ABOUT, *(f"{kind}_{part}" for kind in ("item", "user") for part in ("vectors.safetensors", "ids.txt")))


def check_suffix(path: Path):
    """Refuse a table that is not to be written, before anything is worked out.

    Raises:
        InputError: with the endings that there are; a file that holds something else than recommendations.
    """
    check_file(path, WRITERS, _is_table)


def _is_table(path: Path) -> bool:
    """Whether a file is a table of recommendations or neighbours, or an empty one."""
    try:
        return path.stat().st_size == 0 or list(SCANS[path.suffix](path).collect_schema())[:4] in COLUMNS
    except pl.exceptions.PolarsError:
        return False


def write_table(table: pd.DataFrame, path: Path):
    """Write a table whole or not at all, as its ending says."""
    columns = {name: table[name].to_numpy() for name in table}
    frame = pl.DataFrame({name: column.tolist() if column.dtype == object else column for name, column in columns.items()})
    with written_whole(path, "name another place") as partial:
        WRITERS[path.suffix](frame, partial)


def read_users(text: str) -> str | list[str] | dict[str, list[str]]:
    """Who `--users` names: `all`, a file, or names with commas between them.

    A line of the file is a user of the dataset, or `name<TAB>item item ...`, the history of somebody who is not in it.

    Raises:
        InputError: a file that is empty or mixes the two.
    """
    if text == "all":
        return text
    path = Path(text)
    if not path.is_file():
        if path.suffix in (".txt", ".tsv", ".csv") or "/" in text:
            raise InputError(f"--users {text}: no such file; name a file of users, users with commas between them, or all")
        return [name for name in text.split(",") if name]
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    if not lines:
        raise InputError(f"{path}: names nobody; write a user a line, or name<TAB>item item ... for people not in the data")
    histories = [line.split("\t") for line in lines if "\t" in line]
    if not histories:
        return [line.strip() for line in lines]
    for number, line in enumerate(lines, 1):
        if "\t" not in line:
            raise InputError(
                f"{path}, line {number}: has no tab, and other lines do: users of the dataset (a name a line) and people who are "
                "not in it (name<TAB>item item ...) are asked for in two files"
            )
        if line.count("\t") > 1:
            raise InputError(f"{path}, line {number}: has several tabs; expected name<TAB>item item ..., with spaces between items")
    names = [name for name, _ in histories]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: {next(name for name in names if names.count(name) > 1)!r} stands in several lines; keep one")
    return {name: items.split() for name, items in histories}


def export_vectors(run: Recommendations, folder: Path):
    """Write the vectors of items and users by source, and their names line by line, to a folder that appears whole.

    item_vectors.safetensors and user_vectors.safetensors have a tensor float32 [rows, D] a source; row r belongs to line r of
    item_ids.txt and user_ids.txt. The inner product of a user's and an item's vector of one source is the score.

    Raises:
        InputError: the folder holds something else.
    """
    with whole_folder(Path(folder), VECTORS) as partial:
        _write_vectors(run, partial)


def _write_vectors(run: Recommendations, folder: Path):
    items = {source: run.item_vectors(source) for source in dict.fromkeys(["fused", *run.catalogue.vectors])}
    users = {source: run.user_vectors("all", source) for source in run.sources}
    score = "inner product" if run.task.dot_products else "a distance with attention, which no inner product gives"
    for kind, vectors, names in (("item", items, run.item_ids), ("user", users, run.user_ids)):
        tensors = {source: torch.from_numpy(np.ascontiguousarray(rows)) for source, rows in vectors.items()}
        save_tensors(folder / f"{kind}_vectors.safetensors", tensors, {"score": score, "run": str(run.folder)})
        write_text(folder / f"{kind}_ids.txt", "".join(f"{name}\n" for name in names))
    widths = {source: rows.shape[1] for source, rows in items.items()}
    about = {"run": str(run.folder), "score": score, "items": len(run.item_ids), "users": len(run.user_ids), "widths": widths}
    write_text(folder / ABOUT, json.dumps(about, indent=2) + "\n")
