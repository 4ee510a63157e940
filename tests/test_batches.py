"""Training batches and evaluation inputs on examples that can be read off, and how users are dealt out to steps."""

import numpy as np
import pytest
import torch

from odmt.features.items import Items, Tokens, to_device
from odmt.sequential.batches import Batch, epoch_users, eval_inputs, join, touched_items, train_batch

WINDOWS = [[5, 3, 5, 1, 2], [4, 9, 9], [3, 7, 8, 8]]  # the last two of each are held out


@pytest.fixture
def interactions(interactions_of):
    return interactions_of(WINDOWS, 9, max_seq_len=2)


def test_train_batch(interactions):
    batch = train_batch(interactions, np.array([0, 2]), share_repeats=True)
    assert batch.items.numbers.tolist() == [3, 5, 7]
    assert batch.items.features == {}
    numbers = batch.items.numbers
    assert numbers[batch.inputs.rows].tolist() == [5, 3, 3]
    assert numbers[batch.targets].tolist() == [3, 5, 7]
    assert batch.inputs.lengths.tolist() == [2, 1]
    assert batch.inputs.longest == 2
    assert batch.items.owners is None
    assert batch.log_candidates(torch.float64).exp().round().tolist() == [[0, 0, 1], [0, 2, 0]]


def test_a_vector_for_every_occurrence(interactions):
    batch = train_batch(interactions, np.array([0, 2]), share_repeats=False)
    assert batch.items.numbers.tolist() == [3, 5, 7]
    assert batch.items.owners.tolist() == [0, 0, 1, 1, 2]
    assert batch.items.repeat(batch.items.numbers).tolist() == [3, 3, 5, 5, 7]
    assert batch.inputs.rows.tolist() == [2, 0, 1]
    assert batch.targets.tolist() == [0, 3, 4]
    assert batch.log_candidates(torch.float64).exp().round().tolist() == [[0, 0, 0, 0, 1], [0, 0, 1, 1, 0]]


def test_a_user_with_one_item_predicts_nothing_but_his_item_is_there(interactions):
    batch = train_batch(interactions, np.array([1, 0]), share_repeats=True)
    assert batch.items.numbers.tolist() == [3, 4, 5]
    assert batch.inputs.lengths.tolist() == [0, 2]
    assert batch.items.numbers[batch.inputs.rows].tolist() == [5, 3]
    assert batch.log_candidates(torch.float64).exp().round().tolist() == [[1, 0, 2], [0, 1, 0]]


def test_held_out_items_are_not_in_training(interactions):
    batch = train_batch(interactions, np.arange(3), share_repeats=True)
    assert not {1, 2, 8, 9} & set(batch.items.numbers.tolist())


@pytest.mark.parametrize(("split", "expected"), [("valid", [5, 3, 5, 4]), ("test", [3, 5, 1, 4, 9])])
def test_eval_inputs_are_item_numbers(interactions_of, split, expected):
    inputs = eval_inputs(interactions_of(WINDOWS, 9, max_seq_len=3), np.array([0, 1]), split)
    assert inputs.rows.tolist() == expected
    assert inputs.lengths.tolist() == ([3, 1] if split == "valid" else [3, 2])
    assert inputs.longest == 3


def test_eval_inputs_are_cut_to_the_last_positions(interactions):
    assert eval_inputs(interactions, np.array([0]), "test").rows.tolist() == [5, 1]


def test_every_user_once_an_epoch_in_another_order():
    epochs = [list(epoch_users(103, 10, seed=1, epoch=epoch)) for epoch in (1, 2)]
    assert [len(step) for step in epochs[0]] == [10] * 10 + [3]
    for steps in epochs:
        assert sorted(np.concatenate(steps)) == list(range(103))
    orders = [np.concatenate(steps).tolist() for steps in epochs]
    assert orders[0] != orders[1]
    assert orders[0] == np.concatenate(list(epoch_users(103, 10, seed=1, epoch=1))).tolist()
    assert orders[0] != np.concatenate(list(epoch_users(103, 10, seed=2, epoch=1))).tolist()


@pytest.mark.parametrize("num_users", [100, 101, 103, 2])
def test_processes_share_an_epoch_evenly(num_users):
    world = 4
    shares = [np.concatenate(list(epoch_users(num_users, 10, 1, 1, rank, world))) for rank in range(world)]
    sizes = {len(share) for share in shares}
    assert sizes == {-(-num_users // world)}
    dealt, counts = np.unique(np.concatenate(shares), return_counts=True)
    assert dealt.tolist() == list(range(num_users))
    repeated = sizes.pop() * world - num_users
    assert counts.sum() - num_users == repeated
    if num_users > world:
        assert counts.max() <= 2


def test_to_device_makes_features_the_precision_and_leaves_numbers():
    items = Items(torch.tensor([1, 2]), {"text": Tokens(torch.ones(3, 4), torch.tensor([1, 2]), 2)})
    moved = to_device(items, torch.device("cpu"), torch.bfloat16)
    assert moved.numbers.dtype == torch.int64
    assert moved.features["text"].values.dtype == torch.bfloat16
    assert moved.features["text"].lengths.tolist() == [1, 2]
    assert moved.features["text"].longest == 2
    assert items.features["text"].values.dtype == torch.float32


@pytest.mark.parametrize("rows", [None, torch.tensor([4, 0, 1, 5, 6, 7])])
def test_half_precision_becomes_single_where_it_is_encoded_on_a_cpu(rows):
    table = torch.arange(16, dtype=torch.float16).view(8, 2)
    tokens = Tokens(table[:6] if rows is None else table, torch.tensor([1, 2, 3]), 3, rows)
    moved = to_device(tokens, torch.device("cpu"), torch.bfloat16)
    assert moved.values.data_ptr() == table.data_ptr()
    first, second = moved.split(2)
    assert torch.equal(torch.cat([first.values, second.values]), table[torch.arange(6) if rows is None else rows].float())
    assert [part.lengths.tolist() for part in (first, second)] == [[1, 2], [3]]
    assert (first.longest, second.longest) == (2, 3)
    assert first.rows is None


def test_a_table_in_single_precision_is_not_copied_for_its_rows():
    table = torch.arange(16, dtype=torch.float32).view(8, 2)
    moved = to_device(Tokens(table, torch.tensor([1, 1]), 1, torch.tensor([7, 0])), torch.device("cpu"), torch.bfloat16)
    assert moved.values.data_ptr() == table.data_ptr()
    (part,) = moved.split(2)
    assert torch.equal(part.values, table[[7, 0]])


@pytest.mark.parametrize("share_repeats", [True, False])
def test_joined_batches_count_the_candidates_of_the_whole_batch(interactions_of, share_repeats):
    """Of every user, how many positions of each item he sees, and where his targets stand, wherever the vectors come from."""
    windows = [[1, 2, 3, 1, 9, 9], [2, 4, 4, 5, 9, 9], [3, 6, 9, 9], [1, 7, 2, 9, 9]]
    interactions = interactions_of(windows, 9, 5)
    blocks = [np.array([0, 2]), np.array([3, 1])]
    batches = [train_batch(interactions, users, share_repeats) for users in blocks]
    whole = train_batch(interactions, np.concatenate(blocks), share_repeats)

    def seen(batch: Batch) -> torch.Tensor:
        vectors = batch.items.repeat(batch.items.numbers)
        counts = torch.zeros(len(batch.inputs.lengths), 10)
        return counts.index_add_(1, vectors, batch.log_candidates(torch.float32).exp())

    predicted = 0
    for rank, own in enumerate(batches):
        everyone = join(batches, rank)
        users = slice(2 * rank, 2 * rank + 2)
        assert torch.allclose(seen(everyone.batch), seen(whole)[users])
        numbers = everyone.batch.items.repeat(everyone.batch.items.numbers)
        assert sum(everyone.sizes) == len(numbers)
        assert torch.equal(numbers[everyone.batch.targets], own.items.repeat(own.items.numbers)[own.targets])
        assert everyone.share == 2 * len(own.targets) / len(whole.targets)
        predicted += everyone.share
    assert predicted == 2
    assert torch.equal(touched_items(interactions, blocks), torch.arange(1, 8))
