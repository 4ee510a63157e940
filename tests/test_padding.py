"""What pads a batch has no part in its step, and few shapes are enough."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from odmt.bench.kernels import needed_tables
from odmt.bench.synthetic import COUNTS, MAX_SEQ_LEN, Counts, synthetic_interactions
from odmt.config_files import load_config
from odmt.distributed import World
from odmt.sequential.batches import epoch_users, train_batch
from odmt.sequential.interactions import Interactions
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
    return SequentialTask(config, World(0, 1, CPU), synthetic_interactions(counts), needed_tables(config, counts.items, CPU), build)


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
        sizes = padding.sizes(batch)
        for room in [padding.room(batch)] + [padding._doubled(sizes)] * (batch is batches[-1]):
            padded = padding.pad(batch, room)
            assert padding._fits(sizes, room)
            assert sizes["items"] < padding.sizes(padded)["items"] == room["items"]
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


def interactions_of(lengths: np.ndarray, num_items: int) -> Interactions:
    """Random items for users of whom the lengths of the windows are given."""
    items = np.random.default_rng(0).integers(1, num_items + 1, lengths.sum(), np.int32)
    names = [str(number) for number in range(max(num_items, len(lengths)))]
    offsets = np.concatenate([[0], lengths.cumsum()])
    return Interactions(names[: len(lengths)], names[:num_items], [""] * num_items, items, offsets, MAX_SEQ_LEN)


NUM_USERS, NUM_ITEMS, BATCH = 2_500, 3_000, 32
(FIRST_EPOCH,) = epoch_users(NUM_USERS, NUM_USERS, 1, 1)  # all of them as one batch


def all_but(full: int, other: int, others: np.ndarray, size: int) -> np.ndarray:
    sizes = np.full(size, full)
    sizes[others] = other
    return sizes


@pytest.mark.parametrize("share_repeats", [True, False], ids=["an item once", "an item as often as it occurs"])
@pytest.mark.parametrize(
    ("short_users", "short_texts"),
    [
        pytest.param(np.arange(0, NUM_USERS, 1000), np.arange(0, NUM_ITEMS, 1000), id="99.9 % are full"),
        pytest.param(FIRST_EPOCH[-1:], np.arange(0, 1), id="all but one, whom no example has seen"),
        pytest.param(np.arange(0, NUM_USERS, 10), np.arange(0, NUM_ITEMS, 10), id="90 % are full"),
        pytest.param(np.arange(0), np.arange(0), id="all are full"),
    ],
)
def test_users_and_texts_that_are_nearly_all_full_have_few_shapes(short_users, short_texts, share_repeats):
    interactions = interactions_of(all_but(MAX_SEQ_LEN + 3, 5, short_users, NUM_USERS), NUM_ITEMS)
    tables = {"text": SimpleNamespace(lengths=all_but(30, 3, short_texts, NUM_ITEMS))}
    first, second = (
        [train_batch(interactions, users, share_repeats) for users in epoch_users(NUM_USERS, BATCH, 1, epoch)] for epoch in (1, 2)
    )
    padding = Padding(first[:64], tables, MAX_SEQ_LEN)
    rooms = []
    for batch in first + second:
        room = padding.room(batch)
        assert padding._fits(padding.sizes(batch), room)
        assert all(room[name] <= 1.5 * total / padding.num_examples for name, total in padding.totals.items())
        rooms.append(tuple(room.values()))
    assert len(set(rooms)) <= 3


def test_a_batch_unlike_the_others_gets_powers_of_two():
    """All texts that the example has seen have one token, those of the batch 30."""
    interactions = interactions_of(np.full(NUM_USERS, 5), NUM_ITEMS)
    users = np.arange(BATCH)
    common, rare = interactions.histories(users, "train")[0], interactions.histories(users + BATCH, "train")[0]
    lengths = all_but(1, 30, np.setdiff1d(rare, common) - 1, NUM_ITEMS)
    usual, unusual = (train_batch(interactions, part, True) for part in (users, users + BATCH))
    padding = Padding([usual], {"text": SimpleNamespace(lengths=lengths)}, MAX_SEQ_LEN)
    sizes, room = padding.sizes(unusual), padding.room(unusual)
    assert sizes["text"] > 16 * padding.totals["text"] / 8
    assert padding._fits(sizes, room)
    assert room["items"] == room["vectors"] == 1 << (2 * sizes["items"] - 1).bit_length()
    assert all(size <= room[name] <= 4 * size for name, size in sizes.items())


def test_candidates_that_pad_have_an_item_that_is_nobodys():
    """Of items as many as the room has, of their occurrences fewer: what pads these would be candidates of a real item."""
    task = make_task("model.sources=[id,text]")
    padding, batch = padding_of(task), next(task.batches(1).batches)
    mean = padding.room(batch)
    assert padding._fits(padding.sizes(batch), mean)
    sizes = mean | {"vectors": mean["vectors"] - 1}
    padding.sizes = lambda batch: sizes
    assert padding.room(batch)["items"] > sizes["items"]
