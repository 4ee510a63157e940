"""A run as a folder in the layout of the Hugging Face hub: weights, settings and a model card, ready for `hf upload`."""

import json
from pathlib import Path

import numpy as np
import yaml
from tabulate import tabulate

from odmt.checkpoint import load_metadata, load_tensors, save_tensors
from odmt.config_files import flatten, load_config
from odmt.errors import InputError
from odmt.files import read_json, write_text
from odmt.outputs import whole_folder
from odmt.recommend import Recommendations, load_run
from odmt.result import result_table

CARD, WEIGHTS, RESULT = "README.md", "model.safetensors", "result.json"
PARTS = (CARD, WEIGHTS, RESULT, "config.yaml", "config.json")
NOT_PUBLISHED = ("runs", "data.root")  # where they lay on one machine


def publish(run: Path, out: Path | None = None, license: str = "", data_root: Path | None = None):
    """Write what the Hugging Face hub takes of a finished run; nothing is uploaded. `hf upload NAME FOLDER` does that.

    Args:
        run: the run's folder, RUNS/DATASET/NAME.
        out: the folder to write, which has to be given; one that this command has made is replaced.
        license: identifier for the card, such as apache-2.0; weights learnt from a dataset may be bound by its terms.
        data_root: folder of the datasets, if the run was trained with another.
    """
    if out is None:
        raise InputError("--out names the folder to write")
    run = Path(run).resolve()
    if not (run / RESULT).is_file():
        raise InputError(f"{run}: no {RESULT}, so the run is not finished; python -m odmt.train {run / 'config.yaml'} --resume")
    loaded = load_run(run, "cpu", data_root)
    result, made = read_json(run / RESULT), read_json(run / "environment.json")
    settings = dict(flatten(load_config([str(run / "config.yaml"), f"name={run.name}"], anywhere=True)))
    with whole_folder(Path(out), PARTS) as folder:
        weights, noted = load_tensors(run / "best.safetensors")
        if "basis" not in noted:  # an earlier version noted it in the other checkpoint
            noted |= {"basis": load_metadata(run / "last.safetensors").get("basis", {})}
        save_tensors(folder / WEIGHTS, weights, noted)
        published = {key: value for key, value in settings.items() if key not in NOT_PUBLISHED}
        write_text(folder / "config.yaml", yaml.safe_dump(_tree(published), sort_keys=False))
        write_text(folder / "config.json", json.dumps({"library_name": "odmt", **_tree(published)}, indent=2) + "\n")
        write_text(folder / RESULT, json.dumps(result, indent=2) + "\n")
        write_text(folder / CARD, card(loaded, result, made, settings, license))
    print(f"{out}/: {', '.join(sorted(path.name for path in Path(out).iterdir()))}")


def card(run: Recommendations, result: dict, made: dict, settings: dict, license: str) -> str:
    """The model card: what it is, of which data, how well it ranks, how it was made and is used."""
    task = run.task
    head = {
        "library_name": "odmt",
        "pipeline_tag": "other",
        "tags": ["recommendation", task.config.family, task.config.data.dataset],
        **({"license": license} if license else {"license": "other"}),
        "metrics": sorted({name.partition("/")[2] for name in result["test"]}),
    }
    counts, held_out = task.train_counts(), task.held_out("test")
    statistics = [
        ("users", len(run.user_ids)),
        ("items", len(run.item_ids)),
        ("interactions in training", int(counts.sum())),
        ("items never seen in training", int((counts[task.first_item :] == 0).sum())),
        ("users with a held-out item", int((np.diff(held_out.offsets) > 0).sum())),
    ]
    encoders = [
        f"- {modality}: `{_public(header['encoder'])}`, {header['layer']}, width {header['width']}"
        for modality, header in made.get("encoders", {}).items()
    ]
    versions = ", ".join(f"{name} {number}" for name, number in made["packages"].items())
    listed = "\n".join(f"{key}: {json.dumps(value)}" for key, value in settings.items() if key not in NOT_PUBLISHED)
    return f"""---
{yaml.safe_dump(head, sort_keys=False)}---

# {task.config.name} on {task.config.data.dataset}

A {task.config.family} recommender: {task}. Its scores are {", ".join(run.sources)}.

## Data

{tabulate(statistics, ("", "number"), "pipe")}

{chr(10).join(["Frozen features of the items:", *encoders]) if encoders else "No features of the items."}

The weights hold a row for every user or item that they know, so they are of use with this dataset alone; it is not part of this
folder, and what was learnt from it may be bound by its terms.

## Test metrics

Seed {settings["train.seed"]}; epoch {result["best_epoch"]} of {result["epochs"]}, chosen by {result["selection"]}.

{result_table(result)}

## How it was made

{versions}; commit {made.get("commit") or "unknown"}; {", ".join(made["machine"]["gpus"]) or "CPU"}.

```yaml
{listed}
```

## Use

```python
from odmt.recommend import load_run

run = load_run("FOLDER", data_root="data")  # with the dataset in data/{task.config.data.dataset}
print(run.recommend("all", k=10))
```
"""


def _public(encoder: str) -> str:
    """A name of the hub as it is, of a folder its last part."""
    return Path(encoder).name if Path(encoder).is_absolute() else encoder


def _tree(pairs: dict[str, object]) -> dict:
    """Keys with dots as nested mappings."""
    tree: dict = {}
    for key, value in pairs.items():
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return tree
