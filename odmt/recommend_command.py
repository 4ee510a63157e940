"""The command behind `scripts/recommend.py`."""

import logging
import sys
from pathlib import Path
from textwrap import shorten
from typing import Literal

import pandas as pd
from tabulate import tabulate

from odmt import exports
from odmt.errors import InputError
from odmt.exports import check_suffix, read_users, write_table
from odmt.features.item_table import read_fields
from odmt.outputs import check_page
from odmt.recommend import Recommendations, load_run
from odmt.recommend_page import write_recommendations

SHOWN = 20  # rows of a table that are printed
TEXT_WIDTH = 50  # of an item's text beside its name


def recommend(
    run: Path,
    users: str = "",
    similar_to: list[str] = [],  # noqa: B006, the command line makes its own
    top: int = 10,
    source: str = "fused",
    out: Path | None = None,
    export_vectors: Path | None = None,
    candidates: list[str] = [],  # noqa: B006
    new_items: bool = False,
    keep_seen: bool = False,
    after_held_out: bool = False,
    page: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    data_root: Path | None = None,
):
    """Show or write what a trained run recommends.

    Args:
        run: the run's folder, RUNS/DATASET/NAME, or a published one.
        users: all, names with commas between them, or a file: a user in every line, or in every line name<TAB>item item ... for
            people not in the data.
        similar_to: items whose neighbours are wanted.
        top: how many of each.
        source: whose scores: fused, their mean, or one of the run's sources.
        out: the file to write, .parquet, .csv or .jsonl; without one the first rows are printed.
        export_vectors: folder to write the vectors of items and users to, by source, as safetensors with their names.
        candidates: items that alone are recommended.
        new_items: recommend also items that came after training, by the sources that need no ID.
        keep_seen: recommend also what a user has had.
        after_held_out: let users have had their held-out items too: what comes next, rather than what the test asks.
        page: HTML file to write, to look at: users (20 that are drawn, or those of --users) with what they had and get, items (6,
            or those of --similar-to) with their neighbours, and with --new-items what came after training.
        device: where to compute.
        data_root: folder of the datasets, if the run was trained with another.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if not (users or similar_to or export_vectors or page):
        raise InputError("say what is wanted: --users all, --similar-to ITEM, --export-vectors FOLDER or --page FILE.html")
    if out is not None:
        check_suffix(Path(out))
        if bool(users) == bool(similar_to):
            raise InputError("--out is one table: give --users or --similar-to with it, not both")
    if page is not None:
        check_page(Path(page))
    asked = read_users(users) if users else None
    loaded = load_run(run, device, data_root)
    if page is not None:
        write_recommendations(loaded, Path(page), asked, similar_to, top, new_items)
        print(f"page: {page}")
    if users and not (page and out is None):
        table = loaded.recommend(asked, top, source, not keep_seen, candidates or None, new_items, after_held_out)
        _show(loaded, table, out)
        _remark(loaded, table, candidates, new_items)
    if similar_to and not (page and out is None):
        _show(loaded, loaded.similar_items(similar_to, top, source, new_items), out)
    if export_vectors:
        exports.export_vectors(loaded, export_vectors)
        print(f"vectors of {len(loaded.item_ids)} items and {len(loaded.user_ids)} users: {export_vectors}/")


def _show(loaded: Recommendations, table: pd.DataFrame, out: Path | None):
    if out is not None:
        write_table(table, Path(out))
        print(f"{len(table)} rows: {out}")
        return
    fields = read_fields(loaded.task.config.data.folder / "items.tsv")
    named = "neighbour" if "neighbour" in table else "item"
    shown = table.head(SHOWN).assign(text=[shorten(fields[item][0], TEXT_WIDTH, placeholder=" …") for item in table[named][:SHOWN]])
    words = [place for place, column in enumerate(shown) if column not in ("rank", "score")]  # a name 007 is no number
    print(tabulate(shown.to_numpy().tolist(), headers=list(shown.columns), floatfmt=".4f", disable_numparse=words))
    if len(table) > SHOWN:
        print(f"... {len(table) - SHOWN} more rows; --out FILE.parquet, .csv or .jsonl writes all")


def _remark(loaded: Recommendations, table: pd.DataFrame, candidates: list[str], new_items: bool):
    """Say of new items whether and by what they are recommended."""
    if "scored_by" in table:
        new = table[table["item"].isin(set(loaded.new_items))]
        if new.empty:
            print("no item that came after training is among those recommended; a greater --top may reach some")
            return
        items, rows = _count(new["item"].nunique(), "item"), _count(len(new), "row")
        by = ", ".join(sorted(set(new["scored_by"])))
        print(f"in {rows}: {items} that came after training, scored by {by}, since nobody trained an ID for what is new")
    elif not candidates and loaded.new_items:
        items = _count(len(loaded.new_items), "item")
        print(f"left out: {items} that came after training; --new-items recommends what is new too, without IDs")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
