"""An ensemble: its members are models of their own, and its score is the mean of theirs."""

import numpy as np
import pytest
import torch

from odmt.config_files import load_config
from odmt.distributed import World
from odmt.errors import InputError
from odmt.sequential.models.recommender import Recommender, SourceBackbones
from odmt.trainer import Trainer

ALONE = World(0, 1, torch.device("cpu"))
SUM = ("model.fusion=sum", "model.id_encoder=embedding", "model.item_encoder=dnn", "model.dropout=0")
NAMES = ["fused1", "fused2", "fused3"]


@pytest.fixture
def trainer(arguments) -> Trainer:
    return Trainer.load(load_config(arguments(*SUM, "model.ensemble=3")), ALONE)


def test_each_member_has_the_loss_of_a_model_of_its_own(trainer):
    batch, whole = next(trainer.task.build_batches([[np.arange(8)]])), trainer.model
    losses = whole(batch, 1)
    own = []
    for encoder, name in zip(whole.item_encoder.members, NAMES, strict=True):
        backbone = SourceBackbones({"fused": whole.user_encoder.backbones[name]})
        own.append(Recommender(encoder, backbone, whole.objective)(batch, 1)["loss"].item())
    assert [losses[f"ce_{name}"].item() for name in NAMES] == pytest.approx(own)
    assert losses["loss"].item() == pytest.approx(sum(own))
    assert len(set(own)) == 3, "members begin at other weights"


def test_one_member_is_the_plain_model(arguments):
    plain, one = (Trainer.load(load_config(arguments(*SUM, *more)), ALONE) for more in ((), ("model.ensemble=1",)))
    assert plain.model.state_dict().keys() == one.model.state_dict().keys()


def test_its_score_ranks_as_the_mean_of_the_members(trainer):
    block = next(trainer.task.scorer()("valid"))
    assert list(block.scores) == ["fused", *NAMES]
    total = sum(block.scores[name][:, 1:] for name in NAMES)
    torch.testing.assert_close(block.scores["fused"][:, 1:], total)


def test_the_categories_of_sgfd_teach_every_member(arguments):
    trainer = Trainer.load(load_config(arguments(*SUM, "model.item_encoder=sgfd", "model.ensemble=2")), ALONE)
    losses = trainer.model(next(trainer.task.build_batches([[np.arange(8)]])), 1)
    first, second = ({name.rstrip("12") for name in losses if name.endswith(number)} for number in "12")
    assert first == second
    assert len(first) > 1
    assert losses["loss"].item() == pytest.approx(sum(loss.item() for name, loss in losses.items() if name != "loss"))


@pytest.mark.parametrize("fusion", ["separate", "late", "fdsa"])
def test_members_have_one_vector_an_item(fusion):
    with pytest.raises(InputError, match=f"model.ensemble: needs items of one vector: model.fusion=early or sum, not {fusion}"):
        load_config([f"model.fusion={fusion}", "model.item_encoder=dnn", "model.ensemble=2"])
