"""What MAML does of its own: distances, dropout, the ball, what is trained, and the scale of its losses."""

import pytest
import torch
from test_graph_hosts import ITEMS, NUM_ITEMS, NUM_USERS, USERS, batch_of, content_of, maml_of

from odmt.bench.measure import in_fresh_process, process_memory
from odmt.errors import InputError
from odmt.features.extractors import RawFeatures
from odmt.graph.content import ItemContent
from odmt.graph.models import maml
from odmt.graph.models.maml import MAML, MAMLSettings, sum_of_covariances
from odmt.graph.sampling import PairSampler


def model_of(sgfd: bool = True, **settings) -> MAML:
    torch.manual_seed(0)
    return maml_of(content_of("image", "text"), sgfd, **settings)


def test_scores_are_minus_the_distances_of_pairs_worked_out_plainly():
    model = model_of(dropout=0.5, attention_dropout=0.5)
    with torch.no_grad():
        for parameter in model.attention.parameters():
            parameter.mul_(3)
    users, items, projected = model.user_embedding.weight, model.item_embedding.weight, model.eval().project()
    expected = torch.empty(NUM_USERS, NUM_ITEMS)
    for u, p in enumerate(users):
        for i, q in enumerate(items):
            both = torch.cat([p, q, projected[i]])
            hidden = model.attention[0](both / both.norm()).tanh()
            attention = len(p) * model.attention[1](hidden / hidden.norm()).relu().softmax(0)
            expected[u, i] = -(attention * (p - q)).square().sum()
    model.train()
    torch.testing.assert_close(model.scores(torch.arange(NUM_USERS)), expected.detach())


@pytest.mark.parametrize("pairs", [1, 4, 15, 40])
def test_tiles_do_not_show_in_the_scores(monkeypatch, pairs):
    model, users = model_of(), torch.tensor([7, 0, 3, 3, 11])
    expected = model.scores(users)
    monkeypatch.setitem(maml.PAIRS, "cpu", pairs)
    torch.testing.assert_close(model.scores(users), expected)


def test_dropout_is_at_work_in_training_alone():
    batch = batch_of()
    for rates in ({"dropout": 0.5}, {"attention_dropout": 0.5}):
        model = model_of(**rates)
        assert model(batch, 1)["loss"] != model(batch, 1)["loss"]
        assert torch.equal(model.scores(torch.arange(3)), model.scores(torch.arange(3)))
        assert torch.equal(model.item_embedding.weight, model_of().item_embedding.weight)  # the start is without
        model.eval()
        assert model(batch, 1)["loss"] == model(batch, 1)["loss"]


def test_both_tables_are_brought_back_into_the_ball():
    model = model_of(clip=0.5)
    with torch.no_grad():
        model.user_embedding.weight[0] = 2.0
        model.item_embedding.weight[1] = torch.tensor([0.1] + [0.0] * 7)
    model.after_step()
    assert model.user_embedding.weight[0].norm().item() == pytest.approx(0.5)
    assert model.item_embedding.weight[1].tolist() == pytest.approx([0.1] + [0.0] * 7)
    assert max(table.weight.norm(dim=1).max() for table in (model.user_embedding, model.item_embedding)) <= 0.5 + 1e-6


def test_tables_alone_are_trained_on_request():
    model = model_of(trained="tables")
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        "user_embedding.weight",
        "item_embedding.weight",
    }
    model(batch_of(), 1)["loss"].backward()


def test_losses_by_pair_or_summed():
    batch = batch_of()  # of 60 pairs, which is the size of full batches
    by_pair, summed = model_of()(batch, 1), model_of(summed=True)(batch, 1)
    for name in ("metric", "projection", "covariance"):
        torch.testing.assert_close(60 * by_pair[name], summed[name])
    for name in ("class", "fusion", "response", "feature"):
        assert by_pair[name] == summed[name]


def test_a_short_batch_does_not_blow_up_the_terms_of_the_whole_tables():
    model = model_of()
    full, *_, short = PairSampler(USERS, ITEMS, NUM_USERS, NUM_ITEMS, 59, num_negatives=2, seed=0).epoch(1)
    assert len(short.users) == 1
    with torch.no_grad():
        model.item_embedding.weight.add_(0.1)
    for name in ("projection", "covariance"):
        torch.testing.assert_close(model(full, 1)[name], model(short, 1)[name])


def test_metric_by_hand():
    model = model_of(summed=True, margin=0.5)
    distances = torch.tensor([[1.0, 1.2, 3.0], [1.0, 0.9, 1.1], [1.0, 1.6, 2.0]])
    one, two = torch.log(torch.tensor([1 + NUM_ITEMS * 1 / 2, 1 + NUM_ITEMS * 2 / 2]))
    torch.testing.assert_close(model._metric(distances), one * 0.3 + two * 0.6)


def test_sum_of_covariances():
    rows = torch.randn(20, 4, dtype=torch.double)
    covariances = torch.cov(rows.T, correction=0)
    torch.testing.assert_close(sum_of_covariances(rows), covariances.sum() - covariances.diagonal().sum())


def memory_of_scores(num_users: int) -> int:
    """Bytes that scoring takes beyond the tables and the scores themselves, at most."""
    model = MAML(ItemContent({"text": torch.randn(400, 8)}), RawFeatures({"text": 8}), num_users, 400, 32, MAMLSettings())
    model.prepared()
    before = process_memory("VmRSS")
    for users in torch.arange(num_users).split(64):
        model.eval().scores(users)
    return process_memory("VmHWM") - before


def test_memory_of_scores_does_not_grow_with_the_users():
    few, many = (in_fresh_process(memory_of_scores, count) for count in (300, 2000))
    assert many < few + 10_000_000


@pytest.mark.parametrize(
    "wrong", [{"hidden_dim": 1}, {"margin": -1.0}, {"dropout": 1.0}, {"attention_dropout": -0.1}, {"clip": 0.0}, {"scale": -1.0}]
)
def test_values_that_cannot_be_are_named(wrong):
    with pytest.raises(InputError, match=f"maml.{next(iter(wrong))}"):
        MAMLSettings(**wrong)
