"""The measurements on small data: what they print, what they write, and that the two sides do the same work."""

import json

import pytest
import torch

from odmt.bench import train_step
from odmt.bench.measure import Measurement, interleave, peak_bytes
from odmt.bench.synthetic import COUNTS, TEXT_TOKENS, synthetic_interactions, text_lengths
from odmt.models.official import official_name

FIELDS = {"name", "ratio", "seconds", "baseline_seconds", "peak_bytes", "baseline_peak_bytes", "settings"}
CPU = torch.device("cpu")


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


def test_both_sides_take_the_same_step():
    data = train_step.make("arts-small", 8, 8, 1, "cpu")
    data.config.model.dropout = 0.0
    odmt = train_step.InMemoryTrainer(data)
    official = train_step.OfficialTrainer(data)
    official.model.load_recommender(odmt.model.state_dict())
    odmt.step(data.batches[0])
    official.step(data.batches[0])
    gradients = {name: parameter.grad for name, parameter in odmt.model.named_parameters()}
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
