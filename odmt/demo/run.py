"""The demo, from nothing to a table: data is made, features are extracted, ODMT is trained and compared with the most popular."""

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from odmt.config_files import load_config
from odmt.demo.dataset import make_demo
from odmt.distributed import World
from odmt.evaluate import rank_targets
from odmt.features.extraction import extract_features
from odmt.features.tables import left_out_items
from odmt.metrics import popularity_groups, recall, summarize
from odmt.sequential.batches import Sequences
from odmt.sequential.interactions import Interactions, Split
from odmt.train import result_table, train
from odmt.training_curve import draw_training_curve

BASELINE = "most popular"
NEW_ITEMS = "recall@10 of new items"


def demo(config: str = "configs/demo.yaml"):
    """Train ODMT on generated data and show its test metrics beside those of recommending the most popular items.

    Data and features that are there already are used again; the run always starts over.

    Args:
        config: what to train on data/demo, or wherever its data.root and data.dataset say.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    started = time.perf_counter()
    settings = load_config([config])
    data = settings.data
    prepare(data.folder)
    print("3. training, from the start", flush=True)
    result = train(settings, overwrite=True)
    interactions = Interactions.load(data.folder, data.max_seq_len, data.min_seq_len, left_out_items(data.folder))
    curve = draw_training_curve(settings.folder, {BASELINE: recall(most_popular_ranks(interactions, "valid"), 10)})
    baseline = most_popular_ranks(interactions, "test")
    print(f"\nTest metrics of epoch {result['best_epoch']} of {result['epochs']}, the best by validation recall@10:\n")
    print(comparison(result, baseline, interactions))
    print(f"\nNew items never occur in training; they are {np.mean(is_new(interactions)):.0%} of the test targets.")
    print(f"Training curve: {curve}    Everything else of the run: {settings.folder}/")
    print(f"Data, features, training and evaluation took {time.perf_counter() - started:.0f} seconds.")


def prepare(folder: Path):
    """Make the dataset and its features, as far as they are not there."""
    if (folder / "behaviours.tsv").exists():
        print(f"1. data: using {folder} again; remove the folder to have it made anew", flush=True)
    else:
        print(f"1. data: drawing and writing {folder}", flush=True)
        make_demo(folder)
    print("2. features: extracting what is not there yet", flush=True)
    encoders = folder / "encoders"
    extract_features(folder, str(encoders / "clip"), str(encoders / "bert"))


class MostPopular(nn.Module):
    """Scores an item by how often it occurs in training, whoever asks: the catalogue's vectors are the counts."""

    def encode_users(self, catalogue: Mapping[str, Tensor], inputs: Sequences) -> dict[str, Tensor]:
        """A state of width 1 at every position [P, 1]."""
        return {source: torch.ones(len(inputs.rows), 1) for source in catalogue}


def most_popular_ranks(interactions: Interactions, split: Split) -> np.ndarray:
    """Rank every user's held-out item by popularity, in the same way as any model's: [U]."""
    counts = torch.from_numpy(interactions.train_counts()).float()
    ranks = rank_targets(MostPopular(), {"id": counts[:, None]}, interactions, split, World(0, 1, torch.device("cpu")))
    return ranks["fused"]


def is_new(interactions: Interactions) -> np.ndarray:
    """Whether the test target of each user never occurs in training [U]."""
    return popularity_groups(interactions.train_counts())[interactions.targets("test")] == 0


def comparison(result: dict, baseline: np.ndarray, interactions: Interactions) -> str:
    """The test metrics of every source and of the baseline's ranks [U], as a Markdown table."""
    metrics = {**result["test"], **summarize({BASELINE: baseline})}
    if new := result["test_groups"].get("0"):
        metrics |= {name.replace("recall@10", NEW_ITEMS): value for name, value in new.items() if name.endswith("recall@10")}
        metrics[f"{BASELINE}/{NEW_ITEMS}"] = recall(baseline[is_new(interactions)], 10)
    return result_table(metrics)
