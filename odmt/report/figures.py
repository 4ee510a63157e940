"""Figures, drawn from the long tables of `odmt.report.tables`: painters of panels, of which a paper's rows make their own."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TypedDict

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito: eight colours that the colour-blind tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "oo", "++")
MARKERS = "osD^vP*X"
LINES = ("-", "--", "-.", ":", "-", "--", "-.", ":")
PANEL = (6.4, 3.6)  # inches
RECALL = "test Recall@10 (share of users)"
LOSS = "training loss (nats)"
GROUPS = "popularity group of the target"


Painter = Callable[[Axes, pd.DataFrame], None]  # a panel and one dataset's lines of a long table


@matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
def draw(painters: Sequence[Painter], table: pd.DataFrame, datasets: Sequence[str]) -> Figure:
    """Draw a figure with its panels for every dataset, at most two side by side."""
    columns = min(len(painters), 2)
    rows = len(datasets) * len(painters) // columns
    figure = Figure((PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    panels = iter(figure.subplots(rows, columns, squeeze=False).flat)
    for dataset in datasets:
        for paint in painters:
            axes = next(panels)
            paint(axes, table[table["dataset"] == dataset])
            axes.set_title(f"{dataset} {axes.get_title()}")
    return figure


def save(figure: Figure, path: Path):
    """Write a figure as PNG and SVG; the suffix is added to the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=150)
    save_svg(figure, path.with_suffix(".svg"))


def save_svg(figure: Figure, to: Path | IO[str]):
    """Write a figure as SVG with text that can be selected and searched."""
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(to, format="svg")


def _bars(axes: Axes, groups: Sequence[str], series: Mapping[str, Sequence[tuple[float, float]]]):
    """Grouped bars; each series gives (value, std) for every group, not a number for a gap."""
    width = 0.8 / max(len(series), 1)
    for index, (label, numbers) in enumerate(series.items()):
        values, stds = np.array(numbers, float).T
        places = np.arange(len(groups)) + (index - (len(series) - 1) / 2) * width
        colour, hatch = _of(COLOURS, index), _of(HATCHES, index)
        if not np.isnan(values).all():
            errors = _spread(stds)
            axes.bar(
                places, values, width * 0.92, yerr=errors, label=label, color=colour, hatch=hatch, edgecolor="white", linewidth=0
            )
        for place in places[values == 0]:
            axes.text(place, 0, "0", ha="center", va="bottom", fontsize=6, color=colour)
        for place in places[np.isnan(values)]:
            axes.text(place, 0, " gap", rotation=90, ha="center", va="bottom", fontsize=6, color="grey")
    axes.set_xticks(range(len(groups)), groups)
    axes.set(xlim=(-0.5, max(len(groups), 1) - 0.5), ylabel=RECALL)
    axes.set_ylim(bottom=0)
    _legend(axes)


def _of(styles: Sequence[str], index: int) -> str:
    return styles[index % len(styles)]


class LineStyle(TypedDict):
    """How a line looks."""

    color: str
    linestyle: str
    marker: str


def _line_style(index: int) -> LineStyle:
    return {"color": _of(COLOURS, index), "linestyle": _of(LINES, index), "marker": _of(MARKERS, index)}


def _spread(stds: np.ndarray) -> np.ndarray | None:
    """Lengths of error bars; none where there is one seed everywhere."""
    return None if np.isnan(stds).all() else np.nan_to_num(stds)


def _legend(axes: Axes):
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    else:
        axes.text(0.5, 0.5, "nothing measured", transform=axes.transAxes, ha="center")


def _lookup(table: pd.DataFrame) -> Callable[[str], tuple[float, float]]:
    """The (value, std) of recall@10 by key."""
    found = table[table["metric"] == "recall@10"].set_index("key")[["value", "std"]].astype(float)
    return lambda key: tuple(found.loc[key]) if key in found.index else (np.nan, np.nan)


def bars(
    groups: Mapping[str, str], series: Mapping[str, str], key: str, axis: str, level: tuple[str, str] | None = None
) -> Painter:
    """A painter of grouped bars.

    Args:
        groups: names by key.
        series: names by key.
        key: of a row, of the keys of both: `{group}:{series}`.
        axis: what the groups are.
        level: key and name of a row that is drawn as a line across.
    """

    def paint(axes: Axes, table: pd.DataFrame):
        number = _lookup(table)
        numbers = {name: [number(key.format(group=group, series=one)) for group in groups] for one, name in series.items()}
        _bars(axes, list(groups.values()), numbers)
        if level and not np.isnan(value := number(level[0])[0]):
            axes.axhline(value, color="black", linestyle="--", linewidth=1, label=level[1])
            _legend(axes)
        axes.set_xlabel(axis)

    return paint


def lines(xs: Sequence[float], series: Mapping[str, str], axis: str) -> Painter:
    """A painter of lines over the values that are in the rows' keys, `{series}:{x}`.

    Args:
        xs: the values.
        series: names by key.
        axis: what the values are.
    """

    def paint(axes: Axes, table: pd.DataFrame):
        number = _lookup(table)
        for index, (key, label) in enumerate(series.items()):
            values, stds = np.array([number(f"{key}:{x}") for x in xs]).T
            if not np.isnan(values).all():
                axes.errorbar(xs, values, _spread(stds), label=label, capsize=2, **_line_style(index))
        axes.set_xticks(xs)
        axes.set(xlabel=axis, ylabel=RECALL)
        _legend(axes)

    return paint


def curves(metric: str, keys: Sequence[str], title: str, axis: str) -> Painter:
    """A painter of curves over epochs, one a row."""

    def paint(axes: Axes, table: pd.DataFrame):
        wanted = table[table["metric"] == metric].set_index("key")
        for index, key in enumerate(keys):
            if key in wanted.index:
                line = wanted.loc[[key]]
                axes.plot(line["epoch"], line["value"], label=line["label"].iloc[0], markersize=4, **_line_style(index))
        axes.set(xlabel="epoch", ylabel=axis, title=title)
        locator = axes.xaxis.get_major_locator()
        assert isinstance(locator, MaxNLocator)  # a linear axis's
        locator.set_params(integer=True, min_n_ticks=1)
        _legend(axes)

    return paint


def popularity(axes: Axes, table: pd.DataFrame):
    """Paint recall by popularity group; the axis explains the groups that are drawn and no others."""
    groups = table.drop_duplicates("group").sort_values("group").set_index("group")
    numbers = table.set_index(["label", "group"])["value"].to_dict()
    series = {label: [(numbers.get((label, group), np.nan), np.nan) for group in groups.index] for label in table["label"].unique()}
    names = [f"{group}\n{count:,} users" for group, count in groups["users"].items()]
    _bars(axes, names, series)
    explained = "; ".join(f"{group}: {meaning}" for group, meaning in groups["meaning"].items() if meaning)
    axes.set_xlabel(textwrap.fill(f"popularity group of the target ({explained})" if explained else GROUPS, 90))
