"""The measurements on small data: what they print, what they write, and that the two sides do the same work."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from odmt.bench import epoch, evaluate, scaling, startup, train_step
from odmt.bench.gpu_report import gpu_report
from odmt.bench.measure import interleave, peak_bytes
from odmt.bench.official import OfficialODMT, rank_users
from odmt.bench.results import Measurement
from odmt.bench.synthetic import COUNTS, TEXT_TOKENS, synthetic_interactions, text_lengths
from odmt.ranking import OUT_OF_REACH
from odmt.sequential.config import ModelConfig
from odmt.sequential.models.official import official_name
from odmt.sequential.scoring import rank_targets

FIELDS = {"name", "ratio", "seconds", "baseline_seconds", "peak_bytes", "baseline_peak_bytes", "settings"}
CPU = torch.device("cpu")
SMALL_RANKING = {"items": 10_000, "dim": 8, "device": "cpu"}


def entries(path) -> list[dict]:
    entries = json.loads(path.read_text())
    assert all(set(entry) == FIELDS for entry in entries)
    return entries


def test_a_training_step_is_measured(tmp_path, capsys):
    train_step.train_step("arts-small", dim=8, batch=8, repeats=2, device="cpu", json=tmp_path / "step.json")
    (entry,) = entries(tmp_path / "step.json")
    assert entry["name"] == "train-step"
    assert entry["settings"] == {"shape": "arts-small", "dim": 8, "batch": 8, "repeats": 2, "device": "cpu"}
    assert entry["ratio"] == pytest.approx(entry["baseline_seconds"] / entry["seconds"])
    # At least the ID table, its gradient and AdamW's two moments.
    assert min(entry["peak_bytes"], entry["baseline_peak_bytes"]) > 4 * COUNTS["arts-small"].items * 768 * 4
    assert "times faster" in capsys.readouterr().out


def test_rankings_are_measured(tmp_path):
    evaluate.evaluate("tiny", items=[20_000], dim=2, repeats=1, device="cpu", json=tmp_path / "evaluate.json")
    tiny, large = entries(tmp_path / "evaluate.json")
    assert (tiny["settings"]["items"], tiny["settings"]["baseline_users"]) == (90, 1000)
    assert (large["settings"]["items"], large["settings"]["baseline_users"]) == (20_000, 400)


def test_an_epoch_is_measured(tmp_path):
    epoch.epoch("tiny", dim=8, batch=16, device="cpu", json=tmp_path / "epoch.json")
    (entry,) = entries(tmp_path / "epoch.json")
    assert entry["seconds"] > 0
    assert entry["baseline_seconds"] > 0


def test_starts_are_measured(tmp_path):
    startup.startup("tiny", dim=8, repeats=1, device="cpu", json=tmp_path / "startup.json")
    disk, device = entries(tmp_path / "startup.json")
    assert [entry["settings"]["placement"] for entry in (disk, device)] == ["disk", "device"]
    assert disk["ratio"] is None


def test_growth_is_measured_and_drawn(tmp_path):
    files = {"json": tmp_path / "scaling.json", "plot": tmp_path / "scaling.png"}
    scaling.scaling([200, 20_000], [8], dim=8, repeats=1, device="cpu", **files)
    few, many = entries(files["json"])
    assert few["seconds"] == pytest.approx(few["settings"]["step_seconds"] * 5448)  # steps of 8 for 43,583 users
    assert many["peak_bytes"] > few["peak_bytes"] + 3 * 19_000 * 768 * 4
    assert Image.open(files["plot"]).size == (1800, 525)


def test_both_sides_rank_alike():
    data = evaluate.make(items=200, users=20, dim=8, device="cpu")
    model = OfficialODMT(ModelConfig(dim=8), 1, 12, evaluate.WIDTHS).load_recommender(data.model.state_dict())
    expected = rank_users(model, data.vectors, data.interactions, "test", np.arange(20))
    got = rank_targets(data.model, data.vectors, data.interactions, "test", data.world)
    reachable = torch.from_numpy(got["id"] < OUT_OF_REACH)
    assert reachable.sum() > 15
    for source, ranks in expected.items():
        assert got[source][reachable].tolist() == ranks[reachable].tolist()


def test_memory_of_a_ranking_does_not_grow_with_the_users():
    def least(users: int) -> int:
        """Of two runs, since a busy machine now and then keeps memory for longer."""
        return min(peak_bytes(evaluate.make, evaluate.odmt, SMALL_RANKING | {"users": users}) for _ in range(2))

    assert least(8_000) < 1.2 * least(2_000)


def test_both_sides_take_the_same_step():
    data = train_step.make("arts-small", 8, 8, 1, "cpu")
    data.config.model.dropout = 0.0
    odmt = train_step.InMemoryTrainer(data)
    official = train_step.OfficialTrainer(data)
    official.model.load_recommender(odmt.model.state_dict())
    odmt.step(data.batches[0])
    official.step(data.batches[0])
    gradients = {name: parameter.grad.to_dense() for name, parameter in odmt.model.named_parameters()}
    for name, parameter in official.model.named_parameters():
        expected = gradients[official_name(name)]
        assert (parameter.grad - expected).norm() <= 1e-4 * max(expected.norm(), 1e-2), name


def test_repeats_take_turns():
    calls = []
    seconds = interleave([lambda n: calls.append(("a", n)), lambda n: calls.append(("b", n))], 2, CPU)
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [len(taken) for taken in seconds] == [2, 2]


def test_medians_are_compared():
    summary = Measurement("task", {}, [1.0, 2.0, 30.0], [10.0, 8.0, 1000.0]).summary()
    assert (summary["seconds"], summary["baseline_seconds"], summary["ratio"]) == (2.0, 10.0, 5.0)
    assert Measurement("task", {}, [1.0]).summary()["ratio"] is None


class Nothing:
    device = CPU


def allocate(nothing):
    return lambda repeat: torch.ones(40_000_000)


def test_peak_memory_is_that_of_the_side_alone():
    ballast = torch.ones(100_000_000)
    assert peak_bytes(Nothing, allocate, {}) == pytest.approx(4 * 40_000_000, rel=0.1)
    assert ballast[0] == 1


def test_synthetic_arts_has_the_counts_of_the_real_one():
    interactions = synthetic_interactions(COUNTS["arts"])
    flat, lengths = interactions.histories(torch.arange(0, 43_000, 336).numpy(), "train")
    assert len(lengths) == 128
    assert len(flat) == pytest.approx(690, rel=0.1)
    assert len(set(flat)) == pytest.approx(610, rel=0.1)
    assert (interactions.num_users, interactions.num_items) == (43_583, 58_900)
    assert set(interactions.items) == set(range(1, 58_901))
    assert text_lengths(10_000).max() == TEXT_TOKENS


def test_a_card_is_reported_in_one_call(tmp_path, capsys):
    gpu_report("tiny", dim=8, batch=16, repeats=1, device="cpu", out=tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert capsys.readouterr().out == text
    assert text.startswith("## ")
    assert "`python scripts/bench.py gpu-report --shape tiny --dim 8 --batch 16 --repeats 1 --device cpu`" in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert [row for row in rows if row in ("train-step", "bf16", "fp32")] == ["train-step", "train-step", "bf16", "fp32"]
    off = float(text.rsplit("bf16 is ", 1)[1].partition("%")[0])
    assert abs(off) < 1
