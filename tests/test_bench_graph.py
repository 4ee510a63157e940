"""The measurements of the graph models on small data: what they print and write, and that both sides do the same work."""

import json

import pytest
import torch

from odmt.bench import graph_evaluate, graph_scaling, graph_step
from odmt.bench.graph_data import SHAPES, GraphCounts, random_graph
from odmt.bench.graph_official import OFFICIAL
from odmt.bench.graph_official_ranking import RECALLS
from odmt.bench.measure import in_fresh_process

HOSTS = ("bm3", "grcn", "maml")


def entries(path) -> list[dict]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("dim", [8, 20])
def test_both_sides_have_the_same_loss_and_gradients(name, dim):
    """With teachers that are folded or, of the narrow text features at the greater width, one layer anyway."""
    graph = random_graph(SHAPES["sgfd-small"])
    host = graph.host(name, dim, dropout=False)
    baseline = OFFICIAL[type(host)](host)
    batch = next(graph.sampler(name, 128).epoch(1))
    loss, expected = host(batch, 1)["loss"], baseline(batch)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in baseline.host.named_parameters()}
    largest = max(gradient.norm() for gradient in gradients.values())
    for parameter_name, parameter in host.named_parameters():
        wanted = gradients[parameter_name]
        assert (parameter.grad - wanted).norm() <= 1e-4 * max(wanted.norm(), 1e-4 * largest), parameter_name


def test_the_random_graph_has_the_counts_that_it_is_to_have():
    counts = GraphCounts(users=300, items=90, pairs=1500, held_out=400, labels=7, widths={"image": 5, "text": 3})
    graph = random_graph(counts)
    train = set(zip(graph.users.tolist(), graph.items.tolist()))
    assert len(train) == 1500
    assert {user for user, _ in train} == set(range(300))
    held_out = {(user, item) for user in range(300) for item in _of(graph.held_out, user)}
    assert len(held_out) == 400
    assert not held_out & train
    assert {item for _, item in train | held_out} == set(range(90))
    assert {name: table.shape for name, table in graph.content().items()} == {"image": (90, 5), "text": (90, 3)}


def _of(lists, user: int) -> list[int]:
    return lists.items[lists.offsets[user] : lists.offsets[user + 1]].tolist()


def test_a_step_is_measured(tmp_path, capsys):
    graph_step.graph_step("grcn", "sgfd-small", dim=8, repeats=2, device="cpu", clock="cpu", json=tmp_path / "step.json")
    (entry,) = entries(tmp_path / "step.json")
    assert entry["name"] == "graph-step grcn"
    assert entry["ratio"] == pytest.approx(entry["baseline_seconds"] / entry["seconds"])
    assert "times faster" in capsys.readouterr().out


def test_both_sides_rank_alike():
    data = graph_evaluate.make("grcn", "sgfd-small", 8, "cpu")
    expected = graph_evaluate.recall_of(data)
    assert 0 < expected < 1
    for recall in RECALLS.values():
        assert recall(data.scores, data.graph.seen, data.graph.held_out) == pytest.approx(expected)


def test_rankings_are_measured(tmp_path):
    graph_evaluate.graph_evaluate("maml", "sgfd-small", dim=8, repeats=1, device="cpu", json=tmp_path / "evaluate.json")
    (entry,) = entries(tmp_path / "evaluate.json")
    assert entry["seconds"] > 0
    assert entry["baseline_seconds"] > 0


def test_growth_is_measured(tmp_path, capsys):
    graph_scaling.graph_scaling("bm3", [100, 200], dim=8, repeats=1, device="cpu", json=tmp_path / "scaling.json")
    few, many = entries(tmp_path / "scaling.json")
    assert (few["settings"]["edges"], many["settings"]["edges"]) == (800, 1600)
    assert "epoch, us an edge" in capsys.readouterr().out


def test_memory_of_a_ranking_does_not_grow_with_the_users():
    few, many = (
        in_fresh_process(graph_scaling.measure, "grcn", count, 4, 1, "cpu", "wall").evaluate_bytes for count in (1_000, 4_000)
    )
    assert many < few + 15_000_000
