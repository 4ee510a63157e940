"""No key of a model on the graph is idle: each, changed alone, changes what a run does; what cannot be is refused."""

import shutil
from pathlib import Path

import pytest
from graph_dataset import write_pairs
from test_every_option import FAMILY, NAMES, Change, measured  # noqa: F401, a fixture

from odmt.config_files import load_config, valid_keys
from odmt.errors import InputError

GRCN, MAML, LIGHTGCN = ("model.host=grcn",), ("model.host=maml",), ("model.host=lightgcn",)
SEQUENCES = ("data.dataset=sequences", "data.max_seq_len=5")
CHANGES = {
    "data.dataset": Change("other"),
    "data.root": Change("elsewhere"),
    "data.leave_one_out": Change("true", ("data.dataset=both",)),
    "data.max_seq_len": Change("3", SEQUENCES),
    "data.min_seq_len": Change("8", SEQUENCES),
    "model.host": Change("grcn"),
    "model.extractor": Change("plain"),
    "model.modalities": Change("[text]"),
    "model.dim": Change("12"),
    "sgfd.copy": Change("grcn"),
    "sgfd.class_weight": Change("0"),
    "sgfd.response_weight": Change("9"),
    "sgfd.feature_weight": Change("9"),
    "sgfd.temperature": Change("1"),
    "sgfd.class_loss_on": Change("logits"),
    "sgfd.detach_teacher": Change("true"),
    "sgfd.response": Change("kl"),
    "sgfd.width_divisor": Change("2", ("model.dim=4",)),
    "sgfd.final_slope": Change("0.5"),
    "bm3.num_layers": Change("2"),
    "bm3.dropout": Change("0"),
    "bm3.reg_weight": Change("9"),
    "bm3.cl_weight": Change("0"),
    "grcn.routing": Change("3", GRCN),
    "grcn.pruning": Change("true", GRCN),
    "grcn.reg_weight": Change("9", GRCN),
    "maml.hidden_dim": Change("32", MAML),
    "maml.margin": Change("2", MAML),
    "maml.projection_weight": Change("9", MAML),
    "maml.covariance_weight": Change("0", MAML),
    "maml.dropout": Change("0", MAML),
    "maml.attention_dropout": Change("0.5", MAML),
    "maml.scale": Change("0.1", MAML),
    "maml.clip": Change("0.5", MAML),
    "maml.trained": Change("tables", MAML),
    "maml.summed": Change("true", MAML),
    "lightgcn.num_layers": Change("1", LIGHTGCN),
    "lightgcn.reg_weight": Change("9", LIGHTGCN),
    "train.epochs": Change("1"),
    "train.batch_size": Change("10"),
    "train.num_negatives": Change("3", GRCN),
    "train.lr": Change("0.1"),
    "train.warm_up_epochs": Change("1"),
    "train.decay": Change("cosine"),
    "train.weight_decay": Change("0.9"),
    "train.clip_norm": Change("0.001"),
    "train.precision": Change("bf16"),
    "train.seed": Change("2"),
    "train.patience": Change("1", ("train.lr=1e-12", "train.epochs=3")),
    "train.test_curve": Change("true"),
    "evaluation.cutoffs": Change("[20]"),
    "evaluation.metrics": Change("[recall,mrr]"),
    "evaluation.selection": Change("test"),
    "evaluation.published": Change("true"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Datasets of pairs, of pairs and sequences, and of sequences alone; the last have 6 to 9 items of their own."""
    root = tmp_path_factory.mktemp("options")
    pairs = write_pairs(root / "data" / "pairs")
    write_pairs(root / "data" / "other", num_users=23)
    write_pairs(root / "elsewhere" / "pairs", num_users=22)
    sequences = [f"v{user}\t{' '.join(f'i{(7 * user + step) % 30}' for step in range(6 + user % 4))}\n" for user in range(20)]
    for name in ("both", "sequences"):
        shutil.copytree(pairs, root / "data" / name)
        (root / "data" / name / "behaviours.tsv").write_text("".join(sequences))
    for split in ("train", "valid", "test"):
        (root / "data" / "sequences" / f"{split}.tsv").unlink()
    return root


@pytest.fixture
def observe(root, monkeypatch, measured):  # noqa: F811
    """Run settings on the pairs as `measured` does."""
    monkeypatch.chdir(root)
    small = ("family=graph", "data.root=data", "data.dataset=pairs", "train.device=cpu", "train.lr=0.01")
    sizes = ("model.dim=8", "train.epochs=2", "train.batch_size=16", "train.tracker=none")
    return lambda *overrides: measured(load_config([*small, *sizes, *overrides]))


@pytest.fixture(scope="module")
def baselines():
    return {}


def test_every_key_is_tried():
    assert CHANGES.keys() | NAMES.keys() | {FAMILY, "train.device", "train.tracker", "train.save_every"} == set(valid_keys("graph"))


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_changes_the_run(observe, baselines, key):
    change = CHANGES[key]
    if change.under not in baselines:
        baselines[change.under] = observe(*change.under)
    assert observe(*change.under, f"{key}={change.value}") != baselines[change.under]


def test_the_same_settings_make_the_same_run(observe):
    """Else every key would seem to change it."""
    assert observe() == observe()


@pytest.mark.parametrize(
    ("host", "mistake"),
    [
        ("bm3", "bm3.num_layers=-1"),
        ("bm3", "bm3.dropout=1"),
        ("bm3", "bm3.reg_weight=-0.1"),
        ("bm3", "bm3.cl_weight=-1"),
        ("grcn", "grcn.routing=-1"),
        ("grcn", "grcn.reg_weight=-1"),
        ("maml", "maml.hidden_dim=1"),
        ("maml", "maml.margin=-1"),
        ("maml", "maml.dropout=1.5"),
        ("maml", "maml.attention_dropout=-0.1"),
        ("maml", "maml.scale=0"),
        ("maml", "maml.clip=-1"),
        ("lightgcn", "lightgcn.num_layers=0"),
        ("bprmf", "lightgcn.reg_weight=-1"),
        ("bm3", "sgfd.temperature=0"),
        ("bm3", "sgfd.width_divisor=1"),
        ("bm3", "lightgcn.reg_weight=1"),
        ("bm3", "maml.margin=2"),
        ("lightgcn", "bm3.dropout=0.1"),
        ("lightgcn", "model.extractor=plain"),
        ("bprmf", "model.modalities=[text]"),
        ("bprmf", "lightgcn.num_layers=3"),
        ("bprmf", "sgfd.temperature=3"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(host, mistake):
    with pytest.raises(InputError, match=f"config key {mistake.partition('=')[0]}: "):
        load_config(["family=graph", f"model.host={host}", mistake])
