"""A dataset as pairs: splits, numbering, what is held out and seen, and what every kind of bad input is told."""

import numpy as np
import pytest

from odmt.errors import InputError
from odmt.graph.pairs import Pairs
from odmt.item_lists import ItemLists
from odmt.sequential.interactions import Interactions

ITEMS = "a\tRed Shoe\nb\tBlue Shoe\nc\tGreen HAT\nd\tBlack Hat\ne\tnobody's\n"
FILES = {"train.tsv": "ann\td a\nbob\tb\ncat\ta\n", "valid.tsv": "ann\tb\n", "test.tsv": "cat\tb c\nann\tc\n", "items.tsv": ITEMS}


@pytest.fixture
def write(tmp_path):
    """Write the tables of a dataset, None for one that it lacks; returns its folder."""

    def write(files=FILES, **changed):
        for name, content in {**files, **{f"{name}.tsv": content for name, content in changed.items()}}.items():
            if content is not None:
                (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path

    return write


def named(pairs: Pairs, edges: ItemLists) -> dict[str, str]:
    """The items of every user who has any, in the items' names."""
    names = np.array(pairs.item_ids)
    return {user: " ".join(names[edges.of(np.array([u]))[0]]) for u, user in enumerate(pairs.user_ids) if edges.counts[u]}


def test_a_given_split(write):
    pairs = Pairs.load(write())
    assert pairs.user_ids == ["ann", "bob", "cat"]
    assert pairs.item_ids == ["a", "b", "c", "d"]  # e stands in no split
    assert pairs.texts == ["red shoe", "blue shoe", "green hat", "black hat"]
    assert (pairs.num_users, pairs.num_items) == (3, 4)
    assert pairs.train.items.tolist() == [3, 0, 1, 0]
    assert pairs.train.offsets.tolist() == [0, 2, 3, 4]
    assert pairs.train.users.tolist() == [0, 0, 1, 2]
    assert pairs.train_counts().tolist() == [2, 1, 0, 1]
    assert named(pairs, pairs.held_out("valid")) == {"ann": "b"}
    assert named(pairs, pairs.held_out("test")) == {"ann": "c", "cat": "b c"}
    assert named(pairs, pairs.seen("valid")) == {"ann": "d a", "bob": "b", "cat": "a"}
    assert named(pairs, pairs.seen("test")) == {"ann": "d a b", "bob": "b", "cat": "a"}
    items, counts = pairs.train.of(np.array([2, 0]))
    assert (items.tolist(), counts.tolist()) == ([0, 3, 0], [1, 2])


def test_no_validation(write):
    pairs = Pairs.load(write(valid=None))
    assert pairs.held_out("valid").counts.tolist() == [0, 0, 0]
    assert named(pairs, pairs.seen("test")) == named(pairs, pairs.train)
    assert pairs.item_ids == ["a", "b", "c", "d"]


def test_items_left_out_and_users_left_without_any(write):
    pairs = Pairs.load(write(), without={"a", "unheard of"})
    assert pairs.user_ids == ["ann", "bob"]
    assert pairs.item_ids == ["b", "c", "d"]
    assert [named(pairs, split) for split in (pairs.train, pairs.valid, pairs.test)] == [
        {"ann": "d", "bob": "b"},
        {"ann": "b"},
        {"ann": "c"},
    ]
    with pytest.raises(InputError, match=r"train.tsv: no user has a train item"):
        Pairs.load(write(), without=set("abd"))


def test_sequences_are_read_with_the_held_out_items_of_the_sequential_models(write):
    behaviours = "ann\ta a b a c d\nbob\tb c\ncat\td c b c\n"
    folder = write({"items.tsv": ITEMS, "behaviours.tsv": behaviours})
    for max_seq_len in (1, 2, 12):
        pairs, interactions = Pairs.load(folder, max_seq_len, 3), Interactions.load(folder, max_seq_len, 3)
        assert (pairs.user_ids, pairs.item_ids, pairs.texts) == (interactions.user_ids, interactions.item_ids, interactions.texts)
        for split in ("valid", "test"):
            assert pairs.held_out(split).items.tolist() == (interactions.targets(split) - 1).tolist()
            assert pairs.held_out(split).counts.tolist() == [1, 1]
            for user in range(2):
                seen = pairs.seen(split).of(np.array([user]))[0]
                assert set(seen) == set(interactions.histories(np.array([user]), split)[0] - 1)
    assert named(pairs, pairs.train) == {"ann": "a b", "cat": "d c"}  # once each, though ann had a three times
    assert named(pairs, pairs.test) == {"ann": "d", "cat": "c"}  # which cat has seen: a miss for every model


def test_a_split_comes_before_the_sequences_unless_they_are_asked_for(write):
    folder = write({**FILES, "behaviours.tsv": "ann\ta b c d\n"})
    assert Pairs.load(folder, min_seq_len=3).num_users == 3
    pairs = Pairs.load(folder, min_seq_len=3, leave_one_out=True)
    assert named(pairs, pairs.test) == {"ann": "d"}


def test_fingerprint_tells_datasets_apart(write):
    whole = Pairs.load(write()).fingerprint()
    assert Pairs.load(write()).fingerprint() == whole
    assert Pairs.load(write(), without={"c"}).fingerprint() != whole
    assert Pairs.load(write(valid="ann\t\n")).fingerprint() != whole
    assert Pairs.load(write(items=ITEMS.replace("d\t", "x\t"), train=FILES["train.tsv"].replace("d", "x"))).fingerprint() != whole


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("ann\ta\nbob c\n", "line 2: 1 columns, expected 2"),
        ("ann\ta\nbob\tzzz\n", "line 2: item 'zzz' is not in items.tsv"),
        ("ann\ta\nbob\tc\nann\tb\n", "line 3: user 'ann' stands in line 1 already"),
        ("ann\ta\nbob\tc c\n", "line 2: item 'c' of user 'bob' stands twice in that line; remove one of the two"),
        ("ann\ta\ncaf\xe9\tb\n".encode("latin-1"), "line 2: not UTF-8"),
        ("", "the file is empty"),
    ],
)
def test_bad_splits_are_named(write, split, content, problem):
    others = {name: "" if name == "train" else None for name in ("train", "valid", "test")}
    others |= {"train": "ann\td\nbob\td\n", "test": "ann\te\n", split: content}
    with pytest.raises(InputError, match=rf"{split}\.tsv(:|,) {problem}"):
        Pairs.load(write({"items.tsv": ITEMS}, **others))


def test_pairs_in_two_splits_are_refused(write):
    with pytest.raises(
        InputError, match=r"test.tsv, line 2: item 'd' of user 'ann' stands in train.tsv too; remove one of the two "
    ):
        Pairs.load(write(test="bob\tc\nann\td\n"))
    with pytest.raises(InputError, match=r"test.tsv, line 1: item 'a' of user 'ann' .*pairs that stand twice: 2"):
        Pairs.load(write(test="ann\tb a\n"))


def test_missing_tables_and_unknown_users(write, tmp_path):
    with pytest.raises(InputError, match=r"test.tsv, line 2: user 'eve' is not in train.tsv; give every user a train item"):
        Pairs.load(write(test="ann\tc\neve\ta\n"))
    (tmp_path / "test.tsv").unlink()
    with pytest.raises(InputError, match=r"test.tsv: no such file; scripts/prepare.py"):
        Pairs.load(tmp_path)
    with pytest.raises(InputError, match=r"split and have no order .train.tsv., which sequential models need; take a graph model"):
        Interactions.load(tmp_path)
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(InputError, match=r"neither train.tsv nor behaviours.tsv; scripts/prepare.py"):
        Pairs.load(tmp_path)


def test_many_users_need_no_loop(write):
    num_users, rng = 20_000, np.random.default_rng(0)
    items = np.argsort(rng.random((num_users, 50)), axis=1)[:, :8]
    lines = {
        split: "".join(f"u{u}\t{' '.join(f'i{n}' for n in row)}\n" for u, row in enumerate(items[:, part]))
        for split, part in {"train": slice(0, 5), "valid": slice(5, 6), "test": slice(6, 8)}.items()
    }
    pairs = Pairs.load(write({}, items="".join(f"i{n}\tthing\n" for n in range(50)), **lines))
    assert np.array_equal(pairs.train.items.reshape(num_users, 5), items[:, :5])
    assert np.array_equal(pairs.seen("test").items.reshape(num_users, 6), items[:, :6])
