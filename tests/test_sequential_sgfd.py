"""SGFD's students as towers of the sequential models: with every fusion and backbone, and what their losses do."""

import shutil
from pathlib import Path

import pytest
import torch

from odmt.checkpoint import load_metadata
from odmt.config_files import load_config
from odmt.distributed import World
from odmt.errors import InputError
from odmt.sequential.models.sgfd import SgfdTowers
from odmt.train import train
from odmt.trainer import Trainer

ALONE = World(0, 1, torch.device("cpu"))
SGFD_LOSSES = ["sgfd_class", "sgfd_fusion", "sgfd_response", "sgfd_feature"]
SMALL = ("model.item_encoder=sgfd", "train.lr=0.01")


@pytest.fixture
def load(arguments):
    def load(*overrides: str) -> Trainer:
        return Trainer.load(load_config(arguments(*SMALL, *overrides)), ALONE)

    return load


def towers_of(trainer: Trainer) -> SgfdTowers:
    return next(module for module in trainer.model.modules() if isinstance(module, SgfdTowers))


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "nextitnet"])
@pytest.mark.parametrize("fusion", ["separate", "late", "early", "sum", "fdsa"])
def test_with_every_fusion_and_backbone(load, fusion, backbone):
    trainer = load(f"model.fusion={fusion}", f"model.backbone={backbone}")
    losses = trainer.train_epoch(1)
    sources = {"separate": ["id", "text", "image"], "fdsa": ["id"]}.get(fusion, ["fused"])
    distillation = ["distillation"] if fusion == "separate" else []
    assert list(losses) == ["loss", *(f"ce_{source}" for source in sources), *distillation, *SGFD_LOSSES]
    assert losses["loss"] == pytest.approx(sum(value for name, value in losses.items() if name != "loss"), rel=1e-5)
    without = [name for name, p in trainer.model.named_parameters() if p.grad is None or not p.grad.to_dense().any()]
    assert without == []
    later = [trainer.train_epoch(epoch)["loss"] for epoch in range(2, 7)]
    assert later[-1] < losses["loss"]
    assert trainer.rank("test")["fused"].shape == (31,)


@pytest.mark.parametrize("sources", ["[text]", "[image]", "[id,text]", "[text,image]"])
def test_with_any_sources(load, sources):
    losses = load(f"model.sources={sources}", "model.fusion=early").train_epoch(1)
    assert list(losses) == ["loss", "ce_fused", *SGFD_LOSSES]


def test_an_id_alone_is_refused(arguments):
    with pytest.raises(InputError, match=r"config key model.item_encoder: sgfd needs text or image"):
        load_config(arguments(*SMALL, "model.sources=[id]", "model.fusion=early"))


def test_settings_without_the_encoder_are_refused(arguments):
    with pytest.raises(InputError, match=r"config key sgfd.temperature: changes nothing without model.item_encoder=sgfd"):
        load_config(arguments("sgfd.temperature=3"))


def test_losses_are_of_the_distinct_items_of_a_batch(load):
    trainer = load("model.sources=[text,image]", "model.fusion=early")
    batch = next(iter(trainer.task.batches(1).batches))
    towers, numbers = towers_of(trainer), batch.items.numbers
    assert len(numbers.unique()) == len(numbers)
    features = {m: torch.from_numpy(trainer.task.tables[m].cls().numpy())[numbers] for m in ("text", "image")}
    labels = numbers % 3  # the categories are kind 0, kind 1, kind 2
    expected = towers.extractor.losses(features, labels)
    losses = trainer.model(batch, 1)
    for name, loss in expected.items():
        torch.testing.assert_close(losses[f"sgfd_{name}"], loss)
    students = towers.extractor(features)
    torch.testing.assert_close(trainer.model.item_encoder(batch.items)["fused"], (students["text"] + students["image"]) / 2)


def test_an_item_encoder_may_be_any_module(arguments):
    """Without losses of its own it needs no method for them, inside an early fusion neither."""

    class Own(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def forward(self, items):
            return self.encoder(items)

    trainer = Trainer.load(load_config(arguments("model.item_encoder=dnn", "model.fusion=early")), ALONE)
    trainer.model.item_encoder.encoder = Own(trainer.model.item_encoder.encoder)
    assert list(trainer.train_epoch(1)) == ["loss", "ce_fused"]
    trainer.model.item_encoder = Own(trainer.model.item_encoder)
    assert list(trainer.train_epoch(2)) == ["loss", "ce_fused"]


def test_weights_of_zero_leave_the_losses_out(load):
    off = ("sgfd.class_weight=0", "sgfd.response_weight=0", "sgfd.feature_weight=0")
    assert list(load("model.fusion=late", *off).train_epoch(1)) == ["loss", "ce_fused"]


def test_a_teacher_learns_the_categories(load):
    trainer = load("model.fusion=late", "sgfd.class_weight=5", "sgfd.class_loss_on=logits")
    first = trainer.train_epoch(1)
    for epoch in range(2, 60):
        last = trainer.train_epoch(epoch)
    assert last["sgfd_fusion"] < 0.1 * first["sgfd_fusion"]


def test_trains_and_continues_on_the_same_categories_alone(arguments, ring_root, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(ring_root / "ring", root / "ring")
    settings = (*SMALL, f"data.root={root}", "model.fusion=early")
    config = load_config(arguments(*settings))
    whole = train(config)
    assert whole["epochs"] == 3
    assert "labels" in load_metadata(config.folder / "last.safetensors")["basis"]
    half = load_config(arguments(*settings, "name=half", "train.epochs=2"))
    train(half)
    labels = root / "ring" / "labels.tsv"
    content = labels.read_text()
    labels.write_text(content.replace("1\tkind 1", "1\tkind 2"))
    with pytest.raises(InputError, match="labels"):
        train(load_config(arguments(*settings, "name=half")), resume=True)
    labels.write_text(content)
    continued = train(load_config(arguments(*settings, "name=half")), resume=True)
    assert {key: value for key, value in continued.items() if "seconds" not in key} == {
        key: value for key, value in whole.items() if "seconds" not in key
    }


def test_a_dataset_without_categories(arguments, ring_root, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(ring_root / "ring", root / "ring")
    labels: Path = root / "ring" / "labels.tsv"
    lines = labels.read_text().splitlines(keepends=True)
    labels.write_text("".join(lines[1:]))
    with pytest.raises(InputError, match=r"labels.tsv: 1 items have no category, '1' the first"):
        Trainer.load(load_config(arguments(*SMALL, f"data.root={root}")), ALONE)
    labels.unlink()
    with pytest.raises(InputError, match=r"labels.tsv: no such file.*scripts/prepare.py csv --label-column"):
        Trainer.load(load_config(arguments(*SMALL, f"data.root={root}")), ALONE)
    assert Trainer.load(load_config(arguments(f"data.root={root}")), ALONE).train_epoch(1)["loss"] > 0
