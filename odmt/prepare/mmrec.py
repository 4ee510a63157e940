"""MMRec's folders: interactions with numbers for users and items, features by item number, and files that name the numbers."""

import sys
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from odmt.errors import InputError
from odmt.features.dataset import read_record, write_record
from odmt.features.row_names import ID_NAMES, read_numbering
from odmt.prepare.histories import histories_by_time
from odmt.prepare.item_rows import read_rows
from odmt.prepare.item_tables import NO_CATEGORY, read_items, read_labels, with_all
from odmt.prepare.layout import Cut, Dataset, check_names, source_of, write_table
from odmt.prepare.new_folder import new_folder
from odmt.prepare.raw_tables import NAMELESS, read_csv, read_header
from odmt.prepare.ready_features import import_vectors
from odmt.prepare.splits import Split, given_split
from odmt.prepare.table1 import print_sgfd_table1
from odmt.prepare.times import INSTANT

PARTS = {"0": "train", "1": "valid", "2": "test"}  # by x_label
FEATURES = {"image": "image_feat.npy", "text": "text_feat.npy"}
NUMBERS = {"item": "itemID", "user": "userID"}
MAPPINGS = {"itemID": "i_id_mapping.csv", "userID": "u_id_mapping.csv"}
WHOLE = " (a whole number from 0)"


def mmrec(
    data: Path,
    out: Path,
    items: Path | None = None,
    text: str | None = None,
    label_column: str | None = None,
    list_separator: str | None = None,
    min_length: int = 5,
    dtype: Literal["float16", "float32"] = "float16",
    skip_bad_lines: int = 0,
    overwrite: bool = False,
):
    """Prepare a dataset from a folder of MMRec, for both families of models: the sequences by time and the split that it gives.

    Users and items are called as u_id_mapping.csv and i_id_mapping.csv say, where these are there, else by their numbers.

    Args:
        data: folder with X.inter (userID, itemID, and timestamp or x_label or both) and, each optional, image_feat.npy,
            text_feat.npy, u_id_mapping.csv, i_id_mapping.csv and items.csv. Row n of the features is that of itemID n.
        out: the dataset's folder, data/NAME.
        items: table of the items' texts, with a column itemID or that of the names in i_id_mapping.csv; without, items.csv of the
            folder. An item without text has its name for one.
        text: columns of that table that make the text, separated by commas; without, its column text or, lacking that, all others.
        label_column: column of that table with the categories, for models that learn from them; of a list the first value. Without,
            its column category, if it has one.
        list_separator: character within its columns that is read as a blank, e.g. | in Drama|Comedy; in --label-column it ends
            the first value of a list.
        min_length: of the sequences: users with fewer interactions are dropped.
        dtype: of the stored features; float32 keeps values that float16 cannot hold.
        skip_bad_lines: leave out up to so many lines of X.inter that cannot be read.
        overwrite: replace the dataset that is there, with its features.
    """
    source = source_of("mmrec", locals())
    data = Path(data)
    inter = _find_inter(data)
    header = read_header(inter)
    if "timestamp" not in header and "x_label" not in header:
        raise InputError(f"{inter}, line 1: neither timestamp nor x_label among its columns, {', '.join(header)}; one is needed")
    with new_folder(out, overwrite) as folder:
        events = _read(inter, header, skip_bad_lines)
        names, users = (_names(data, column, events[key].unique().sort()) for key, column in NUMBERS.items())
        occurring = pl.DataFrame({"item": [names[number] for number in events["item"].unique().sort()]})
        events = events.with_columns(item=events["item"].replace_strict(names), user=events["user"].replace_strict(users))
        columns = Columns(text, label_column, list_separator)
        table, labels = _read_texts(data, items, names, columns) or (occurring.with_columns(field_0="item"), None)
        table, labels = with_all(table, occurring), with_all(labels, occurring, NO_CATEGORY)
        table = table.join(occurring, on="item", how="semi", maintain_order="left")
        labels = None if labels is None else table.select("item").join(labels, on="item", maintain_order="left")
        check_names(events["user"].unique(), table["item"])
        made: list[Dataset | Split] = []
        if "timestamp" in header:
            made.append(Dataset(histories_by_time(events), table, None, Cut(min_length, sys.maxsize), labels))
        if "x_label" in header:
            parts = {part: events.filter(label=key).select("user", "item") for key, part in PARTS.items()}
            made.append(given_split(parts, table, labels))
        for tables in made:
            tables.write(folder, source)
        # Of both: what either leaves out, its reader leaves out.
        for file, complete in {"items.tsv": table, "labels.tsv": labels}.items():
            if complete is not None:
                write_table(folder / file, complete)
        write_record(folder, {**(read_record(folder) or {}), "items": len(table)})
        for modality, name in FEATURES.items():
            if (data / name).exists():
                import_vectors(data / name, folder / "features" / modality, names, dtype)
    name = Path(out).name
    for tables in made:
        if isinstance(tables, Dataset):
            tables.report(name)
        else:
            print_sgfd_table1(name, tables.counts())


class Columns(NamedTuple):
    """Which columns of a table of items are read.

    Attributes:
        text: those of the texts, separated by commas.
        label: that of the categories.
        list_separator: character that is read as a blank.
    """

    text: str | None
    label: str | None
    list_separator: str | None


def _find_inter(data: Path) -> Path:
    if not data.is_dir():
        raise InputError(f"{data}: no such folder; --data names a folder of MMRec with X.inter in it")
    found = sorted(path for path in data.iterdir() if path.name.endswith(".inter"))
    own = [path for path in found if path.stem == data.resolve().name]
    if len(own or found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{data}: expected one file X.inter, or one called {data.resolve().name}.inter, and found {names}")
    return (own or found)[0]


def _read(path: Path, header: list[str], skip_bad_lines: int) -> pl.DataFrame:
    """Read user, item and, where there are such columns, time and label."""

    def whole(column: str) -> pl.Expr:
        number = pl.col(column).str.strip_chars().cast(pl.Int64, strict=False)
        return pl.when(number >= 0).then(number).alias(column + WHOLE)  # the name that the message about a bad line has

    columns = [whole(column) for column in NUMBERS.values()]
    renamed = {column + WHOLE: name for name, column in NUMBERS.items()}
    if "timestamp" in header:
        columns.append(pl.col("timestamp").str.strip_chars().cast(INSTANT, strict=False))
        renamed["timestamp"] = "time"
    if "x_label" in header:
        label = pl.col("x_label").str.strip_chars()
        columns.append(pl.when(label.is_in(list(PARTS))).then(label).alias("x_label (0, 1 or 2)"))
        renamed["x_label (0, 1 or 2)"] = "label"
    return pl.concat(read_csv(path, columns, skip_bad_lines=skip_bad_lines)).rename(renamed)


def _names(data: Path, column: str, numbers: pl.Series) -> dict[int, str]:
    """The names of all numbers that occur."""
    path = data / MAPPINGS[column]
    if not path.exists():
        return {number: str(number) for number in numbers}
    names = read_numbering(path)
    if missing := [number for number in numbers if number not in names]:
        raise InputError(
            f"{path}: {len(missing):,} of {len(numbers):,} numbers have no name, {column} {missing[0]} the first; add them"
        )
    names = {number: names[number] for number in numbers}
    if len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise InputError(f"{path}: {twice!r} has two numbers; remove one of the two, or the file, to call all by their {column}")
    return names


def _read_texts(
    data: Path, path: Path | None, names: dict[int, str], columns: Columns
) -> tuple[pl.DataFrame, pl.DataFrame | None] | None:
    """The texts and, where there are any, the categories, by the items' names."""
    if path is None and not (data / "items.csv").exists():
        return None
    path = Path(path or data / "items.csv")
    found = read_rows(path).names
    item = next((name for name in ("itemID", *ID_NAMES) if name in found), None)
    if item is None:
        raise InputError(f"{path}, line 1: no column itemID, asin or item_id; its columns are {', '.join(found)}")
    label = columns.label or ("category" if "category" in found else None)
    text = columns.text.split(",") if columns.text else ["text"] if "text" in found else None
    if text is None:
        text = [name for name in found if name not in (*ID_NAMES, label) and not NAMELESS.fullmatch(name)] or None
    table = read_items(path, item, text, columns.list_separator)
    labels = read_labels(path, item, label, columns.list_separator) if label else None
    if item == "itemID":
        by_number = pl.col("item").replace_strict({str(number): name for number, name in names.items()}, default=None)
        table = table.with_columns(by_number).drop_nulls("item")
        labels = None if labels is None else labels.with_columns(by_number).drop_nulls("item")
    return table, labels
