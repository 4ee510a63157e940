"""The command behind `scripts/compare.py`, and its page."""

import logging
import sys
from pathlib import Path
from typing import Literal

import pandas as pd
from tabulate import tabulate

from odmt.compare import Comparison, load_comparison
from odmt.outputs import check_page
from odmt.pages.rendering import table_cells, write_page
from odmt.recommend_page import Shelf, ranked_lists


def compare(
    runs: list[Path],
    top: int = 10,
    page: Path | None = None,
    show_users: int = 8,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    data_root: Path | None = None,
):
    """Compare finished runs on the same held-out items, sequential and graph models alike; the others with the first.

    Args:
        runs: folders of two or more runs.
        top: how long the lists are that hit a held-out item or not.
        page: HTML file to write, with users whom one run serves and the other does not.
        show_users: how many of them, for either side of a pair.
        device: where to compute.
        data_root: folder of the datasets, if the runs were trained with another.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if page is not None:
        check_page(Path(page))
    comparison = load_comparison(runs, top, device, data_root)
    tables = comparison.tables()
    for heading, table in tables.items():
        cells = _cells(table)
        print(f"{heading}\n\n{tabulate(cells['rows'], cells['columns'], disable_numparse=True)}\n")
    if page is not None:
        write_comparison(comparison, tables, Path(page), show_users)
        print(f"page: {page}")


def write_comparison(comparison: Comparison, tables: dict[str, pd.DataFrame], path: Path, show_users: int):
    """Write the page: the tables, and users whom one run serves and another does not, with their histories."""
    first = comparison.contenders[0].run
    shelf = Shelf(first.task.config.data.folder, set(first.item_ids))
    groups = []
    for said, users in comparison.served_differently(show_users).items():
        shown = [ranked_lists(of.run, shelf, users, comparison.k, ["fused"]) for of in comparison.contenders]
        people = []
        for of_runs in zip(*shown):
            lists = {of.name: person["lists"]["fused"] for of, person in zip(comparison.contenders, of_runs)}
            ranks = {of.name: person["ranks"]["fused"] for of, person in zip(comparison.contenders, of_runs)}
            people.append({**of_runs[0], "lists": lists, "ranks": ranks})
        groups.append({"said": said, "people": people})
    names = ", ".join(of.name for of in comparison.contenders)
    write_page(
        path,
        "comparison.html",
        title=f"{first.task.config.data.dataset}: {names}",
        about="; ".join(f"{of.name}: {of.run.task}, {of.run.folder}" for of in comparison.contenders),
        tables={heading: table_cells(**_cells(table)) for heading, table in tables.items()},
        groups=groups,
        items=shelf.items,
        pictures=shelf.pictures(),
    )


def _cells(table: pd.DataFrame) -> dict:
    rows = [[f"{value:.4f}" if isinstance(value, float) else str(value) for value in row] for row in table.itertuples(index=False)]
    return {"columns": list(table.columns), "rows": rows}
