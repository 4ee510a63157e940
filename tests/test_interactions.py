"""Reading a dataset's tables: windows, splits, numbering, popularity, and what every kind of bad input is told."""

import numpy as np
import pytest

from odmt.errors import InputError
from odmt.features import behaviours as module
from odmt.features.item_table import read_items
from odmt.sequential.interactions import Interactions

ITEMS = "a\tRed Shoe\tAcme\nb\tBlue Shoe\tAcme\nc\tGreen HAT\tBolt\nd\tBlack Hat\tBolt\n"
BEHAVIOURS = "ann\ta b c a b\nbob\tb c d\ncat\tc c c c d b\n"


@pytest.fixture
def write(tmp_path):
    """Write the two tables, as text or bytes; returns their folder."""

    def write(behaviours=BEHAVIOURS, items=ITEMS):
        for name, content in {"behaviours.tsv": behaviours, "items.tsv": items}.items():
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path

    return write


def windows(interactions: Interactions) -> dict[str, str]:
    """The windows in the items' names."""
    names = [interactions.item_ids[number - 1] for number in interactions.items]
    ends = interactions.offsets
    return {user: " ".join(names[ends[u] : ends[u + 1]]) for u, user in enumerate(interactions.user_ids)}


def test_items_are_numbered_in_the_order_of_their_table(write):
    interactions = Interactions.load(write("ann\td c a b d\n"), min_seq_len=5)
    assert interactions.item_ids == ["a", "b", "c", "d"]
    assert interactions.items.tolist() == [4, 3, 1, 2, 4]
    assert interactions.items.dtype == np.int32


def test_text_is_the_fields_joined_and_lower_cased(write):
    names, texts = read_items(write() / "items.tsv")
    assert names == ["a", "b", "c", "d"]
    assert texts == ["red shoe acme", "blue shoe acme", "green hat bolt", "black hat bolt"]


def test_short_users_are_dropped_then_items_without_interaction(write):
    interactions = Interactions.load(write("ann\ta b a b a\nbob\tb c d\n"), min_seq_len=5)
    assert interactions.user_ids == ["ann"]
    assert interactions.item_ids == ["a", "b"]
    assert interactions.texts == ["red shoe acme", "blue shoe acme"]


def test_windows_keep_the_last_interactions(write):
    folder = write("ann\ta a a b c d\nbob\tb c d a b\n")
    interactions = Interactions.load(folder, max_seq_len=2, min_seq_len=5)  # windows of L + 3 = 5
    assert windows(interactions) == {"ann": "a a b c d", "bob": "b c d a b"}


def test_length_counts_before_the_window_is_cut(write):
    folder = write("ann\ta b c d a b c d\nbob\ta b c d a b\n")
    interactions = Interactions.load(folder, max_seq_len=2, min_seq_len=7)
    assert windows(interactions) == {"ann": "d a b c d"}


def test_leave_one_out(write):
    interactions = Interactions.load(write("ann\ta b c d a b\nbob\td c b a d\n"), max_seq_len=3, min_seq_len=5)
    users = np.array([1, 0])

    def named(part):
        flat, lengths = part
        rows = np.split(flat, np.cumsum(lengths)[:-1])
        return [" ".join(interactions.item_ids[number - 1] for number in row) for row in rows]

    assert named(interactions.histories(users, "train")) == ["d c b", "a b c d"]
    assert named(interactions.histories(users, "valid")) == ["d c b", "a b c d"]
    assert named(interactions.histories(users, "test")) == ["d c b a", "a b c d a"]
    assert named(interactions.inputs(users, "valid")) == ["d c b", "b c d"]
    assert named(interactions.inputs(users, "test")) == ["c b a", "c d a"]
    assert [interactions.item_ids[number - 1] for number in interactions.targets("valid")] == ["a", "a"]
    assert [interactions.item_ids[number - 1] for number in interactions.targets("test")] == ["b", "d"]


def test_popularity_counts_the_training_parts(write):
    interactions = Interactions.load(write("ann\ta a b c d\nbob\ta b b c a\n"), min_seq_len=5)
    # Training parts: a a b, a b b; c and d are held out only.
    assert interactions.train_counts().tolist() == [0, 3, 3, 0, 0]
    assert interactions.popularity().tolist() == [1, 3 / 6, 3 / 6, 0, 0]


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0])
def test_popularity_to_a_power(write, power):
    interactions = Interactions.load(write("ann\ta a a a b c d\n"), min_seq_len=5)  # training part: a a a a b
    weights = np.array([4.0, 1.0]) ** power
    np.testing.assert_allclose(interactions.popularity(power), [1, *(weights / weights.sum()), 0, 0])


def test_items_can_be_left_out(write):
    folder = write("ann\ta b c d a b\nbob\ta b c b a\n")
    interactions = Interactions.load(folder, min_seq_len=5, without={"d", "unheard of"})
    assert interactions.item_ids == ["a", "b", "c"]
    assert windows(interactions) == {"ann": "a b c a b", "bob": "a b c b a"}
    assert Interactions.load(folder, min_seq_len=5, without={"c"}).user_ids == ["ann"]


def test_windows_line_ends_and_a_missing_last_one(write):
    folder = write(BEHAVIOURS.replace("\n", "\r\n").rstrip(), ITEMS.replace("\n", "\r\n").rstrip())
    interactions = Interactions.load(folder, min_seq_len=3)
    assert windows(interactions) == {"ann": "a b c a b", "bob": "b c d", "cat": "c c c c d b"}
    assert interactions.texts[3] == "black hat bolt"


def test_byte_order_marks_are_no_part_of_names(write):
    interactions = Interactions.load(write("\ufeffann\ta b a\n", "\ufeffa\tx\nb\ty\n"), min_seq_len=3)
    assert interactions.user_ids == ["ann"]
    assert interactions.item_ids == ["a", "b"]


def test_blocks_of_lines_make_no_difference(write, monkeypatch):
    rng = np.random.default_rng(0)
    lines = [f"user{u}\t{' '.join(rng.choice(list('abcd'), rng.integers(1, 12)))}" for u in range(50)]
    folder = write("\n".join(lines) + "\n")
    whole = Interactions.load(folder, max_seq_len=4, min_seq_len=3)
    assert 20 < whole.num_users < 50
    for block in (1, 7, 49):
        monkeypatch.setattr(module, "BLOCK", block)
        parts = Interactions.load(folder, max_seq_len=4, min_seq_len=3)
        assert parts.user_ids == whole.user_ids
        np.testing.assert_array_equal(parts.items, whole.items)
        np.testing.assert_array_equal(parts.offsets, whole.offsets)


def test_real_looking_names(write):
    """Names are strings: quotes, leading zeros and other alphabets stay as they are."""
    folder = write('"ann"\t007 #1 名前 "x"\n', '007\t"quoted" text\n#1\tb\n名前\t文字\n"x"\td\n')
    interactions = Interactions.load(folder, min_seq_len=3)
    assert interactions.user_ids == ['"ann"']
    assert interactions.item_ids == ["007", "#1", "名前", '"x"']
    assert interactions.texts[:3] == ['"quoted" text', "b", "文字"]


BAD_ITEMS = {
    "duplicate": ("a\tx\nb\ty\na\tz\n", 3, "item 'a' stands in line 1 already", "remove one"),
    "fewer columns": ("a\tx\ty\nb\tz\n", 2, "2 columns, expected 3 as in line 1", "separate columns by one tab"),
    "more columns": ("a\tx\nb\ty\tz\n", 2, "3 columns, expected 2 as in line 1", "separate columns by one tab"),
    "one column": ("a\nb\n", 1, "1 columns, expected 2 or more", "item<TAB>field"),
    "blank line": ("a\tx\n\nb\ty\n", 2, "1 columns, expected 2", "separate columns by one tab"),
    "not UTF-8": ("a\tx\nb\tcafé\n".encode("latin-1"), 2, "not UTF-8", "iconv"),
    "no text": ("a\tx\ty\nb\t\t \n", 2, "item 'b' has no text", "remove the item"),
    "no name": ("a\tx\n\ty\n", 2, "'' is no item name", "not empty"),
    "blank in a name": ("a\tx\nb c\ty\n", 2, "'b c' is no item name", "no blanks"),
}
BAD_BEHAVIOURS = {
    "unknown item": ("ann\ta b c\nbob\tb zzz c\n", 2, "item 'zzz' is not in items.tsv", "add it there or remove it here"),
    "duplicate user": ("ann\ta b c\nbob\tb c d\nann\tc d a\n", 3, "user 'ann' stands in line 1 already", "join the two lines"),
    "one column": ("ann\ta b c\nbob a b\n", 2, "1 columns, expected 2", "user<TAB>item item"),
    "three columns": ("ann\ta b c\nbob\ta\tb\n", 2, "3 columns, expected 2", "separated by blanks"),
    "blank line": ("ann\ta b c\n\nbob\ta b c\n", 2, "1 columns, expected 2", "user<TAB>item item"),
    "not UTF-8": ("ann\ta b c\nbjørn\ta b c\n".encode("latin-1"), 2, "not UTF-8", "iconv"),
}


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_bad_item_table(write, case):
    content, line, problem, remedy = BAD_ITEMS[case]
    folder = write(items=content)
    with pytest.raises(InputError) as error:
        Interactions.load(folder, min_seq_len=3)
    assert_tells(error, folder / "items.tsv", line, problem, remedy)


@pytest.mark.parametrize("case", BAD_BEHAVIOURS)
def test_bad_behaviours(write, case):
    content, line, problem, remedy = BAD_BEHAVIOURS[case]
    folder = write(content)
    with pytest.raises(InputError) as error:
        Interactions.load(folder, min_seq_len=3)
    assert_tells(error, folder / "behaviours.tsv", line, problem, remedy)


def assert_tells(error, path, line: int, problem: str, remedy: str):
    message = str(error.value)
    assert isinstance(error.value, ValueError)
    assert message.startswith(f"{path}, line {line}: ")
    assert problem in message
    assert remedy in message


def test_unknown_item_after_the_first_block(write, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2)
    with pytest.raises(InputError, match=r"behaviours.tsv, line 4: item 'zzz' is not"):
        Interactions.load(write("ann\ta b c\nbob\tb a c\ncat\ta b c\ndan\ta zzz\n"), min_seq_len=3)


@pytest.mark.parametrize("name", ["behaviours.tsv", "items.tsv"])
def test_empty_and_missing_files(write, name):
    folder = write()
    (folder / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{name}: the file is empty; make it again"):
        Interactions.load(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: no such file; scripts/prepare.py"):
        Interactions.load(folder)


def test_no_user_left(write):
    with pytest.raises(InputError, match=r"behaviours.tsv: none of 3 users has 9 interactions; lower data.min_seq_len"):
        Interactions.load(write(), min_seq_len=9)


def test_a_user_without_items_is_dropped(write):
    assert windows(Interactions.load(write("ann\ta b c\nbob\t\n"), min_seq_len=3)) == {"ann": "a b c"}
