"""Datasets without an order: interactions split into train, validation and test at random, and their files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from odmt.errors import InputError
from odmt.features.dataset import write_record
from odmt.prepare.layout import Dataset, write_table


def hold_out(pairs: pl.DataFrame, share: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Draw a share of each user's pairs.

    Of n pairs share * n are drawn, rounded to the nearest whole number, but at least one, and one at least remains: a user with
    one pair gives none.

    Args:
        pairs: user, item.
        share: from 0, which draws none, to 1, exclusive.
        seed: decides, with the order of the pairs, which are drawn.

    Returns:
        what remains and what was drawn, each in the order that it had.
    """
    if not 0 <= share < 1:
        raise InputError(f"a share of {share} cannot be held out; take 0.1 for a tenth, or 0 for none")
    drawn = pairs.with_columns(key=np.random.default_rng(seed).random(len(pairs))).select(
        place=pl.col("key").rank("ordinal").over("user").cast(pl.Int64), count=pl.len().over("user").cast(pl.Int64)
    )
    wanted = (drawn["count"] * share + 0.5).floor().cast(pl.Int64).clip(1) if share else drawn["count"] * 0
    held = drawn["place"] <= wanted.clip(upper_bound=drawn["count"] - 1)
    return pairs.filter(~held), pairs.filter(held)


@dataclass(frozen=True)
class Split:
    """The tables of a graph dataset.

    Attributes:
        train: user, item; every user has one.
        valid: the same, perhaps none.
        test: the same.
        items: item and text fields, in the order that numbers the items.
        labels: item, label; None: a dataset without categories.
    """

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame
    items: pl.DataFrame
    labels: pl.DataFrame | None = None

    def write(self, folder: Path, source: Mapping[str, Any], dropped: Mapping[str, int] | None = None):
        """Write items.tsv, labels.tsv and a file of `user<TAB>item item ...` a split, each whole or not at all, and a record.

        Args:
            folder: the dataset's.
            source: from what it was made, for the record.
            dropped: how many of what were dropped.
        """
        tables = {"items": self.items, "labels": self.labels, "train": _lists(self.train), "test": _lists(self.test)}
        if len(self.valid):
            tables["valid"] = _lists(self.valid)
        for name, table in tables.items():
            if table is not None:
                write_table(folder / f"{name}.tsv", table)
        write_record(folder, {**self.counts(), "dropped": dropped or {}, "source": source})

    def counts(self) -> dict[str, int]:
        """Numbers of users, items, interactions by split, and categories."""
        splits = {"train": len(self.train), "valid": len(self.valid), "test": len(self.test)}
        labels = {} if self.labels is None else {"labels": self.labels["label"].n_unique()}
        total = {"users": self.train["user"].n_unique(), "items": len(self.items), "interactions": sum(splits.values())}
        return total | splits | labels


def random_split(dataset: Dataset, test_share: float, valid_share: float, seed: int) -> Split:
    """Split what users had, each pair of user and item once, without regard to time.

    Args:
        dataset: uncut histories.
        test_share: of each user's pairs, held out as `hold_out` does.
        valid_share: of each user's other pairs.
        seed: of both draws.
    """
    pairs = dataset.histories.select("user", item="items").explode("item").unique(maintain_order=True)
    rest, test = hold_out(pairs, test_share, seed)
    train, valid = hold_out(rest, valid_share, seed)
    return Split(train, valid, test, dataset.items, dataset.labels)


def given_split(pairs: dict[str, pl.DataFrame], items: pl.DataFrame, labels: pl.DataFrame | None = None) -> Split:
    """Take a split as it is, but for what a graph cannot hold: a pair twice, and held-out items of users without a train item.

    Args:
        pairs: user, item of `train`, `test` and, optional, `valid`.
        items: item and text fields.
        labels: item, label.
    """
    train = pairs["train"].unique(maintain_order=True)
    seen, held_out = train, {}
    for name in ("valid", "test"):
        found = pairs.get(name, train.clear())
        new = found.unique(maintain_order=True).join(seen, on=["user", "item"], how="anti", maintain_order="left")
        held_out[name] = new.join(train, on="user", how="semi", maintain_order="left")
        if repeated := len(found) - len(new):
            print(f"{repeated:,} of {len(found):,} {name} pairs stand there or in an earlier part of the split already: left out")
        if cold := len(new) - len(held_out[name]):
            print(f"{cold:,} of {len(found):,} {name} pairs are of users without a train item: left out")
        seen = pl.concat([seen, held_out[name]])
    if repeated := len(pairs["train"]) - len(train):
        print(f"{repeated:,} of {len(pairs['train']):,} train pairs stand there already: left out")
    items = items.join(seen, on="item", how="semi", maintain_order="left")
    kept = None if labels is None else items.select("item").join(labels, on="item", maintain_order="left")
    return Split(train, held_out["valid"], held_out["test"], items, kept)


def _lists(pairs: pl.DataFrame) -> pl.DataFrame:
    lists = pairs.group_by("user", maintain_order=True).agg(pl.col("item").cast(pl.String))
    return lists.select(pl.col("user").cast(pl.String), pl.col("item").list.join(" "))
