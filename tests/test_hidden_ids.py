"""IDs hidden at random in training: content stands alone there, and only there."""

import numpy as np
import pytest
import torch

from odmt.config_files import load_config
from odmt.distributed import World
from odmt.errors import InputError
from odmt.sequential.models.towers import HiddenId
from odmt.trainer import Trainer

SUM = ("model.fusion=sum", "model.id_encoder=embedding", "model.item_encoder=dnn", "model.dropout=0")


def load(args: list[str]) -> Trainer:
    return Trainer.load(load_config(args), World(0, 1, torch.device("cpu")))


def test_an_occurrence_is_the_sum_of_all_sources_or_of_its_content(arguments):
    trainer = load(arguments(*SUM, "model.id_dropout=0.25"))
    fusion = trainer.model.item_encoder
    hidden = fusion.encoder
    assert isinstance(hidden, HiddenId)
    items = next(trainer.task.build_batches([[np.arange(8)]])).items
    by_source = hidden.encoder(items)
    content, whole = by_source["text"] + by_source["image"], sum(by_source.values())
    torch.testing.assert_close(fusion.eval()(items)["fused"], whole)
    fusion.train()
    shown = torch.zeros(len(whole))
    for _ in range(200):
        fused = fusion(items)["fused"]
        with_id = torch.isclose(fused, whole).all(1)
        assert torch.isclose(fused[~with_id], content[~with_id]).all(), "no third kind"
        shown += with_id
    assert (shown / 200).mean() == pytest.approx(0.75, abs=0.03)
    assert ((shown > 0) & (shown < 200)).all(), "each occurrence by itself"


def test_new_items_are_encoded_as_without_it(arguments):
    plain, hiding = (load(arguments(*SUM, f"model.id_dropout={share}")) for share in (0, 0.5))
    hiding.model.load_state_dict(
        {
            name.replace("item_encoder.encoder", "item_encoder.encoder.encoder"): tensor
            for name, tensor in plain.model.state_dict().items()
        }
    )
    items = next(plain.task.build_batches([[np.arange(8)]])).items
    ours, theirs = (trainer.model.eval().encode_new_items(items)["fused"] for trainer in (hiding, plain))
    torch.testing.assert_close(ours, theirs)


def test_the_members_of_an_ensemble_hide_others(arguments):
    trainer = load(arguments(*SUM, "model.id_dropout=0.5", "model.ensemble=2"))
    items = next(trainer.task.build_batches([[np.arange(8)]])).items
    shown = []
    for member in trainer.model.item_encoder.members:
        by_source = member.encoder.encoder(items)
        shown.append(torch.isclose(member.train()(items)["fused"], sum(by_source.values())).all(1))
    assert (shown[0] != shown[1]).any()


@pytest.mark.parametrize(
    "settings", [("model.fusion=late",), ("model.fusion=sum", "model.sources=[text]"), ("model.fusion=sum", "model.sources=[id]")]
)
def test_it_needs_a_vector_of_which_the_id_is_a_part(settings):
    with pytest.raises(InputError, match=r"model\.id_dropout: needs items of one vector"):
        load_config(["model.item_encoder=dnn", *settings, "model.id_dropout=0.5"])


def test_a_share_is_below_one():
    with pytest.raises(InputError, match=r"model.id_dropout: 1.0 is not in \[0, 1\)"):
        load_config([*SUM, "model.id_dropout=1.0"])
