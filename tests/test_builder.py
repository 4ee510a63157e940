"""What the ID table of a built model starts from."""

import pytest
import torch
from torch import Tensor

from odmt.config_files import load_config
from odmt.sequential.models.builder import RANDOM_ID_WIDTH, initial_id_table

NUM_ITEMS = 5
TEXT, IMAGE = torch.randn(2, NUM_ITEMS + 1, 8, generator=torch.Generator().manual_seed(0))
FEATURES = {"text": TEXT, "image": IMAGE}


def table(*overrides: str, features: dict[str, Tensor] = FEATURES) -> Tensor:
    config = load_config(["model.dim=8", *overrides]).model
    widths = {source: features[source].shape[1] for source in config.needs}
    return initial_id_table(config, NUM_ITEMS, widths, features.__getitem__)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (TEXT + IMAGE) / 2),
        (["model.id_init=mean"], (TEXT + IMAGE) / 2),
        (["model.id_init=text"], TEXT),
        (["model.id_init=image"], IMAGE),
        (["model.id_init=concat"], torch.cat([IMAGE, TEXT], 1)),
        (["model.sources=[id,text]"], TEXT),
        (["model.sources=[id,image]"], IMAGE),
    ],
)
def test_features(overrides, expected):
    assert torch.equal(table(*overrides), expected)


def test_random_is_xavier_normal_and_drawn_anew():
    torch.manual_seed(0)
    config = load_config(["model.id_init=random"]).model
    drawn = initial_id_table(config, 999, {"text": 600, "image": 300}, FEATURES.__getitem__)
    assert drawn.shape == (1000, 600)
    assert drawn.std().item() == pytest.approx((2 / (1000 + 600)) ** 0.5, rel=0.02)
    assert not torch.equal(table("model.id_init=random"), table("model.id_init=random"))


def test_without_features_it_is_random():
    ids = ["model.sources=[id]", "model.item_encoder=dnn", "model.fusion=early"]
    assert table(*ids).shape == (NUM_ITEMS + 1, RANDOM_ID_WIDTH)


def test_features_of_two_widths():
    features = {"text": TEXT, "image": torch.cat([IMAGE, IMAGE], 1)}
    assert table("model.id_init=concat", features=features).shape == (NUM_ITEMS + 1, 24)
    assert torch.equal(table("model.id_init=image", features=features), features["image"])
