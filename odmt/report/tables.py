"""The numbers behind tables and figures as long tables, a line a number, and how they are laid out for readers.

The paper's numbers stand beside the measured ones, in columns of their own and in lines whose `origin` is `paper`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from odmt.errors import InputError
from odmt.features.tables import left_out_items
from odmt.report.expansion import config_of
from odmt.report.measurements import Measurement
from odmt.report.page import GAP
from odmt.report.paper import quoted
from odmt.report.significance import compare
from odmt.sequential.interactions import Interactions

COUNTS = ("users", "items", "interactions", "avg_user_length", "density")
METRICS = {"table2": ("recall@10", "ndcg@10", "recall@20", "ndcg@20")}
DEFAULT_METRICS = ("recall@10", "ndcg@10")
REFERENCES = {"table2": "odmt", "table3": "odmt", "table4": "none"}  # what the other rows are compared with
FORMATS = {"users": ",.0f", "items": ",.0f", "interactions": ",.0f", "avg_user_length": ".3f", "density": ".6f"}


def metric_table(target: str, measurements: Sequence[Measurement]) -> pd.DataFrame:
    """Test metrics: dataset, key, label, origin (paper | measured), metric, value, std, seeds, dim, lr."""
    measured = pd.DataFrame(
        {
            **_names(measurement),
            "origin": "measured",
            "metric": metric,
            "value": measurement.mean(metric),
            "std": measurement.std(metric),
            "seeds": len(measurement.results),
            **_settings(measurement),
        }
        for measurement in measurements
        for metric in METRICS.get(target, DEFAULT_METRICS)
    )
    if not target.startswith("table"):
        return measured
    labels = measured[["dataset", "key", "label"]].drop_duplicates()
    paper = quoted(target).assign(origin="paper").merge(labels)
    return pd.concat([measured, paper]).reindex(columns=measured.columns)


def count_table(datasets: Sequence[str], root: Path, max_seq_len: int, min_seq_len: int) -> pd.DataFrame:
    """Table 1: counts of the datasets as the models see them, in the columns of `metric_table`."""
    lines = []
    for dataset in datasets:
        counts = dict.fromkeys(COUNTS, np.nan)
        if (root / dataset).is_dir():
            found = Interactions.load(root / dataset, max_seq_len, min_seq_len, left_out_items(root / dataset))
            users, items, length = found.num_users, found.num_items, len(found.items)
            counts = dict(zip(COUNTS, (users, items, length, length / users, length / (users * items))))
        lines += [{"key": dataset, "origin": "measured", "metric": metric, "value": n} for metric, n in counts.items()]
    paper = quoted("table1").assign(origin="paper")
    table = pd.concat([pd.DataFrame(lines), paper[paper["key"].isin(datasets)]])
    return table.assign(dataset=table["key"], label=table["key"], std=np.nan)


def difference_table(target: str, measurements: Sequence[Measurement]) -> pd.DataFrame:
    """The reference row of a table minus each other row, over the same users (`significance.compare`)."""
    references = {m.cell.dataset: m for m in measurements if m and m.cell.row.key == REFERENCES.get(target)}
    lines = []
    for other in measurements:
        reference = references.get(other.cell.dataset)
        if not other or reference is None or other is reference:
            continue
        ours, theirs = reference.user_metrics(), other.user_metrics()
        if not np.array_equal(ours["target"], theirs["target"]):
            one, two = (measurement.trials[0].folder for measurement in (reference, other))
            raise InputError(f"{one} and {two}: tested on other interactions; --overwrite the one that is older than the dataset")
        for metric in DEFAULT_METRICS:
            difference = vars(compare(ours[metric], theirs[metric]))
            lines.append({**_names(other), "reference": reference.cell.row.label, "metric": metric, **difference})
    return pd.DataFrame(lines)


def curve_table(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """Training loss and test recall@10 after every epoch (Figure 2)."""
    columns = {"loss": "train/loss", "recall@10": "test/fused/recall@10"}
    return pd.DataFrame(
        [
            {**_names(measurement), "epoch": epoch, "metric": metric, "value": value}
            for measurement in measurements
            for metric, column in columns.items()
            for epoch, value in enumerate(measurement.curve(column), 1)
        ],
        columns=["dataset", "key", "label", "epoch", "metric", "value"],
    )


def group_table(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """Test recall@10 by popularity group of the target (Figure 4)."""
    return pd.DataFrame(
        [
            {**_names(measurement), "group": group, "users": line["users"], "metric": "recall@10", "value": line["recall@10"]}
            for measurement in measurements
            for group, line in measurement.groups().items()
        ],
        columns=["dataset", "key", "label", "group", "users", "metric", "value"],
    )


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """A metric table of one dataset, or a count table, as text: a row a label, a column for every metric and origin."""
    columns = [(metric, origin) for metric in table["metric"].unique() for origin in ("paper", "measured")]
    columns = [(metric, origin) for metric, origin in columns if (table["origin"] == origin).any()]
    numbers = table.set_index(["label", "metric", "origin"])
    rows = [
        {"": label, **{f"{metric} {origin}": _number(numbers, (label, metric, origin)) for metric, origin in columns}}
        for label in table["label"].unique()
    ]
    return pd.DataFrame(rows)


def settings_as_text(table: pd.DataFrame) -> pd.DataFrame:
    """What a search chose for every model of one dataset's metric table."""
    chosen = table.dropna(subset="dim").drop_duplicates("label")
    dims, lrs = chosen["dim"].map("{:.0f}".format), chosen["lr"].map("{:g}".format)
    return pd.DataFrame({"": chosen["label"], "model.dim": dims, "train.lr": lrs})


def differences_as_text(table: pd.DataFrame) -> pd.DataFrame:
    """One dataset's difference table as text."""
    return pd.DataFrame(
        {
            "": table["reference"] + " minus " + table["label"],
            "metric": table["metric"],
            "difference": table["mean"].map("{:+.4f}".format),
            "95 % interval": [f"[{low:+.4f}, {high:+.4f}]" for low, high in zip(table["low"], table["high"])],
            "p": table["p"].map("{:.2g}".format),
        }
    )


def groups_as_text(table: pd.DataFrame) -> pd.DataFrame:
    """One dataset's group table as text: a row a model, a column a group."""
    text = table.assign(
        text=table["value"].map("{:.4f}".format), head=[f"group {g} ({u} users)" for g, u in zip(table.group, table.users)]
    )
    return text.pivot_table("text", "label", "head", "first", fill_value=GAP, sort=False).reset_index(names="")


def _names(measurement: Measurement) -> dict:
    cell = measurement.cell
    return {"dataset": cell.dataset, "key": cell.row.key, "label": cell.row.label}


def _settings(measurement: Measurement) -> dict:
    if not measurement:
        return {"dim": None, "lr": None}
    config = config_of(measurement.trials[0])
    return {"dim": config.model.dim, "lr": config.train.lr}


def _number(numbers: pd.DataFrame, place: tuple[str, str, str]) -> str:
    if place not in numbers.index or np.isnan(numbers.loc[place, "value"]):
        return GAP
    value, std = numbers.loc[place, ["value", "std"]].astype(float)
    return format(value, FORMATS.get(place[1], ".4f")) + ("" if np.isnan(std) else f" ± {std:.4f}")
