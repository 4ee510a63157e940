"""The demo, from nothing to a table: data is made, features are extracted, ODMT is trained and compared with the most popular."""

import logging
import sys
import time
from pathlib import Path

from odmt.config_files import load_config
from odmt.demo.dataset import make_demo
from odmt.features.extraction import extract_features
from odmt.metrics import chosen_by
from odmt.train import result_table, train

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
    print(f"\nTest metrics of epoch {result['best_epoch']} of {result['epochs']}, the best by {chosen_by(settings.selection)}:\n")
    print(comparison(result))
    if new := result["test_groups"].get("0"):
        print(f"\nNew items never occur in training; they are {new['users'] / result['test_users']:.0%} of the test targets.")
    curve = settings.folder / "training_curve.png"
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


def comparison(result: dict) -> str:
    """The test metrics of every source, of new items too, and of the most popular items, as a Markdown table."""
    new = result["test_groups"].get("0", {})
    added = {name.replace("recall@10", NEW_ITEMS): value for name, value in new.items() if name.endswith("recall@10")}
    return result_table({**result, "test": {**result["test"], **added}})
