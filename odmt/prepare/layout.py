"""The project's own layout of a dataset: sequences cut, items without content dropped, files written whole or not at all.

A history is what a user did, in time order and uncut; every source of raw files is turned into a table of histories, a table of
items and, where there are any, pictures.
"""

import shutil
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from odmt.errors import InputError
from odmt.files import written_whole
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


@contextmanager
def new_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a folder to write into that gets its name only when everything in it is complete.

    Args:
        out: the dataset's folder, data/NAME.
        overwrite: replace the dataset that is there, with its images and features.

    Raises:
        InputError: `out` exists and holds something that is not to be replaced.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file; --out names the folder of a dataset, data/NAME")
    old = out.is_dir() and any(out.iterdir())
    is_dataset = any((out / name).exists() for name in ("behaviours.tsv", "train.tsv", "unfinished"))
    if old and not (overwrite and is_dataset):
        remedy = "remove it, choose another name, or pass --overwrite" if is_dataset else "choose another name"
        raise InputError(f"{out}: the folder holds {'a dataset' if is_dataset else 'other files'} already; {remedy}")
    partial, replaced = (out.with_name(out.name + ending) for ending in (".partial", ".replaced"))
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with writing(out):
            partial.mkdir(parents=True)
            yield partial
            if old:
                out.rename(replaced)
            partial.rename(out)
    finally:
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def write_table(path: Path, table: pl.DataFrame):
    """Write a file of tab-separated columns without a header, whole or not at all."""
    with written_whole(path) as partial:
        table.write_csv(partial, separator="\t", include_header=False, quote_style="never")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say which dataset could not be written when the disk, or a raw file, cannot be worked with."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder}: not prepared: {error}; see to it and start the same command again") from error


def tidy(text: str) -> str:
    """Make a text fit for a field of a TSV file: no control characters, one blank for every run of white space.

    What is not seen and parts no words, such as soft hyphens and zero-width characters, is taken out, as BERT does.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "" if unicodedata.category(c) == "Cf" else " " for c in text)
    return " ".join(text.split())


class Dataset:
    """Histories and items after all dropping and cutting.

    Items without text, then those without picture are dropped, then users by the minimum length, then all but the last
    interactions, then items left with no interaction.

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
        occurring = histories.select(pl.col("items").explode().unique().alias("item"))
        table = items["item"]
        items = items.join(occurring, on="item", how="semi", maintain_order="left")
        if items.is_empty() and len(table) and len(occurring):
            raise InputError(
                f"none of the items with interactions, {occurring['item'][0]!r} for one, is among the items with texts, "
                f"{table[0]!r} for one; do both tables call them by the same names?"
            )
        described = items.filter(HAS_TEXT)
        self._count("items without text", len(occurring) - len(described))
        if pictured is not None:
            kept = described.filter(pl.col("item").is_in(list(pictured)))
            self._count("items without image", len(described) - len(kept))
            described = kept
        events = histories.explode("items").join(described.select(items="item"), on="items", how="semi", maintain_order="left")
        rest = events.group_by("user", maintain_order=True).agg("items")
        long = rest.filter(pl.col("items").list.len() >= cut.min_length)
        self._count(f"users with fewer than {cut.min_length} interactions", len(histories) - len(long))
        self.histories = long.with_columns(pl.col("items").list.tail(cut.last))
        old = long["items"].list.len().sum() - self.histories["items"].list.len().sum()
        self._count(f"interactions older than their user's last {cut.last}", old)
        left = self.histories.select(pl.col("items").explode().unique().alias("item"))
        self.items = described.join(left, on="item", how="semi", maintain_order="left")
        self._count("items left with no interaction", len(described) - len(self.items))
        self.labels = None if labels is None else self.items.select("item").join(labels, on="item", maintain_order="left")
        if self.histories.is_empty():
            raise InputError(f"no user is left; dropped: {self._dropped()}")
        _check_names(self.histories["user"], self.items["item"])

    @property
    def item_ids(self) -> list[str]:
        """The kept items."""
        return self.items["item"].to_list()

    def write(self, folder: Path):
        """Write items.tsv, behaviours.tsv and, where there are categories, labels.tsv, each whole or not at all."""
        lines = self.histories.select(pl.col("user"), pl.col("items").list.join(" "))
        for name, table in {"items.tsv": self.items, "labels.tsv": self.labels, "behaviours.tsv": lines}.items():
            if table is not None:
                write_table(folder / name, table)

    def report(self, name: str):
        """Print what was dropped and the dataset's row of Table 1, beside the paper's if it has a dataset of this name."""
        self.report_dropped()
        interactions = self.histories["items"].list.len().sum()
        print_table1(name, len(self.histories), len(self.items), interactions)

    def report_dropped(self):
        """Print what was dropped."""
        print(f"dropped: {self._dropped()}")

    def _count(self, what: str, number: int):
        if number:
            self.dropped[what] = number

    def _dropped(self) -> str:
        return ", ".join(f"{number:,} {what}" for what, number in self.dropped.items()) or "nothing"


def _check_names(users: pl.Series, items: pl.Series):
    bad = items.filter(items.str.contains(r"[\s/\x00-\x1f]") | items.is_in([".", ".."]) | (items.str.len_bytes() > MAX_NAME_BYTES))
    if len(bad):
        raise InputError(
            f"item {bad[0]!r} cannot be used: item names become file names and are separated by blanks, so they hold no white "
            f"space and no /, and no more than {MAX_NAME_BYTES} bytes; rename {len(bad)} items"
        )
    bad = users.filter(users.str.contains(r"[\t\r\n]"))
    if len(bad):
        raise InputError(f"user {bad[0]!r} cannot be used: a tab or line break in the name; rename {len(bad)} users")
