"""RecBole's atomic files: tables with tabs whose header names each column and its type, `user_id:token`, `timestamp:float`."""

import sys
from pathlib import Path
from typing import Literal

import polars as pl

from odmt.errors import InputError
from odmt.prepare.histories import histories_by_time, histories_of_pairs, read_events
from odmt.prepare.item_tables import NO_CATEGORY, read_items, read_labels, with_all
from odmt.prepare.layout import Cut, Dataset, check_names, source_of
from odmt.prepare.new_folder import new_folder
from odmt.prepare.raw_tables import read_header
from odmt.prepare.splits import given_split, random_split
from odmt.prepare.table1 import print_sgfd_table1

TYPES = ("token", "token_seq", "float", "float_seq")
PARTS = ("train", "valid", "test")


def recbole(
    inter: list[Path],
    out: Path,
    item: Path | None = None,
    user_field: str = "user_id",
    item_field: str = "item_id",
    time_field: str = "timestamp",
    text: str | None = None,
    label_field: str | None = None,
    split: Literal["time", "random"] = "time",
    test_share: float = 0.3,
    valid_share: float = 0.1,
    seed: int = 1,
    min_length: int = 5,
    last: int | None = None,
    skip_bad_lines: int = 0,
    overwrite: bool = False,
):
    """Prepare a dataset from RecBole's atomic files.

    One .inter file gives sequences in time order or, with --split random, a dataset for graph models. Benchmark files, a split
    that was made before (X.train.inter X.valid.inter X.test.inter), are taken as they are: a dataset for graph models.

    Args:
        inter: X.inter, or the benchmark files; of these X.valid.inter may be missing.
        out: the dataset's folder, data/NAME.
        item: X.item; without, an item's text is its name.
        user_field: field of the .inter file.
        item_field: field of both files.
        time_field: field of the .inter file.
        text: fields of the .item file that make the text, separated by commas; without, all of type token and token_seq.
        label_field: field of the .item file with the categories, for models that learn from them; of a token_seq the first.
        split: as in `prepare.py csv`, of one .inter file.
        test_share: of each user's items, with --split random.
        valid_share: of each user's other items, with --split random.
        seed: of the random split.
        min_length: users of one .inter file with fewer interactions are dropped.
        last: so many of a user's newest interactions are kept: max_seq_len + 3, 15 by default; all with --split random.
        skip_bad_lines: leave out up to so many lines of each .inter file that cannot be read.
        overwrite: replace the dataset that is there, with its images and features.
    """
    source = source_of("recbole", {**locals(), "inter": " ".join(map(str, inter))})
    parts = _parts(inter)
    if (split == "random" or len(inter) > 1) and last is not None:
        raise InputError("--last keeps the newest interactions, and a split knows no order; leave one of the two out")
    cut = Cut(min_length, sys.maxsize if split == "random" else 15 if last is None else last)
    by_time = len(inter) == 1 and split == "time"
    fields = (user_field, item_field, time_field if by_time else None)
    with new_folder(out, overwrite) as folder:
        events = {part: _read(path, fields, skip_bad_lines) for part, path in parts.items()}
        occurring = pl.concat(table.select("item") for table in events.values()).unique(maintain_order=True)
        items, labels = _read_items(item, item_field, text, label_field) if item else (_named(occurring), None)
        if len(inter) > 1:
            tables = {part: table.select("user", "item") for part, table in events.items()}
            made = given_split(tables, with_all(items, occurring), with_all(labels, occurring, NO_CATEGORY))
            check_names(made.train["user"], made.items["item"])
            made.write(folder, source)
        else:
            histories = histories_by_time(events["all"]) if by_time else histories_of_pairs(events["all"])
            dataset = Dataset(histories, items, None, cut, labels)
            if by_time:
                dataset.write(folder, source)
            else:
                made = random_split(dataset, test_share, valid_share, seed)
                made.write(folder, source, dataset.dropped)
    if by_time:
        return dataset.report(Path(out).name)
    if len(inter) == 1:
        dataset.report_dropped()
    print_sgfd_table1(Path(out).name, made.counts())


def _parts(paths: list[Path]) -> dict[str, Path]:
    """The files by the part of the split that their names say, or one file of all."""
    if len(paths) == 1:
        return {"all": Path(paths[0])}
    parts = {}
    for path in map(Path, paths):
        part = next((part for part in PARTS if f".{part}." in path.name), None)
        if part is None or part in parts:
            raise InputError(
                f"{path}: of several --inter files each is X.train.inter, X.valid.inter or X.test.inter, one of a kind"
            )
        parts[part] = path
    if missing := {"train", "test"} - parts.keys():
        raise InputError(f"{paths[0]}: a split needs a {missing.pop()} file too: --inter X.train.inter X.valid.inter X.test.inter")
    return {part: parts[part] for part in PARTS if part in parts}


def _types(path: Path) -> dict[str, str]:
    """The type of each field."""
    columns = [name.rpartition(":") for name in read_header(path)]
    for number, (name, _, kind) in enumerate(columns, 1):
        if not name or ":" in name or kind not in TYPES:
            raise InputError(
                f"{path}, line 1: column {number} is called {':'.join([name, kind]).strip(':')!r}; in an atomic file it is "
                f"name:type, the type one of {', '.join(TYPES)}, and tabs part the columns"
            )
    return {name: kind for name, _, kind in columns}


def _column(path: Path, types: dict[str, str], field: str) -> str:
    if field not in types:
        raise InputError(f"{path}, line 1: no field {field!r}; its fields are {', '.join(types)}")
    return f"{field}:{types[field]}"


def _read(path: Path, fields: tuple[str, str, str | None], skip_bad_lines: int) -> pl.DataFrame:
    types = _types(path)
    user, item = (_column(path, types, field) for field in fields[:2])
    time = _column(path, types, fields[2]) if fields[2] else None
    return read_events(path, user, item, time, skip_bad_lines)


def _read_items(path: Path, item_field: str, text: str | None, label_field: str | None) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    types = _types(path)
    name = _column(path, types, item_field)
    fields = text.split(",") if text else [field for field, kind in types.items() if "token" in kind and field != item_field]
    items = read_items(path, name, [_column(path, types, field) for field in fields])
    if not label_field:
        return items, None
    label = _column(path, types, label_field)
    return items, read_labels(path, name, label, " " if types[label_field] == "token_seq" else None)


def _named(occurring: pl.DataFrame) -> pl.DataFrame:
    return occurring.with_columns(field_0=pl.col("item"))
