"""What is measured of an epoch, and what a card could do."""

import itertools
import json
import time

import pytest
import torch

from odmt import speed
from odmt.config_files import load_config
from odmt.precision import Precision
from odmt.speed import Speed, Utilisation, in_words, peak_of
from odmt.task import EpochBatches
from odmt.train import train

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("card", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756e12),
        ("NVIDIA A100-SXM4-80GB", torch.float32, 19.5e12),
        ("NVIDIA L4", torch.float16, 121e12),
        ("NVIDIA L40S", torch.float16, 362e12),
        ("NVIDIA A10G", torch.float16, 70e12),
        ("Tesla T4", torch.float16, 65e12),
        ("a card of tomorrow", torch.bfloat16, None),
    ],
)
def test_known_cards(card, dtype, peak):
    assert peak_of(card, dtype) == peak


def test_steps_and_waits_are_measured(monkeypatch):
    """A clock that goes on by one second whenever it is read."""
    monkeypatch.setattr(speed.time, "perf_counter", itertools.count().__next__)
    steps = EpochBatches(3, iter(["ab", "cde", "f"]), str, lambda batch: {"items": len(batch), "tokens": 10 * len(batch)})
    watched = Speed(steps, CPU, processes=2, started=0)
    assert list(watched.batches()) == ["ab", "cde", "f"]
    # Read twice a batch, and twice to learn that there is none left: 0 to 7, and at 8 in the end.
    rates = {"items_over_seconds": 2 * 6 / 8, "tokens_over_seconds": 20 * 6 / 8}
    assert watched.measure() == {"step_seconds": 8 / 3, "wait_seconds": 4 / 3, **rates}


def test_a_first_step_gives_the_utilisation():
    utilisation, left = Utilisation(CPU, Precision.choose("fp32", CPU)), torch.ones(4, 4)
    assert utilisation.count(lambda: "step") == "step"
    assert utilisation.measure(1.0) == {}, "of a CPU nobody knows what it could do"
    utilisation.peak = 1000.0
    for _ in range(2):
        assert utilisation.count(lambda: left @ left)[0, 0] == 4
    assert utilisation.measure(0.5) == {"flops_utilisation": 2 * 4**3 / 0.5 / 1000}


def test_words():
    measured = {"step_seconds": 0.0154, "wait_seconds": 0.0011, "pairs_over_seconds": 39876.4}
    assert in_words(measured) == "15.4 ms a step, 1.1 of it waiting for data, 39,876 pairs/s"
    there = measured | {"tokens_over_seconds": 1234567.8, "peak_memory_gb": 12.34, "flops_utilisation": 0.414}
    assert in_words(there).endswith("39,876 pairs/s, 1,234,568 tokens/s, 12.3 GB, 41% of the card's FLOPs")


def test_every_epoch_is_measured(arguments, tmp_path, caplog):
    caplog.set_level("INFO", "odmt")
    started = time.perf_counter()
    train(load_config(arguments("train.epochs=2")))
    passed = time.perf_counter() - started
    folder = tmp_path / "ring" / "run"
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        assert 0 < line["wait_seconds"] < line["step_seconds"]
        assert 4 * line["step_seconds"] <= line["train_seconds"] < passed  # 31 users in steps of 8
        assert line["items_over_seconds"] > 31 / passed
        # The ring's items have 2 to 4 tokens of text and of image each.
        assert 4 * line["items_over_seconds"] < line["tokens_over_seconds"] < 8 * line["items_over_seconds"]
    assert (folder / "train.log").read_text().count("of it waiting for data") == 2
