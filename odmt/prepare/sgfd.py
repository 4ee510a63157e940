"""The official folder of SGFD: two tables of pairs and, each optional, labels, features and a table of texts.

Items and users are numbered from 0; row n of each array is that of item n. Arrays are memory-mapped and never unpickled.
"""

import csv
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from odmt.errors import InputError
from odmt.prepare.item_rows import read_rows
from odmt.prepare.layout import source_of, tidy
from odmt.prepare.new_folder import new_folder
from odmt.prepare.raw_lines import decoded_lines
from odmt.prepare.raw_tables import read_csv, read_header
from odmt.prepare.ready_features import import_vectors
from odmt.prepare.splits import Split, hold_out
from odmt.prepare.table1 import print_sgfd_table1

FEATURES = {"image": "FeatureImage_normal.npy", "text": "FeatureText_normal.npy"}
LABELS = "MetaData_normal.npy"
NUMBERS = {"item": "itemID", "user": "userID"}
WHOLE = " (a whole number from 0)"


def sgfd(
    data: Path,
    out: Path,
    items: Path | None = None,
    validation: Literal["share", "none"] = "share",
    valid_share: float = 0.1,
    seed: int = 1,
    dtype: Literal["float16", "float32"] = "float16",
    skip_bad_lines: int = 0,
    overwrite: bool = False,
):
    """Prepare a graph dataset from a folder of the official SGFD: its split, its labels and its features.

    The official files have no validation items: a tenth of each user's train items is held out, one at least, and one at least
    remains. Items are called by their itemID.

    Args:
        data: folder with train.csv and test.csv (itemID, userID, ...) and, each optional, MetaData_normal.npy,
            FeatureImage_normal.npy, FeatureText_normal.npy and items.csv.
        out: the dataset's folder, data/NAME.
        items: table of texts and categories with a row an item: itemID, text, category; without, items.csv of the folder. Labels
            of MetaData_normal.npy come before its categories. Without texts an item's text is its ASIN.
        validation: `none` holds nothing out: then epochs and settings can only be chosen on the test items, as the authors did.
        valid_share: the share of each user's train items that is held out.
        seed: of what is held out.
        dtype: of the stored features; float32 keeps values that float16 cannot hold.
        skip_bad_lines: leave out up to so many lines of each of the two tables that cannot be read.
        overwrite: replace the dataset that is there, with its features.
    """
    source = source_of("sgfd", locals())
    data = Path(data)
    with new_folder(out, overwrite) as folder:
        train, test = (_read_pairs(data / f"{name}.csv", skip_bad_lines) for name in ("train", "test"))
        num_items = _check_pairs(data, train, test)
        texts, categories = _read_items(data, items, num_items, pl.concat([train, test]))
        labels = _read_labels(data / LABELS, num_items) or categories
        names = [str(number) for number in range(num_items)]
        remains, held_out = hold_out(train, 0 if validation == "none" else valid_share, seed)
        split = Split(
            train=remains,
            valid=held_out,
            test=test,
            items=pl.DataFrame({"item": names, "text": texts}),
            labels=pl.DataFrame({"item": names, "label": labels}) if labels else None,
        )
        split.write(folder, source)
        for modality, name in FEATURES.items():
            if (data / name).exists():
                import_vectors(data / name, folder / "features" / modality, dict(enumerate(names)), dtype)
    print_sgfd_table1(Path(out).name, split.counts(), data)


def _read_pairs(path: Path, skip_bad_lines: int) -> pl.DataFrame:
    """Read user, item and, where there is one, asin; a line an interaction."""

    def whole(column: str) -> pl.Expr:
        number = pl.col(column).str.strip_chars().cast(pl.Int64, strict=False)
        return pl.when(number >= 0).then(number).alias(column + WHOLE)  # the name that the message about a bad line has

    columns = [whole(column) for column in NUMBERS.values()]
    if "asin" in read_header(path):
        name = pl.concat_str(pl.lit("item "), pl.col("itemID").str.strip_chars())
        columns.append(pl.when(pl.col("asin").str.strip_chars() != "").then("asin").otherwise(name).alias("asin"))
    pairs = pl.concat(read_csv(path, columns, skip_bad_lines=skip_bad_lines))
    return pairs.rename({column + WHOLE: name for name, column in NUMBERS.items()})


def _check_pairs(data: Path, train: pl.DataFrame, test: pl.DataFrame) -> int:
    """Refuse pairs that stand twice, numbers with gaps and users without a train item; returns the number of items."""
    both = pl.concat(
        [frame.select("user", "item", test=pl.lit(name == "test")) for name, frame in (("train", train), ("test", test))]
    )
    twice = both.filter(both.select("user", "item").is_duplicated())
    if len(twice):
        user, item, _ = twice.row(0)
        found = [(name, line) for name in ("train.csv", "test.csv") for line in _lines_of(data / name, user, item)]
        (first, first_line), (second, line) = found[:2]
        raise InputError(
            f"{data / second}, line {line}: user {user} and item {item} stand in line {first_line} of {first} already; a pair is "
            f"learnt or tested, once: remove one of the two (pairs that stand twice: {twice.select('user', 'item').n_unique()})"
        )
    for name, column in NUMBERS.items():
        numbers = both[name].unique().sort()
        highest = int(numbers[-1])
        if len(numbers) <= highest:
            gaps = numbers.to_numpy() != np.arange(len(numbers))
            missing = int(gaps.argmax())
            raise InputError(
                f"{data}: {column} {missing} stands in neither train.csv nor test.csv, though {highest} is the highest "
                f"({highest + 1 - len(numbers):,} are missing); number from 0 without gaps, rows of the .npy files too"
            )
    cold = test.join(train, on="user", how="anti")
    if len(cold):
        raise InputError(
            f"{data / 'test.csv'}: user {cold['user'][0]} has no row in train.csv ({cold['user'].n_unique():,} such users); move "
            "one of each there, or leave them out and number the others anew"
        )
    return int(both["item"].to_numpy().max()) + 1


def _lines_of(path: Path, user: int, item: int) -> list[int]:
    """The lines in which a pair stands."""
    header = read_header(path)
    wanted = {header.index("userID"): user, header.index("itemID"): item}
    reader = csv.reader(decoded_lines(path))
    next(reader)
    return [reader.line_num for row in reader if all(_is(row, place, number) for place, number in wanted.items())]


def _is(row: list[str], place: int, number: int) -> bool:
    return place < len(row) and row[place].strip().isdecimal() and int(row[place]) == number


def _read_labels(path: Path, num_items: int) -> list[str] | None:
    """The category of each item; the file may have rows of more."""
    if not path.exists():
        return None
    try:
        labels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        unsafe = "allow_pickle" in str(error) or "Python objects" in str(error)
        reason = "an object array, which would have to be unpickled" if unsafe else str(error)
        raise InputError(f"{path}: cannot be read: {reason}; save the labels as an array of whole numbers") from error
    if labels.ndim != 1:
        raise InputError(f"{path}: an array of shape {list(labels.shape)}; expected one label an item")
    if labels.dtype.kind not in "iuf" or not np.isfinite(labels).all() or (labels != np.floor(labels)).any():
        raise InputError(
            f"{path}: labels are whole numbers, and some of these ({labels.dtype}) are not; number the categories from 0"
        )
    if len(labels) < num_items:
        raise InputError(f"{path}: {len(labels):,} labels, but {num_items:,} items; there must be one an item")
    found = np.unique(labels)
    if found[0] != 0 or found[-1] != len(found) - 1:
        missing = np.flatnonzero(found != np.arange(len(found)))[0]
        raise InputError(
            f"{path}: {len(found)} labels from {found[0]:.0f} to {found[-1]:.0f}, without {missing}; they go from 0 without gaps"
        )
    return [str(int(label)) for label in labels[:num_items]]


def _read_items(data: Path, path: Path | None, num_items: int, pairs: pl.DataFrame) -> tuple[list[str], list[str] | None]:
    """The texts and, where there are any, the categories of all items."""
    if path is None and not (data / "items.csv").exists():
        if "asin" not in pairs.columns:
            return [f"item {number}" for number in range(num_items)], None
        return pairs.unique("item", keep="first").sort("item")["asin"].to_list(), None
    path = Path(path or data / "items.csv")
    table = read_rows(path)
    if "itemID" not in table.names:
        raise InputError(f"{path}, line 1: no column 'itemID'; its columns are {', '.join(table.names)}")
    rows: dict[int, int] = {}
    for row, (line, value) in enumerate(zip(table.lines, table.column("itemID"))):
        if not value.strip().isdecimal():
            raise InputError(f"{path}, {table.unit} {line}: itemID {value!r} is no whole number from 0")
        if rows.setdefault(int(value), row) != row:
            first = table.lines[rows[int(value)]]
            raise InputError(f"{path}, {table.unit} {line}: itemID {value} stands in {table.unit} {first} already; remove one")
    if missing := sorted(set(range(num_items)) - rows.keys()):
        raise InputError(f"{path}: no row of {len(missing):,} of {num_items:,} items, itemID {missing[0]} the first; add them")
    fields = ["text"] if "text" in table.names else [name for name in table.names if name not in ("itemID", "asin", "category")]
    columns = [table.column(name) for name in fields or ["itemID"]]
    joined = [tidy(" ".join(values)) for values in zip(*columns)]
    texts = [joined[rows[number]] for number in range(num_items)]
    if "" in texts:
        raise InputError(
            f"{path}: itemID {texts.index('')} has no text ({texts.count('')} such items); give it one, such as its ASIN"
        )
    if "category" not in table.names:
        return texts, None
    values = table.column("category")
    categories = [tidy(values[rows[number]]) for number in range(num_items)]
    if "" in categories:
        raise InputError(f"{path}: itemID {categories.index('')} has no category ({categories.count('')} such items); give it one")
    return texts, categories
