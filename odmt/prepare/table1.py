"""Statistics of a dataset beside those of its paper's Table 1."""

import csv
from importlib.resources import files
from pathlib import Path

from tabulate import tabulate

HEADERS = ("", "users", "items", "interactions", "mean length", "density")
SGFD_HEADERS = ("", "users", "items", "interactions", "train", "valid", "test", "labels", "sparsity")


def print_table1(name: str, users: int, items: int, interactions: int):
    """Print a dataset's row and, if ODMT's paper has a dataset of this name, the paper's."""
    rows: list[tuple] = [(name, users, items, interactions, interactions / users, interactions / (users * items))]
    for row in _rows("table1.csv"):
        if row["dataset"] == name:
            counts = (int(row[key]) for key in ("users", "items", "interactions"))
            rows.append(("paper, Table 1", *counts, float(row["avg_user_length"]), float(row["density"])))
    print(tabulate(rows, HEADERS, intfmt=",", floatfmt=("", "", "", "", ".3f", ".6f")))


def print_sgfd_table1(name: str, counts: dict[str, int], data: Path | None = None):
    """Print a graph dataset's row and, if it is one of SGFD's, what its paper's README says and where that is wrong.

    Args:
        name: of the dataset.
        counts: as of `Split.counts`.
        data: the official folder that it was made from; None: made from other files, with which no paper compares.
    """
    rows = [_row(name, counts)]
    known = _rows("sgfd_table1.csv") if data is not None else []
    where = "" if data is None else f"{data.resolve().name} {name}"
    readme = next((row for row in known if row["source"] == "readme" and _is(row, counts, where)), None)
    notes = []
    if readme:
        printed = {key: int(readme[key]) for key in ("users", "items", "interactions", "labels") if readme[key]}
        rows.append(_row("SGFD's README", printed, float(readme["sparsity"])))
        counted = next((row for row in known if row["dataset"] == readme["dataset"] and row["source"] == "files"), None)
        if counted:
            split = {
                key: int(counted[key]) for key in ("users", "items", "interactions", "train", "test", "labels") if counted[key]
            }
            rows.append(_row("SGFD's files", split))
            notes += [
                f"The README says {printed[key]:,} {key}, but the files that SGFD ships have {split[key]:,}."
                for key in ("users", "items", "interactions")
                if printed[key] != split[key]
            ]
        if abs(rows[-1][-1] - rows[1][-1]) > 5e-5 or not counted:
            notes.append(
                f"The README's sparsity of {100 * rows[1][-1]:.2f} % does not follow from the counts: "
                f"{100 * _sparsity(split if counted else printed):.2f} %."
            )
    print(tabulate(rows, SGFD_HEADERS, intfmt=",", floatfmt=("",) * 8 + (".4%",)))
    print("".join(f"{note}\n" for note in notes), end="")


def _is(row: dict[str, str], counts: dict[str, int], names: str) -> bool:
    """Whether a dataset is one of the paper's, by its counts or by the names of its folders."""
    same = all(counts[key] == int(row[key]) for key in ("users", "interactions"))
    return same or row["dataset"].partition("_")[0] in names.lower()


def _row(name: str, counts: dict[str, int], sparsity: float | None = None) -> tuple:
    sparsity = _sparsity(counts) if sparsity is None else sparsity
    return (name, *(counts.get(key) for key in SGFD_HEADERS[1:-1]), sparsity)


def _sparsity(counts: dict[str, int]) -> float:
    return 1 - counts["interactions"] / (counts["users"] * counts["items"])


def _rows(name: str) -> list[dict[str, str]]:
    with files("odmt.prepare").joinpath(name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
