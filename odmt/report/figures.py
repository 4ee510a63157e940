"""The paper's figures, drawn from the long tables of `odmt.report.tables`."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from odmt.report.rows import BACKBONES, FST_MODULES, METHODS, SWEEP

STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
# Okabe and Ito: eight colours that the colour-blind tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "oo", "++")
MARKERS = "osD^vP*X"
LINES = ("-", "--", "-.", ":", "-", "--", "-.", ":")
PANEL = (6.4, 3.6)  # inches
RECALL = "test Recall@10 (share of users)"
LOSS = "training loss (nats)"


@matplotlib.rc_context(STYLE)
def draw(target: str, table: pd.DataFrame, datasets: Sequence[str], footer: Sequence[str]) -> Figure:
    """Draw a figure with its panels for every dataset, at most two side by side; in small print below, where it comes from."""
    painters = PAINTERS[target]
    columns = min(len(painters), 2)
    rows = len(datasets) * len(painters) // columns
    small_print = [part for line in footer for part in textwrap.wrap(line, 120 * columns)]
    figure = Figure((PANEL[0] * columns, PANEL[1] * rows + 0.1 * len(small_print) + 0.3), layout="constrained")
    panels = iter(figure.subplots(rows, columns, squeeze=False).flat)
    for dataset in datasets:
        for paint in painters:
            axes = next(panels)
            paint(axes, table[table["dataset"] == dataset])
            axes.set_title(f"{dataset} {axes.get_title()}")
    figure.supxlabel("\n".join(small_print), fontsize=6, x=0.01, ha="left")
    return figure


def save(figure: Figure, path: Path):
    """Write a figure as PNG and SVG; the suffix is added to the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=150)
    figure.savefig(path.with_suffix(".svg"))


def _bars(axes: Axes, groups: Sequence[str], series: dict[str, Sequence[tuple[float, float]]]):
    """Grouped bars; each series gives (value, std) for every group, not a number for a gap."""
    width = 0.8 / max(len(series), 1)
    for index, (label, numbers) in enumerate(series.items()):
        values, stds = np.array(numbers, float).T
        places = np.arange(len(groups)) + (index - (len(series) - 1) / 2) * width
        style = {"color": COLOURS[index], "hatch": HATCHES[index], "edgecolor": "white", "linewidth": 0}
        if not np.isnan(values).all():
            axes.bar(places, values, width * 0.92, yerr=_spread(stds), label=label, **style)
        for place in places[values == 0]:
            axes.text(place, 0, "0", ha="center", va="bottom", fontsize=6, color=COLOURS[index])
        for place in places[np.isnan(values)]:
            axes.text(place, 0, " gap", rotation=90, ha="center", va="bottom", fontsize=6, color="grey")
    axes.set_xticks(range(len(groups)), groups)
    axes.set(xlim=(-0.5, max(len(groups), 1) - 0.5), ylabel=RECALL)
    axes.set_ylim(bottom=0)
    _legend(axes)


def _spread(stds: np.ndarray) -> np.ndarray | None:
    """Lengths of error bars; none where there is one seed everywhere."""
    return None if np.isnan(stds).all() else np.nan_to_num(stds)


def _legend(axes: Axes):
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    else:
        axes.text(0.5, 0.5, "not run yet", transform=axes.transAxes, ha="center")


def _lookup(table: pd.DataFrame) -> Callable[[str], tuple[float, float]]:
    """The (value, std) of recall@10 by key."""
    found = table[table["metric"] == "recall@10"].set_index("key")[["value", "std"]].astype(float)
    return lambda key: tuple(found.loc[key]) if key in found.index else (np.nan, np.nan)


def _fst_modules(axes: Axes, table: pd.DataFrame):
    number = _lookup(table)
    inputs = {"text": "text", "image": "image", "ef": "all,\nearly fusion", "lf": "all,\nlate fusion"}
    series = {label: [number(f"{key}:{fst}") for key in inputs] for fst, (label, _) in FST_MODULES.items()}
    _bars(axes, list(inputs.values()), series)
    value, _ = number("id")
    if not np.isnan(value):
        axes.axhline(value, color="black", linestyle="--", linewidth=1, label="ID alone")
        _legend(axes)
    axes.set_xlabel("input")


def _curves(metric: str, keys: Sequence[str], title: str, axis: str):
    """A painter of curves over epochs, one a key."""

    def paint(axes: Axes, table: pd.DataFrame):
        wanted = table[table["metric"] == metric].set_index("key")
        for index, key in enumerate(keys):
            if key in wanted.index:
                line = wanted.loc[[key]]
                style = {"color": COLOURS[index], "linestyle": LINES[index], "marker": MARKERS[index], "markersize": 4}
                axes.plot(line["epoch"], line["value"], label=line["label"].iloc[0], **style)
        axes.set(xlabel="epoch", ylabel=axis, title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(axes)

    return paint


def _popularity(axes: Axes, table: pd.DataFrame):
    users = table.drop_duplicates("group").sort_values("group").set_index("group")["users"]
    numbers = table.set_index(["label", "group"])["value"].to_dict()
    series = {label: [(numbers.get((label, group), np.nan), np.nan) for group in users.index] for label in table["label"].unique()}
    names = [f"{group}\n{count:,} users" for group, count in users.items()]
    _bars(axes, names, series)
    axes.set_xlabel("popularity group of the target (0: never seen in training, 5: most popular)")


def _backbones(axes: Axes, table: pd.DataFrame):
    number = _lookup(table)
    series = {label: [number(f"{backbone}:{method}") for backbone in BACKBONES] for method, label in METHODS.items()}
    _bars(axes, list(BACKBONES.values()), series)
    axes.set_xlabel("sequence backbone")


def _depth(axes: Axes, table: pd.DataFrame):
    number = _lookup(table)
    for index, (method, label) in enumerate({"sasrec_lf": "SASRec+LF", "odmt": "ODMT"}.items()):
        values, stds = np.array([number(f"{method}:{layers}") for layers in SWEEP]).T
        style = {"color": COLOURS[index], "linestyle": LINES[index], "marker": MARKERS[index], "capsize": 2}
        if not np.isnan(values).all():
            axes.errorbar(SWEEP, values, _spread(stds), label=label, **style)
    axes.set_xticks(SWEEP)
    axes.set(xlabel="Transformer layers of the item encoder", ylabel=RECALL)
    _legend(axes)


TEXT = [f"text:{fst}" for fst in FST_MODULES]
SOURCES = ["id", "text:dnn", "image:dnn"]
PAINTERS = {
    "figure1": [_fst_modules],
    "figure2": [
        _curves("loss", TEXT, "(a) text, by FST module", LOSS),
        _curves("recall@10", TEXT, "(b) text, by FST module", RECALL),
        _curves("loss", SOURCES, "(c) one source, DNNs", LOSS),
        _curves("recall@10", SOURCES, "(d) one source, DNNs", RECALL),
    ],
    "figure4": [_popularity],
    "figure5": [_backbones],
    "figure7": [_depth],
}
