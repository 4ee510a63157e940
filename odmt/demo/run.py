"""The demo, from nothing to a table: data is made, features are extracted, models are trained beside the most popular items."""

import logging
import sys
import time
from pathlib import Path

from odmt.config import RunConfig
from odmt.config_files import load_config
from odmt.demo.dataset import add_labels, make_demo
from odmt.families import DEFAULT, config_class, family_names
from odmt.features.extraction import extract_features
from odmt.metrics import chosen_by
from odmt.result import result_table
from odmt.train import train

NEW_ITEMS = "recall@10 of new items"


def demo(family: str = DEFAULT, config: str | None = None):
    """Train a model on generated data and show its test metrics beside those of recommending the most popular items.

    Data and features that are there already are used again; the run always starts over.

    Args:
        family: of models; `all`: a model of each, one after the other, with the same items held out.
        config: what to train on data/demo, or wherever its data.root and data.dataset say, instead of the family's
            configs/demo.yaml or configs/demo-FAMILY.yaml.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    started = time.perf_counter()
    configs = [config] if config else [_config_of(name) for name in (family_names() if family == "all" else [family])]
    for settings in [load_config([path]) for path in configs]:
        prepare(settings.data.folder)
        print(f"3. training {settings.name}, from the start", flush=True)
        _show(settings, train(settings, overwrite=True))
    print(f"Data, features, training and evaluation took {time.perf_counter() - started:.0f} seconds.")


def _config_of(family: str) -> str:
    config_class(family)  # refuses one that is not there
    return "configs/demo.yaml" if family == DEFAULT else f"configs/demo-{family}.yaml"


def _show(settings: RunConfig, result: dict):
    print(f"\nTest metrics of epoch {result['best_epoch']} of {result['epochs']}, the best by {chosen_by(settings.selection)}:\n")
    print(comparison(result))
    if new := result["test_groups"].get("0"):
        print(f"\nNew items never occur in training; they are {new['users'] / result['test_users']:.0%} of the test targets.")
    curve = settings.folder / "training_curve.png"
    print(f"Training curve: {curve}    Everything else of the run: {settings.folder}/\n")


def prepare(folder: Path):
    """Make the dataset and its features, as far as they are not there."""
    if (folder / "behaviours.tsv").exists():
        print(f"1. data: using {folder} again; remove the folder to have it made anew", flush=True)
    else:
        print(f"1. data: drawing and writing {folder}", flush=True)
        make_demo(folder)
    if not (folder / "labels.tsv").exists():
        add_labels(folder)
    print("2. features: extracting what is not there yet", flush=True)
    encoders = folder / "encoders"
    extract_features(folder, str(encoders / "clip"), str(encoders / "bert"))


def comparison(result: dict) -> str:
    """The test metrics of every source, of new items too, and of the most popular items, as a Markdown table."""
    new = result["test_groups"].get("0", {})
    added = {name.replace("recall@10", NEW_ITEMS): value for name, value in new.items() if name.endswith("recall@10")}
    return result_table({**result, "test": {**result["test"], **added}})
