"""What a run ends with, `result.json`: the test of its best epoch, beside the most popular items for everybody."""

import numpy as np
import torch
from tabulate import tabulate

from odmt.config import RunConfig, Split
from odmt.metrics import describe_groups, popularity_groups, summarize, summarize_groups
from odmt.progress import Progress
from odmt.ranking import Ranks, constant_blocks, rank_held_out
from odmt.task import Scorer, Task

MOST_POPULAR = "most popular"  # the baseline's name among the sources


def work_out_result(task: Task, scorer: Scorer, ranks: Ranks, progress: Progress) -> dict:
    """The content of `result.json`.

    Args:
        task: with the best epoch's weights.
        scorer: of these.
        ranks: of the test.
        progress: of the run, which has ended.
    """
    config, best = task.config, progress.history[progress.best_epoch - 1]
    held_out, counts = task.held_out("test"), task.train_counts()
    groups, settings = popularity_groups(counts), config.evaluation
    compared: list[Split] = [config.selecting_split, "test"]
    popular = {split: most_popular(task, split) for split in dict.fromkeys(compared)}
    both = {**ranks, **popular["test"]}
    result = {
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "seconds": sum(line["train_seconds"] + line["valid_seconds"] for line in progress.history),
        "selection": config.selection,
        "valid": {name.removeprefix("valid/"): value for name, value in best.items() if name.startswith("valid/")},
        "test": summary(config, ranks),
        "test_users": int((np.diff(held_out.offsets) > 0).sum()),
        "most_popular": {split: summary(config, of_split) for split, of_split in popular.items()},
        "test_groups": summarize_groups(both, groups[held_out.items], settings.cutoffs, settings.metrics, ranks.offsets),
        "groups": describe_groups(groups, counts),
    }
    if published := task.published(scorer, "test"):
        result["published"] = published
    return result


def summary(config: RunConfig, ranks: Ranks) -> dict[str, float]:
    """The configured metrics by source."""
    return summarize(ranks, config.evaluation.cutoffs, config.evaluation.metrics, ranks.offsets)


def most_popular(task: Task, split: Split) -> Ranks:
    """Rank the held-out items as if everybody were recommended what occurs most often in training."""
    scores = task.train_counts().astype(np.float32)
    scores[: task.first_item] = -np.inf
    held_out = task.held_out(split)
    blocks = constant_blocks(MOST_POPULAR, torch.from_numpy(scores), len(held_out.offsets) - 1, task.world)
    return rank_held_out(blocks, held_out, lambda users: task.seen(users, split), task.world)


def result_table(result: dict) -> str:
    """The test metrics of a result by source (rows) as a Markdown table, those of the most popular items last."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in {**result["test"], **result.get("most_popular", {}).get("test", {})}.items():
        source, metric = name.split("/")
        rows.setdefault(source, {})[metric] = value
    lines = [{"": source, **metrics} for source, metrics in rows.items()]
    return tabulate(lines, headers="keys", tablefmt="pipe", floatfmt=".4f")
