"""The project's own layout of a dataset: sequences cut, items without content dropped, files written whole or not at all.

A history is what a user did, in time order and uncut; every source of raw files is turned into a table of histories, a table of
items and, where there are any, pictures.
"""

import os
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from odmt.errors import InputError
from odmt.features.dataset import OLDER, RECORD, write_record
from odmt.files import written_whole
from odmt.prepare.names import unmatched
from odmt.prepare.table1 import print_table1

MAX_NAME_BYTES = 240  # of a file name's 255; the suffix and a temporary name's ending need the rest

HAS_TEXT = pl.any_horizontal(pl.exclude("item") != "")  # of a table of items


@dataclass(frozen=True)
class Cut:
    """What is kept of a user.

    Attributes:
        min_length: users with fewer interactions are dropped.
        last: of a longer history only so many of the newest interactions are kept: max_seq_len + 3.
    """

    min_length: int = 5
    last: int = 15

    def __post_init__(self):
        if not 3 <= self.min_length <= self.last:
            raise InputError(f"--min-length {self.min_length} --last {self.last}: must be 3 or more, and last not the smaller one")


def write_table(path: Path, table: pl.DataFrame):
    """Write a file of tab-separated columns without a header, whole or not at all."""
    with written_whole(path) as partial:
        table.write_csv(partial, separator="\t", include_header=False, quote_style="never")


def tidy(text: str) -> str:
    """Make a text fit for a field of a TSV file: no control characters, one blank for every run of white space.

    What is not seen and parts no words, such as soft hyphens and zero-width characters, is taken out, as BERT does.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "" if unicodedata.category(c) == "Cf" else " " for c in text)
    return " ".join(text.split())


class Dataset:
    """Histories and items after all dropping and cutting.

    Items that stand in no item table, those without text, then those without picture are dropped, then users by the minimum
    length, then all but the last interactions, then items left with no interaction.

    Args:
        histories: user, items.
        items: item and text fields, in the order that numbers the items.
        pictured: items that have a picture; None: a dataset without pictures.
        cut: what is kept of a user.
        labels: item, label, of all items; None: a dataset without categories.

    Raises:
        InputError: names that the layout cannot hold; nothing left.
    """

    def __init__(
        self,
        histories: pl.DataFrame,
        items: pl.DataFrame,
        pictured: Collection[str] | None,
        cut: Cut,
        labels: pl.DataFrame | None = None,
    ):
        self.dropped: dict[str, int] = {}
        self._examples: dict[str, str] = {}
        occurring = histories["items"].explode().unique().drop_nulls()
        table = items["item"]
        items = items.filter(table.is_in(occurring.implode()))
        if unknown := set(occurring) - set(table):
            example = unmatched(unknown, set(table) - set(occurring), "it")
            self._count("items that are not in the item table", len(unknown), example)
            if items.is_empty():
                raise InputError(f"none of the {len(unknown):,} items with interactions is in the item table: {example}")
        described = items.filter(HAS_TEXT)
        self._count("items without text", len(items) - len(described))
        if pictured is not None:
            kept = described.filter(pl.col("item").is_in(list(pictured)))
            if lacking := set(described["item"]) - set(kept["item"]):
                example = unmatched(lacking, set(pictured) - set(table), "the images' folder")
                self._count("items without image", len(lacking), example)
                if kept.is_empty():
                    raise InputError(f"none of the {len(lacking):,} items with interactions and text has an image: {example}")
            described = kept
        events = histories.explode("items").join(described.select(items="item"), on="items", how="semi", maintain_order="left")
        rest = events.group_by("user", maintain_order=True).agg("items")
        long = rest.filter(pl.col("items").list.len() >= cut.min_length)
        self._count(f"users with fewer than {cut.min_length} interactions", len(histories) - len(long))
        self.histories = long.with_columns(pl.col("items").list.tail(cut.last))
        old = int(long["items"].list.len().sum()) - int(self.histories["items"].list.len().sum())
        self._count(f"{OLDER} {cut.last}", old)
        left = self.histories["items"].explode().unique()
        self.items = described.filter(pl.col("item").is_in(left.implode()))
        self._count("items left with no interaction", len(described) - len(self.items))
        self.labels = None if labels is None else self.items.select("item").join(labels, on="item", maintain_order="left")
        if self.histories.is_empty():
            raise InputError(f"no user is left; dropped: {self._dropped()}")
        check_names(self.histories["user"], self.items["item"])

    @property
    def item_ids(self) -> list[str]:
        """The kept items."""
        return self.items["item"].to_list()

    def write(self, folder: Path, source: Mapping[str, Any]):
        """Write items.tsv, behaviours.tsv and, where there are categories, labels.tsv, each whole or not at all, and a record.

        Args:
            folder: the dataset's.
            source: from what it was made, for the record.
        """
        (folder / RECORD).unlink(missing_ok=True)  # a kill leaves no record of other tables
        lines = self.histories.select(pl.col("user"), pl.col("items").list.join(" "))
        for name, table in {"items.tsv": self.items, "labels.tsv": self.labels, "behaviours.tsv": lines}.items():
            if table is not None:
                write_table(folder / name, table)
        counts = {"users": len(self.histories), "items": len(self.items), "interactions": self.num_interactions}
        write_record(folder, {**counts, "dropped": self.dropped, "source": source})

    @property
    def num_interactions(self) -> int:
        """What is kept of all histories."""
        return int(self.histories["items"].list.len().sum())

    def report(self, name: str):
        """Print what was dropped and the dataset's row of Table 1, beside the paper's if it has a dataset of this name."""
        self.report_dropped()
        print_table1(name, len(self.histories), len(self.items), self.num_interactions)

    def report_dropped(self):
        """Print what was dropped."""
        print(f"dropped: {self._dropped()}")

    def _count(self, what: str, number: int, example: str = ""):
        if number:
            self.dropped[what] = int(number)
            self._examples[what] = f" ({example})" if example else ""

    def _dropped(self) -> str:
        return ", ".join(f"{number:,} {what}{self._examples[what]}" for what, number in self.dropped.items()) or "nothing"


def source_of(command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what a dataset is made from: the command's arguments, and sizes and times of the files among them."""
    files = {name: path for name, path in arguments.items() if isinstance(path, Path) and os.path.isfile(path)}
    return {
        "command": command,
        "arguments": {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()},
        "files": {name: {"bytes": path.stat().st_size, "modified": path.stat().st_mtime} for name, path in files.items()},
    }


def is_file_name(item: str) -> bool:
    """Whether an item's name can be that of a file, with a suffix and a temporary name's ending behind it."""
    return _fit_for_files(pl.Series([item]))[0]


def _fit_for_files(items: pl.Series) -> pl.Series:
    bad = items.str.contains(r"[\s/\x00-\x1f\x7f]") | items.is_in(["", ".", ".."]) | (items.str.len_bytes() > MAX_NAME_BYTES)
    return ~bad


def check_names(users: pl.Series, items: pl.Series):
    """Refuse names that the layout cannot hold."""
    bad = items.filter(~_fit_for_files(items))
    if len(bad):
        raise InputError(
            f"item {bad[0]!r} cannot be used: item names become file names and are separated by blanks, so they hold no white "
            f"space and no /, and no more than {MAX_NAME_BYTES} bytes; rename {len(bad)} items"
        )
    bad = users.filter(users.str.contains(r"[\t\r\n\x00]"))
    if len(bad):
        raise InputError(f"user {bad[0]!r} cannot be used: a tab, line break or NUL in the name; rename {len(bad)} users")
