"""The numbers behind tables and figures as long tables, a line a number, and how they are laid out for readers.

A paper's numbers stand beside the measured ones, in columns of their own and in lines whose `origin` is `paper`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from odmt.errors import InputError
from odmt.report.measurements import Measurement, most_popular, results_by_dataset
from odmt.report.page import GAP, bold
from odmt.report.rows import Report
from odmt.result import MOST_POPULAR
from odmt.significance import compare

FORMATS = {"users": ",.0f", "items": ",.0f", "interactions": ",.0f", "avg_user_length": ".3f", "density": ".6f"}
METRICS = ("dataset", "key", "label", "origin", "metric", "value", "std", "seeds", "selection", "settings")
POPULAR_ROW = {"key": "most_popular", "label": MOST_POPULAR}
DIFFERENCES = ("dataset", "key", "label", "reference", "metric", "mean", "low", "high", "p", "relative", "paper_relative")


def metric_table(report: Report, measurements: Sequence[Measurement]) -> pd.DataFrame:
    """Test metrics: dataset, key, label, origin (paper | measured | baseline), metric, value, std, seeds, selection, settings."""
    lines = [
        {
            **_names(measurement),
            "origin": "measured",
            "metric": metric,
            "value": measurement.mean(metric),
            "std": measurement.std(metric),
            "seeds": len(measurement.results) or None,
            "selection": measurement.selection,
            "settings": json.dumps(measurement.settings),
        }
        for measurement in measurements
        for metric in report.metrics
    ]
    measured = pd.DataFrame(lines, columns=METRICS)
    if measured.empty:
        return measured
    measured = measured.astype({"seeds": "Int64"})  # whole numbers, and nothing where nothing is measured
    parts = [measured]
    if report.quoted is not None:
        labels = measured[["dataset", "key", "label"]].drop_duplicates()
        parts.append(report.quoted().assign(origin="paper").merge(labels))
    if baselines := _baselines(report, measurements):
        parts.append(pd.DataFrame(baselines))
    return pd.concat(parts).reindex(columns=METRICS)


def _baselines(report: Report, measurements: Sequence[Measurement]) -> list[dict]:
    """Lines of the most popular items, by which all models of a dataset are judged."""
    return [
        {"dataset": dataset, **POPULAR_ROW, "origin": "baseline", "metric": metric, "value": value}
        for dataset, results in results_by_dataset(measurements).items()
        for metric, value in next(filter(None, (most_popular(result, "test") for result in results)), {}).items()
        if metric in report.metrics
    ]


def count_table(report: Report, datasets: Sequence[str], root: Path) -> pd.DataFrame:
    """Counts of the datasets, in the columns of `metric_table`."""
    assert report.count is not None
    assert report.quoted is not None
    paper = report.quoted().assign(origin="paper")
    table = pd.concat([report.count(datasets, root), paper[paper["key"].isin(datasets)]])
    return table.assign(dataset=table["key"], label=table["key"], std=np.nan)


def difference_table(report: Report, measurements: Sequence[Measurement]) -> pd.DataFrame:
    """One row minus another, over the same users (`significance.compare`), with the paper's relative differences.

    Raises:
        InputError: two rows were tested on other interactions.
    """
    by_place = {(m.cell.dataset, m.cell.row.key): m for m in measurements if m}
    paper = {} if report.quoted is None else report.quoted().set_index(["dataset", "key", "metric"])["value"].to_dict()
    lines = []
    for dataset in dict.fromkeys(m.cell.dataset for m in measurements):
        for keys in report.comparisons:
            first, second = (by_place.get((dataset, key)) for key in keys)
            if first is None or second is None:
                continue
            metrics = report.metrics[:2]
            _check_comparable(first, second)
            ours, theirs = first.user_metrics(metrics), second.user_metrics(metrics)
            for metric in metrics:
                quoted = [paper.get((dataset, key, metric), np.nan) for key in keys]
                difference = vars(compare(ours[metric], theirs[metric]))
                relatives = {
                    "relative": _ratio(difference["mean"], theirs[metric].mean()),
                    "paper_relative": _ratio(quoted[0] - quoted[1], quoted[1]),
                }
                names = {**_names(second), "reference": first.cell.row.label, "metric": metric}
                lines.append({**names, **difference, **relatives})
    return pd.DataFrame(lines, columns=DIFFERENCES)


def _ratio(difference: float, of: float) -> float:
    return difference / of if of else np.nan


def _check_comparable(first: Measurement, second: Measurement):
    (one, begins), (other, others_begin) = first.held_out(), second.held_out()
    # Families number columns from 0 or from 1.
    if len(one) != len(other) or len(np.unique(one - other)) > 1 or not np.array_equal(begins, others_begin):
        folders = " and ".join(str(measurement.trials[0].folder) for measurement in (first, second))
        raise InputError(f"{folders}: tested on other interactions; --overwrite the one that is older than the dataset")


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
    """Test recall@10 by popularity group of the target, and that of the most popular items for everybody."""
    by_names = [(_names(measurement), measurement.groups()) for measurement in measurements]
    noted = {m.cell.dataset: groups for m in measurements if (groups := m.groups(MOST_POPULAR))}
    by_names += [({"dataset": dataset, **POPULAR_ROW}, groups) for dataset, groups in noted.items()]
    return pd.DataFrame(
        [
            {**names, "group": group, "metric": "recall@10", "value": line["recall@10"], **line}
            for names, groups in by_names
            for group, line in groups.items()
        ],
        columns=["dataset", "key", "label", "group", "users", "meaning", "metric", "value"],
    )


def side_by_side(table: pd.DataFrame, quoted_as: str = "paper") -> pd.DataFrame:
    """A metric table of one dataset, or a count table, as text: a row a label, a column for every metric and origin.

    "measured" stands over a column only where the paper's stands beside it. The best measured value of a model is bold.
    """
    numbers = table.replace({"origin": {"baseline": "measured"}}).set_index(["label", "metric", "origin"])
    labels = list(table["label"].unique())
    columns: dict[str, Sequence[str]] = {"": labels}
    for metric in table["metric"].unique():
        origins = table["origin"][table["metric"] == metric].unique()
        if "paper" in origins:
            columns[f"{metric} {quoted_as}"] = [_number(numbers, (label, metric, "paper")) for label in labels]
        if "measured" in origins:
            best = _best(table, metric)
            heading = f"{metric} measured" if "paper" in origins else metric
            texts = {label: _number(numbers, (label, metric, "measured")) for label in labels}
            columns[heading] = [bold(text) if label in best else text for label, text in texts.items()]
    return pd.DataFrame(columns)


def settings_as_text(table: pd.DataFrame) -> pd.DataFrame:
    """What a search chose for every model of one dataset's metric table."""
    chosen = table.dropna(subset="settings").drop_duplicates("label")
    settings = [json.loads(of_row) for of_row in chosen["settings"]]
    keys = list(dict.fromkeys(key for of_row in settings for key in of_row))
    columns = {key: [_setting(of_row[key]) if key in of_row else GAP for of_row in settings] for key in keys}
    return pd.DataFrame({"": list(chosen["label"]), **columns})


def differences_as_text(table: pd.DataFrame, quoted_as: str = "paper") -> pd.DataFrame:
    """One dataset's difference table as text."""
    columns = {
        "": table["reference"] + " minus " + table["label"],
        "metric": table["metric"],
        "difference": table["mean"].map("{:+.4f}".format),
        "relative": table["relative"].map(_percent),
        "95 % interval": [f"[{low:+.4f}, {high:+.4f}]" for low, high in zip(table["low"], table["high"])],
        "p": table["p"].map("{:.2g}".format),
    }
    if table["paper_relative"].notna().any():
        columns[f"relative, {quoted_as}"] = table["paper_relative"].map(_percent)
    return pd.DataFrame(columns)


def groups_as_text(table: pd.DataFrame) -> pd.DataFrame:
    """One dataset's group table as text: a row a model, a column a group, with what it means; the metric in the corner."""
    # Runs of earlier versions noted no meaning.
    meanings = {group: f": {meaning}" for group, meaning in zip(table["group"], table["meaning"]) if meaning}
    heads = [f"group {group} ({users} users){meanings.get(group, '')}" for group, users in zip(table["group"], table["users"])]
    text = table.assign(text=table["value"].map("{:.4f}".format), head=heads)
    rows = text.pivot_table("text", "label", "head", "first", fill_value=GAP, sort=False)
    return rows.reset_index(names=table["metric"].iloc[0])


def _names(measurement: Measurement) -> dict:
    cell = measurement.cell
    return {"dataset": cell.dataset, "key": cell.row.key, "label": cell.row.label}


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _percent(share: float) -> str:
    return GAP if np.isnan(share) else f"{100 * share:+.1f} %"


def _best(table: pd.DataFrame, metric: str) -> set[str]:
    """The labels of the models whose measured metric is the best; none where there is nothing to choose from."""
    found = table[(table["metric"] == metric) & (table["origin"] == "measured")].dropna(subset="value")
    best = found["label"][found["value"] == found["value"].max()]
    return set(best) if len(found) > 1 and metric not in FORMATS else set()


def _number(numbers: pd.DataFrame, place: tuple[str, str, str]) -> str:
    if place not in numbers.index:
        return GAP
    value, std = np.asarray(numbers.loc[place, ["value", "std"]], float)
    if np.isnan(value):
        return GAP
    return format(value, FORMATS.get(place[1], ".4f")) + ("" if np.isnan(std) else f" ± {std:.4f}")
