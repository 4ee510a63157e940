"""What pads a batch has no part in its step, and few shapes are enough."""

from itertools import count

import numpy as np
import pytest
import torch

from odmt.bench.synthetic import COUNTS, MAX_SEQ_LEN, Counts, synthetic_interactions, synthetic_tables
from odmt.config_files import load_config
from odmt.distributed import World
from odmt.sequential.batches import epoch_users
from odmt.sequential.models.builder import build_recommender
from odmt.sequential.models.sgfd import SgfdSource
from odmt.sequential.padding import Padding
from odmt.sequential.task import SequentialTask

CPU = torch.device("cpu")
EPOCH = 3


def build(config, interactions, tables):
    """The package's model, with categories drawn."""
    num_rows, widths = interactions.num_items + 1, {source: table.width for source, table in tables.items()}
    sgfd = SgfdSource(config.sgfd.settings("bm3"), torch.arange(num_rows) % 5, 5) if config.model.learns_categories else None
    initial = torch.randn(num_rows, max(widths.values(), default=0))
    return build_recommender(config.model, interactions.num_items, MAX_SEQ_LEN, widths, lambda source: initial, sgfd)


def make_task(*settings: str, counts: Counts = COUNTS["tiny"]) -> SequentialTask:
    """A run on random data, without dropout: its noise is not that of a padded batch."""
    sizes = ["model.dim=8", "model.dropout=0", "train.batch_size=14", f"data.max_seq_len={MAX_SEQ_LEN}"]
    config = load_config([*sizes, *settings])
    tables = synthetic_tables(np.arange(counts.items), CPU)
    for modality, need in config.model.needs.items():
        if need == "cls":
            tables[modality].lengths = np.minimum(tables[modality].lengths, 1)
    needed = {modality: tables[modality] for modality in config.model.needs}
    return SequentialTask(config, World(0, 1, CPU), synthetic_interactions(counts), needed, build)


def padding_of(task: SequentialTask) -> Padding:
    users = epoch_users(task.interactions.num_users, task.config.train.batch_size, 1, 1)
    return Padding([task._train_batch(part) for part in users], task.tables, MAX_SEQ_LEN)


def step(model, batch, epoch) -> dict[str, torch.Tensor]:
    """Losses and gradients."""
    model.zero_grad()
    losses = model(batch, epoch)
    losses["loss"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {**losses, **{name: gradient.to_dense().clone() for name, gradient in gradients.items()}}


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("distillation.divergence=kl", "model.sources=[text,image]"),
        ("model.fusion=late", "model.backbone=gru4rec", "model.item_encoder=transformer"),
        ("model.item_encoder=sgfd", "model.backbone=nextitnet"),
        ("model.fusion=fdsa", "model.item_encoder=dnn"),
    ],
    ids=lambda settings: " ".join(setting.partition("=")[2] for setting in settings) or "ODMT",
)
@pytest.mark.parametrize("share_repeats", [True, False], ids=["an item once", "an item as often as it occurs"])
def test_a_padded_step_is_exact(settings, share_repeats, monkeypatch):
    """Losses and gradients in float64; the last batch is smaller."""
    task = make_task(*settings)
    monkeypatch.setattr(type(task.config.model), "noisy_items", not share_repeats)
    task.model.double().train()
    for module in task.model.modules():  # GRU4Rec has a dropout of its own
        module.p = 0.0
    padding = padding_of(task)
    for batch in (batches := list(task.batches(1).batches))[0], batches[-1]:
        batch = in_double(batch)
        expected = step(task.model, batch, EPOCH)
        room = padding.room(batch)
        padded = padding.pad(batch, room)
        assert padding.sizes(batch)["items"] < padding.sizes(padded)["items"] == room["items"]
        got = step(task.model, padded, torch.tensor(float(EPOCH), dtype=torch.float64))
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(got[name], tensor, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def in_double(batch):
    for tokens in batch.items.features.values():
        tokens.values = tokens.values.double()
    return batch


def test_a_run_has_few_shapes_and_its_last_batch_none_of_its_own():
    task = make_task("model.sources=[id,text]", "train.batch_size=128", counts=Counts(4_000, 6_000, 7.656))
    padding, rooms = padding_of(task), []
    for users in epoch_users(4_000, 128, 1, 2):
        batch = task._train_batch(users)
        sizes, room = padding.sizes(batch), padding.room(batch)
        assert all(size <= room[name] for name, size in sizes.items())
        rooms.append(tuple(room.values()))
    assert len(set(rooms)) <= 2
    assert len(users) == 4_000 % 128
    assert rooms[-1] in rooms[:-1]


def test_what_pads_is_dealt_out():
    task = make_task("model.sources=[id,text]")
    padding, batch = padding_of(task), next(task.batches(1).batches)
    sizes, room = padding.sizes(batch), padding.room(batch)
    padded = padding.pad(batch, room)
    lengths = padded.items.features["text"].lengths
    assert lengths.sum() == room["text"] == len(padded.items.features["text"].values)
    assert lengths.min() >= 1
    assert lengths.max() <= padded.items.features["text"].longest == task.tables["text"].lengths.max()
    assert padded.inputs.lengths.sum() == room["predictions"] == len(padded.targets)
    assert padded.inputs.lengths.max() <= padded.inputs.longest == MAX_SEQ_LEN
    assert padded.real.sum() == sizes["predictions"]
    assert padded.sizes == {"items": sizes["items"], "tokens": sizes["text"]}, "what is trained on is counted without it"


def test_what_cannot_be_dealt_out_gets_more_room():
    """All of a batch's items have but one token, where the mean has many: no item would have place for those that are missing."""
    task = make_task("model.sources=[id,text]")
    padding, batch = padding_of(task), next(task.batches(1).batches)
    sizes, mean = padding.sizes(batch), padding.room(batch)
    sizes["text"] = sizes["items"]
    padding.sizes = lambda batch: sizes
    room = padding.room(batch)
    missing, others = room["text"] - sizes["text"], room["items"] - sizes["items"]
    assert room["items"] > mean["items"]
    assert others <= missing <= others * padding.longest["text"]
    smaller = next(padding._scaled(eighths - 1) for eighths in count(9) if padding._scaled(eighths) == room)
    assert not padding._fits(sizes, smaller)
