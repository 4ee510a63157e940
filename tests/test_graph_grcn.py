"""What GRCN does of its own: routing, pruning, who learns from what."""

from dataclasses import replace

import pytest
import torch
from test_graph_hosts import NUM_USERS, batch_of, content_of, grcn_of
from torch.nn import functional as F

from odmt.errors import InputError
from odmt.graph.models.grcn import GRCNSettings


def model_of(sgfd: bool = False, **settings):
    torch.manual_seed(0)
    return grcn_of(content_of("image", "text"), sgfd, **settings)


def test_routing_takes_up_the_users_items_and_is_left_out_by_default():
    users, items = F.normalize(torch.randn(12, 8), dim=-1), F.normalize(torch.randn(15, 8), dim=-1)
    model, routed = model_of(), model_of(routing=2)
    assert model.route(users, items) is users
    expected = users
    for _ in range(2):
        rows = []
        for user in range(NUM_USERS):
            own = items[model.edges.items[model.edges.users == user]]
            rows.append(expected[user] + (own @ expected[user]).softmax(0) @ own)
        expected = F.normalize(torch.stack(rows), dim=-1)
    torch.testing.assert_close(routed.route(users, items), expected)
    assert not torch.allclose(model.scores(torch.arange(3)), routed.scores(torch.arange(3)))


def test_pruning_silences_senders_for_good():
    model = model_of(pruning=True)
    with torch.no_grad():
        model.confidence.fill_(1.0)
        model.confidence[2] = -1.0  # user 2 trusts neither modality
    _, _, _, to_items = model.refine(model.extractor(model.content()))
    assert to_items[model.edges.users == 2].max() < 0
    model(batch_of(), epoch=1)["loss"].backward()
    assert model.confidence.grad[2].eq(0).all()
    assert model.confidence.grad[1].ne(0).any()
    soft = model_of()
    soft.load_state_dict(model.state_dict())
    soft(batch_of(), epoch=1)["loss"].backward()
    assert soft.confidence.grad[2].ne(0).any()


def test_the_penalty_is_on_raw_vectors_of_the_batch():
    model, batch = model_of(reg_weight=0.5), batch_of()
    expected = sum(
        weight * table[rows].square().mean()
        for weight, table, rows in [
            (1, model.id_embedding, batch.users),
            (0.5, model.id_embedding, NUM_USERS + batch.positives),
            (0.5, model.id_embedding, NUM_USERS + batch.negatives),
            (1, model.preferences["image"], batch.users),
            (1, model.preferences["text"], batch.users),
        ]
    )
    torch.testing.assert_close(model(batch, 1)["reg"], 0.5 * expected)


def test_sgfd_with_zero_weights_is_the_original():
    plain, sgfd = model_of(), model_of(sgfd=True)
    zero = replace(sgfd.extractor.settings, class_weight=0, response_weight=0, feature_weight=0, final_slope=None)
    sgfd.extractor.settings = zero
    weights = plain.state_dict()
    for modality, student in sgfd.extractor.students.items():
        student.load_state_dict(plain.extractor.projections[modality].state_dict())
    sgfd.load_state_dict({name: tensor for name, tensor in weights.items() if "extractor" not in name}, strict=False)
    batch = batch_of()
    assert sgfd(batch, 1).keys() == {"loss", "bpr", "reg"}
    torch.testing.assert_close(sgfd(batch, 1)["loss"], plain(batch, 1)["loss"])


@pytest.mark.parametrize("host_only", [True, False])
def test_who_learns_from_what(host_only):
    """The ranking loss trains the host and the students, SGFD the extractor alone."""
    model = model_of(sgfd=True)
    losses = model(batch_of(), 1)
    (losses["bpr"] if host_only else losses["loss"] - losses["bpr"] - losses["reg"]).backward()
    learns = {name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    students = {name for name, _ in model.named_parameters() if "students" in name}
    host = {name for name, _ in model.named_parameters() if not name.startswith("extractor")}
    if host_only:
        assert learns == host | students
    else:
        assert learns == {name for name, _ in model.named_parameters()} - host


@pytest.mark.parametrize("wrong", [{"routing": -1}, {"reg_weight": -0.1}])
def test_values_that_cannot_be_are_named(wrong):
    with pytest.raises(InputError, match=f"grcn.{next(iter(wrong))}"):
        GRCNSettings(**wrong)
