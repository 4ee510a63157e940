"""Statistics of a dataset beside those of the paper's Table 1."""

import csv
from importlib.resources import files

from tabulate import tabulate

HEADERS = ("", "users", "items", "interactions", "mean length", "density")


def print_table1(name: str, users: int, items: int, interactions: int):
    """Print a dataset's row and, if the paper has a dataset of this name, the paper's."""
    rows = [(name, users, items, interactions, interactions / users, interactions / (users * items))]
    for row in csv.DictReader(files("odmt.prepare").joinpath("table1.csv").open(encoding="utf-8")):
        if row["dataset"] == name:
            counts = (int(row[key]) for key in ("users", "items", "interactions"))
            rows.append(("paper, Table 1", *counts, float(row["avg_user_length"]), float(row["density"])))
    print(tabulate(rows, HEADERS, intfmt=",", floatfmt=("", "", "", "", ".3f", ".6f")))
