"""The course of a run as a picture: its losses, and the metric that selects, of every source."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from matplotlib.figure import Figure

from odmt.files import written_whole

NONE: Mapping[str, float] = MappingProxyType({})
COLOURS = {"fused": "black", "id": "tab:blue", "text": "tab:orange", "image": "tab:green", "distillation": "tab:red"}


def draw_training_curve(path: Path, history: Sequence[dict], selection: str, baselines: Mapping[str, float] = NONE):
    """Draw `training_curve` into a file."""
    with written_whole(path) as partial:
        training_curve(history, selection, baselines).savefig(partial, dpi=120, format="png")


def training_curve(history: Sequence[dict], selection: str, baselines: Mapping[str, float] = NONE) -> Figure:
    """Draw the course of a run.

    Args:
        history: its epochs' metrics, as metrics.jsonl has them; one epoch or more.
        selection: the metric that is drawn, for every source, as SPLIT/SOURCE/METRIC.
        baselines: its values for models without training by their names, drawn as lines.
    """
    split, _, metric = selection.split("/")
    epochs = [line["epoch"] for line in history]
    marker = "o" if len(epochs) == 1 else ""  # a line needs two points to be seen
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, recall = figure.subplots(1, 2)
    parts = [name.removeprefix("train/") for name in history[0] if name.startswith("train/") and name != "train/loss"]
    for name in parts:
        colour = COLOURS.get(name.removeprefix("ce_"))
        losses.plot(epochs, [line[f"train/{name}"] for line in history], label=name, color=colour, marker=marker)
    losses.set(title="training losses", xlabel="epoch")
    prefix, suffix = f"{split}/", f"/{metric}"
    for name in (name for name in history[0] if name.startswith(prefix) and name.endswith(suffix)):
        source = name.removeprefix(prefix).removesuffix(suffix)
        width = 2.5 if source == "fused" else 1.2
        values = [line[name] for line in history]
        recall.plot(epochs, values, label=source, color=COLOURS.get(source), linewidth=width, marker=marker)
    for name, value in baselines.items():
        recall.axhline(value, color="grey", linestyle="--", label=name)
    recall.set(title=f"{'validation' if split == 'valid' else split} {metric}", xlabel="epoch", ylim=(0, None))
    for axes in (losses, recall):
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=5, frameon=False)
    return figure
