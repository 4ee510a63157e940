"""No key of the configuration is idle: each, changed alone, changes what a run does."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from odmt.config_files import load_config, valid_keys
from odmt.errors import InputError
from odmt.features.tables import _choose, load_features
from odmt.sequential.interactions import Interactions
from odmt.train import train


@dataclass
class Change:
    """A value for a key, and the settings under which it matters."""

    value: str
    under: tuple[str, ...] = ()


SGFD = ("model.item_encoder=sgfd", "sgfd.class_weight=1")
CHANGES = {
    "data.dataset": Change("other"),
    "data.root": Change("elsewhere"),
    "data.max_seq_len": Change("4"),
    "data.min_seq_len": Change("8"),
    "data.popularity_power": Change("0.5"),
    "model.dim": Change("12"),
    "model.sources": Change("[text,image]"),
    "model.item_encoder": Change("transformer"),
    "model.num_layers": Change("1"),
    "model.id_encoder": Change("embedding", ("model.item_encoder=dnn",)),
    "model.id_init": Change("image"),
    "model.id_visible_to_modalities": Change("true"),
    "model.id_dropout": Change("0.5", ("model.fusion=sum",)),
    "model.fusion": Change("late"),
    "model.ensemble": Change("2", ("model.fusion=sum",)),
    "model.backbone": Change("gru4rec"),
    "model.backbone_layers": Change("1"),
    "model.backbone_heads": Change("1"),
    "model.dropout": Change("0.3"),
    "distillation.temperature": Change("0.5"),
    "distillation.ramp_up_epochs": Change("5"),
    "distillation.constant_weight": Change("0.5"),
    "distillation.divergence": Change("kl"),
    "distillation.detach_teacher": Change("true"),
    "sgfd.copy": Change("maml", SGFD),
    "sgfd.class_weight": Change("0", SGFD),
    "sgfd.response_weight": Change("3", SGFD),
    "sgfd.feature_weight": Change("0", SGFD),
    "sgfd.temperature": Change("2", SGFD),
    "sgfd.class_loss_on": Change("logits", SGFD),
    "sgfd.detach_teacher": Change("true", SGFD),
    "sgfd.response": Change("kl", SGFD),
    "sgfd.width_divisor": Change("2", (*SGFD, "model.dim=4", "model.backbone_heads=1")),
    "sgfd.final_slope": Change("0.5", SGFD),
    "train.epochs": Change("1"),
    "train.batch_size": Change("10"),
    "train.lr": Change("0.01"),
    "train.warm_up_epochs": Change("1"),
    "train.decay": Change("cosine"),
    "train.weight_decay": Change("0.9"),
    "train.clip_norm": Change("0.001"),
    "train.precision": Change("bf16"),
    "train.seed": Change("2"),
    "train.patience": Change("1", ("train.lr=1e-12", "train.epochs=3")),
    "train.test_curve": Change("true"),
    "evaluation.cutoffs": Change("[10]"),
    "evaluation.metrics": Change("[recall,ndcg,mrr]"),
}
# What decides where a run lies, not what it computes.
NAMES = {"runs": "runs2", "name": "another"}
FAMILY = "family"  # another one has other keys
# What only a machine with a GPU, several processes or a kill can show in a whole run.
PLACES = {
    "data.negatives",
    "data.placement",
    "data.device_budget_gb",
    "data.pinned_budget_gb",
    "train.device",
    "train.tracker",
    "train.save_every",
    "train.compile",
}


@pytest.fixture(scope="module")
def root(ring_root, tmp_path_factory) -> Path:
    """The ring; the same with other popularities under another name and, again, elsewhere; user0 has 7 interactions."""
    root = tmp_path_factory.mktemp("options")
    users = (ring_root / "ring" / "behaviours.tsv").read_text().splitlines()
    users[0] = users[0].rpartition(" ")[0]
    for place, lines in {"data/ring": users, "data/other": users[:-5], "elsewhere/ring": users[:-9]}.items():
        shutil.copytree(ring_root / "ring", root / place)
        (root / place / "behaviours.tsv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def measured():
    """Run a configuration; returns what it measured, but the times."""

    def measured(config) -> tuple[dict, list[dict]]:
        result = train(config, overwrite=True)
        rows = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
        for row in (result, *rows):
            for name in [name for name in row if name.endswith("seconds")]:
                del row[name]
        return result, rows

    return measured


@pytest.fixture
def observe(root, arguments, monkeypatch, measured):
    """Run settings on the ring as `measured` does."""
    monkeypatch.chdir(root)
    short = ("model.num_layers=2", "model.backbone_layers=2", "train.epochs=2", "train.batch_size=16", "train.tracker=none")
    return lambda *overrides: measured(load_config(arguments("data.root=data", "runs=runs", *short, *overrides)))


def test_every_key_is_tried():
    assert CHANGES.keys() | NAMES.keys() | PLACES | {FAMILY} == set(valid_keys())


@pytest.fixture(scope="module")
def baselines():
    return {}


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_changes_the_run(observe, baselines, key):
    change = CHANGES[key]
    if change.under not in baselines:
        baselines[change.under] = observe(*change.under)
    changed = observe(*change.under, f"{key}={change.value}")
    assert changed != baselines[change.under]


def test_the_same_settings_make_the_same_run(observe):
    """Else every key would seem to change it."""
    assert observe() == observe()


@pytest.mark.parametrize("key", NAMES)
def test_a_name_changes_the_folder(arguments, key):
    assert load_config(arguments(f"{key}={NAMES[key]}")).folder != load_config(arguments()).folder


def test_placement(root, arguments):
    config = load_config(arguments(f"data.root={root / 'data'}"))
    interactions = Interactions.load(config.data.folder, 5)
    kinds = {}
    for placement in ("disk", "device"):
        config.data.placement = placement
        kinds[placement] = type(load_features(config.data, interactions.item_ids, {"text": "tokens"}, torch.device("cpu"))["text"])
    assert kinds["disk"] is not kinds["device"]
    with pytest.raises(InputError, match=r"data.placement=pinned speeds up copies to a GPU"):
        _choose(load_config(["data.placement=pinned"]).data, 1.0, torch.device("cpu"))


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        ([], "device"),
        (["data.device_budget_gb=1"], "pinned"),
        (["data.device_budget_gb=1", "data.pinned_budget_gb=1"], "disk"),
    ],
)
def test_budgets(budgets, expected):
    assert _choose(load_config(budgets).data, 5.0, torch.device("cuda")) == expected


def test_device(arguments):
    if torch.cuda.is_available():
        assert train(load_config(arguments("train.device=cuda")))["epochs"] == 3
    else:
        with pytest.raises(InputError, match=r"train.device=cuda"):
            train(load_config(arguments("train.device=cuda")))
