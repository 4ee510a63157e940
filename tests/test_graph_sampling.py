import numpy as np
import pytest
import torch

from odmt.errors import InputError
from odmt.graph.sampling import NegativeSampler, PairSampler

USERS, ITEMS = np.array([0, 0, 0, 1, 3, 3, 0]), np.array([1, 2, 5, 0, 6, 3, 2])  # user 2 has none, (0, 2) stands twice


def sampler_of(**changes) -> PairSampler:
    settings = {"num_users": 4, "num_items": 7, "batch_size": 3, "num_negatives": 2, "seed": 5} | changes
    return PairSampler(USERS, ITEMS, **settings)


def test_an_epoch_has_every_pair_once_and_keeps_its_last_batch():
    sampler = sampler_of()
    batches = list(sampler.epoch(1))
    assert [len(batch.users) for batch in batches] == [3, 3, 1]
    assert len(sampler) == 3
    pairs = torch.stack([torch.cat([b.users for b in batches]), torch.cat([b.positives for b in batches])], 1)
    assert sorted(map(tuple, pairs.tolist())) == sorted(zip(USERS.tolist(), ITEMS.tolist()))
    assert batches[0].negatives.shape == (3, 2)
    for step, batch in enumerate(batches):
        assert USERS[sampler.rows(1, step)].tolist() == batch.users.tolist()


def test_an_epoch_is_a_function_of_seed_and_epoch():
    def drawn(seed, epoch):
        batches = list(sampler_of(seed=seed).epoch(epoch))
        return torch.cat([torch.cat([b.users[:, None], b.positives[:, None], b.negatives], 1) for b in batches]).tolist()

    assert drawn(5, 2) == drawn(5, 2)
    assert drawn(5, 2) != drawn(5, 3)
    assert drawn(5, 2) != drawn(6, 2)


def test_no_negatives_where_none_are_wanted():
    assert all(batch.negatives is None for batch in sampler_of(num_negatives=0).epoch(1))


def test_negatives_are_every_other_item_equally_often():
    sampler = NegativeSampler(USERS, ITEMS, 4, 7)
    generator = np.random.default_rng(0)
    for user in range(4):
        others = sorted(set(range(7)) - set(ITEMS[user == USERS].tolist()))
        drawn = sampler.draw(np.full(20_000, user), generator)
        values, counts = np.unique(drawn, return_counts=True)
        assert values.tolist() == others
        np.testing.assert_allclose(counts / 20_000, 1 / len(others), atol=0.015)


@pytest.mark.parametrize("seed", range(5))
def test_negatives_of_random_data(seed):
    generator = np.random.default_rng(seed)
    users, items = generator.integers(0, 30, 400), generator.integers(0, 25, 400)
    asked = generator.integers(0, 30, 5000)
    drawn = NegativeSampler(users, items, 30, 25).draw(asked, generator)
    assert not set(zip(asked.tolist(), drawn.tolist())) & set(zip(users.tolist(), items.tolist()))
    assert drawn.min() >= 0
    assert drawn.max() < 25


def test_a_user_with_all_but_one_item():
    users, items = np.zeros(6, int), np.array([0, 1, 2, 4, 5, 6])
    assert set(NegativeSampler(users, items, 1, 7).draw(np.zeros(50, int), np.random.default_rng(0))) == {3}


def test_a_user_with_all_items_has_no_negatives():
    users, items = np.array([0, *[1] * 7]), np.array([0, *range(7)])
    with pytest.raises(InputError, match="user number 1 has all 7 items"):
        PairSampler(users, items, 2, 7, 4, num_negatives=1, seed=0)
    assert len(list(PairSampler(users, items, 2, 7, 4, num_negatives=0, seed=0).epoch(1))) == 2
