"""Models on the graph through the engine: trained, selected, resumed, killed and refused as the sequential ones are."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from graph_dataset import write_pairs
from ring_dataset import write_ring
from waiting import ENDLESS, end_after, wait_until

from odmt.checkpoint import load_tensors
from odmt.config_files import load_config
from odmt.distributed import World
from odmt.errors import InputError
from odmt.graph.hosts import HOSTS
from odmt.metrics import summarize
from odmt.train import main, train
from odmt.trainer import Trainer

ALONE = World(0, 1, torch.device("cpu"))
# Every host that can be named, with SGFD and plain, and some as they can be told to be.
PLAIN = ("model.extractor=plain",)
MODELS = {
    **{name: (f"model.host={name}",) for name in HOSTS},
    **{f"{name}_plain": (f"model.host={name}", *PLAIN) for name, host in HOSTS.items() if host.uses_content},
    "grcn_plain_routed": ("model.host=grcn", *PLAIN, "grcn.routing=3"),
    "maml_official": ("model.host=maml", "sgfd.copy=maml", "maml.trained=tables", "maml.summed=true"),
}
EVERY_MODEL = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A root with datasets: of pairs, of pairs without validation, of sequences."""
    root = tmp_path_factory.mktemp("data")
    write_pairs(root / "pairs")
    write_pairs(root / "unvalidated", valid=False)
    write_ring(root / "ring", 20, 8)
    return root


@pytest.fixture
def arguments(root, tmp_path):
    """The function that makes the arguments of a small run; its folder is `tmp_path/pairs/NAME`."""

    def make(*overrides: str) -> list[str]:
        places = ["family=graph", f"data.root={root}", "data.dataset=pairs", f"runs={tmp_path}", "name=run"]
        sizes = ["model.dim=8", "train.epochs=3", "train.batch_size=16", "train.lr=0.01", "train.device=cpu"]
        return [*places, *sizes, *overrides]

    return make


def contents(folder: Path) -> dict:
    """What a run left, but for times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    for row in (result, *rows):
        for name in [name for name in row if name.endswith("seconds")]:
            del row[name]
    weights = {name: load_tensors(folder / f"{name}.safetensors")[0] for name in ("best", "last", "ranks")}
    tensors = {f"{name}.{key}": tensor.tolist() for name, file in weights.items() for key, tensor in file.items()}
    return {"rows": rows, "result": result, "tensors": tensors}


@EVERY_MODEL
def test_a_run_is_selected_on_validation_and_tested_once(model, arguments, tmp_path):
    config = load_config(arguments(*model))
    result = train(config)
    found = contents(tmp_path / "pairs" / "run")
    recalls = [row["valid/fused/recall@20"] for row in found["rows"]]
    assert result["best_epoch"] == recalls.index(max(recalls)) + 1
    assert not any(name.startswith("test/") for row in found["rows"] for name in row)
    losses = [value for name, value in found["rows"][0].items() if name.startswith("train/") and name != "train/loss"]
    assert found["rows"][0]["train/loss"] == pytest.approx(sum(losses), rel=1e-5)
    trainer = Trainer.load(config, ALONE)
    trainer.model.load_state_dict(load_tensors(config.folder / "best.safetensors")[0])
    ranks = trainer.rank("test")
    assert result["test"] == summarize(ranks, (10, 20, 50), offsets=ranks.offsets)
    assert result["test_users"] == 24
    assert result["most_popular"]["test"].keys() == {f"most popular/{m}@{k}" for m in ("recall", "ndcg") for k in (10, 20, 50)}


@EVERY_MODEL
def test_ranks_are_those_of_sorting_all_scores(model, arguments):
    trainer = Trainer.load(load_config(arguments(*model)), ALONE)
    trainer.train_epoch(1)
    task = trainer.task
    scores = torch.cat([block.scores["fused"] for block in task.scorer()("test")]).numpy()
    ranks, held_out = trainer.rank("test")["fused"], task.held_out("test")
    for user in range(task.pairs.num_users):
        seen = task.seen(np.array([user]), "test")[0]
        assert len(seen) == 7, "train and validation items are masked"
        candidates = np.setdiff1d(np.arange(task.pairs.num_items), seen)
        for place in range(held_out.offsets[user], held_out.offsets[user + 1]):
            score = scores[user, held_out.items[place]]
            equal = (scores[user, candidates] == score).sum() - 1
            assert ranks[place] == 1 + (scores[user, candidates] > score).sum() + equal / 2


@EVERY_MODEL
def test_a_resumed_run_is_the_same_to_the_last_bit(model, arguments, tmp_path):
    train(load_config(arguments(*model, "train.epochs=4")))
    train(load_config(arguments(*model, "train.epochs=2", "name=longer")))
    train(load_config(arguments(*model, "train.epochs=4", "name=longer")), resume=True)
    assert contents(tmp_path / "pairs" / "run") == contents(tmp_path / "pairs" / "longer")


def test_a_killed_run_goes_on(arguments, tmp_path):
    args = arguments("model.host=grcn", f"train.epochs={ENDLESS}", "train.patience=null", "name=killed")
    folder = tmp_path / "pairs" / "killed"
    process = subprocess.Popen([sys.executable, "-m", "odmt.train", *args], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until((folder / "metrics.jsonl").exists, process)
    finally:
        process.kill()
        process.wait()
    epochs = f"train.epochs={end_after(folder, 3)}"
    train(load_config(arguments("model.host=grcn", epochs, "train.patience=null", "name=killed")), resume=True)
    train(load_config(arguments("model.host=grcn", epochs, "train.patience=null", "name=straight")))
    killed, straight = contents(folder), contents(tmp_path / "pairs" / "straight")
    assert killed == straight


def test_learns_what_users_like(arguments):
    """A user's test items are of his category, a third of the catalogue: of 23 candidates 3 are left, 2 of them the test items."""
    result = train(load_config(arguments("model.host=grcn", "train.epochs=60", "evaluation.cutoffs=[3,20]")))
    assert result["test"]["fused/recall@3"] > 0.9
    assert result["most_popular"]["test"]["most popular/recall@3"] < 0.6


def test_both_families_rank_the_same_held_out_items(root, tmp_path):
    place = [f"data.root={root}", "data.dataset=ring", f"runs={tmp_path}", "train.device=cpu"]
    sequential = Trainer.load(load_config([*place, "model.dim=8"]), ALONE).task
    graph = Trainer.load(load_config([*place, "family=graph", "model.host=bprmf", "model.dim=8"]), ALONE).task
    for split in ("valid", "test"):
        names = [sequential.interactions.item_ids[item - 1] for item in sequential.held_out(split).items]
        assert names == [graph.pairs.item_ids[item] for item in graph.held_out(split).items]
        assert (graph.held_out(split).offsets == sequential.held_out(split).offsets).all()
        users = np.array([0, 5, 19])
        seen = {sequential.interactions.item_ids[item - 1] for item in sequential.seen(users, split)[0]}
        assert seen == {graph.pairs.item_ids[item] for item in graph.seen(users, split)[0]}


def test_items_that_no_model_can_rank_are_counted(root, tmp_path):
    dataset = write_ring(tmp_path / "repeated", 20, 8)
    ann, bob, *others = (dataset / "behaviours.tsv").read_text().splitlines()
    lines = [f"{line.rsplit(' ', 1)[0]} {place}" for line, place in ((ann, 3), (bob, 8))]  # the latter is his validation item
    (dataset / "behaviours.tsv").write_text("\n".join([*lines, *others]) + "\n")
    small = [f"runs={tmp_path}", "family=graph", "model.host=bprmf", "model.dim=8", "train.device=cpu"]
    said = "2 of 20 test items stand in their user's own history, which is masked: they are misses"
    load = [f"data.root={tmp_path}", "data.dataset=repeated"]
    assert Trainer.load(load_config([*load, *small]), ALONE).task.remarks() == [said]
    for name in ("ring", "pairs"):
        task = Trainer.load(load_config([f"data.root={root}", f"data.dataset={name}", *small]), ALONE).task
        assert not [remark for remark in task.remarks() if "masked" in remark]


def test_selection_on_the_test_set_only_by_name_and_said(arguments, tmp_path, capsys):
    with pytest.raises(
        InputError, match=r"unvalidated: no valid pairs, .* or choose on the test set .*: evaluation.selection=test"
    ):
        train(load_config(arguments("data.dataset=unvalidated")))
    assert main(arguments("data.dataset=unvalidated", "evaluation.selection=test")) == 0
    out = capsys.readouterr().out
    assert "by TEST recall@20 (chosen on the test set, as the authors did" in out
    result = json.loads((tmp_path / "unvalidated" / "run" / "result.json").read_text())
    assert result["selection"] == "test/fused/recall@20"
    assert result["valid"] == {}


def test_published_metrics_have_names_of_their_own(arguments):
    for host in ("bm3", "grcn", "maml"):
        result = train(load_config(arguments(f"model.host={host}", f"name={host}", "evaluation.published=true")))
        assert result["published"]
        assert all(name.startswith(f"{host}_official_") for name in result["published"])
    recall = result["test"]["fused/recall@20"]
    assert result["published"]["maml_official_recall@20"] == pytest.approx(recall), "MAML's recall is the standard one"


def test_several_processes_are_refused(arguments):
    crowd = World(0, 2, torch.device("cpu"))
    with pytest.raises(InputError, match=r"2 processes: a model on the graph trains in one, since .*; start it in one"):
        Trainer.load(load_config(arguments()), crowd)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("grcn.routing=3",), r"config key grcn.routing: changes nothing with model.host=bm3"),
        (("model.extractor=plain", "sgfd.temperature=3"), r"config key sgfd.temperature: changes nothing without"),
        (("train.num_negatives=3",), r"train.num_negatives: changes nothing: BM3 samples no negatives"),
        (("model.host=grcn", "model.modalities=[]"), r"model.modalities: grcn needs text or image"),
        (("evaluation.cutoffs=[10]",), r"chosen by valid recall@20: keep 20 in cutoffs"),
        (("data.max_seq_len=1",), r"data.max_seq_len: 1 is too short"),
        (("distillation.temperature=1",), r"unknown key 'distillation.temperature': it is one of family=sequential"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments, overrides, message):
    with pytest.raises(InputError, match=message):
        load_config(arguments(*overrides))


def test_a_family_that_is_not_there_is_named(arguments):
    with pytest.raises(InputError, match=r"config key family: 'graf' is none of sequential, graph"):
        load_config(["family=graf"])
    with pytest.raises(InputError, match=r"unknown key 'grcn.routing': it is one of family=graph, and this run is of family=seq"):
        load_config(["grcn.routing=3"])


def test_what_a_dataset_lacks_is_named(arguments, root, tmp_path):
    write_pairs(tmp_path / "data" / "pairs", modalities=("text",))
    (tmp_path / "data" / "pairs" / "labels.tsv").unlink()
    bare = arguments(f"data.root={tmp_path / 'data'}")
    with pytest.raises(InputError, match=r"the dataset has no images; take a model without them.*model.modalities=\[text\]"):
        train(load_config(bare))
    with pytest.raises(InputError, match=r"labels.tsv: no such file, .*--label-column"):
        train(load_config([*bare, "model.modalities=[text]"]))
    train(load_config([*bare, "model.modalities=[text]", "model.extractor=plain"]))


def test_a_run_is_not_continued_on_other_categories(arguments, root, tmp_path):
    write_pairs(tmp_path / "data" / "pairs")
    args = arguments(f"data.root={tmp_path / 'data'}")
    train(load_config([*args, "train.epochs=1"]))
    labels = tmp_path / "data" / "pairs" / "labels.tsv"
    labels.write_text(labels.read_text().replace("i4\tkind1", "i4\tkind2"))
    with pytest.raises(InputError, match=r"last.safetensors: trained with other labels \w+ \(now \w+\); bring that back"):
        train(load_config([*args, "train.epochs=2"]), resume=True)
