import os
import resource

import polars as pl
import pytest

from odmt.errors import InputError
from odmt.prepare.layout import Cut, Dataset, new_folder, tidy
from odmt.sequential.interactions import Interactions


def histories(**users: str) -> pl.DataFrame:
    return pl.DataFrame({"user": list(users), "items": [items.split() for items in users.values()]})


def items(**texts: str) -> pl.DataFrame:
    return pl.DataFrame({"item": list(texts), "title": list(texts.values())})


def test_drops_in_the_order_of_the_specification(capsys):
    table = items(a="A", b="B", c="C", d="D", e="E", f="F", old="gone with the cut", no_text="", no_image="!", never="unseen")
    users = histories(
        long="old a b c d e f no_text a b",
        # 5 interactions, 4 with content: too short.
        content_short="a b c no_image d",
        unknown_short="a b c d nowhere",
        short="a b c",
        edge="a b c d e",
    )
    pictured = set(table["item"]) - {"no_image"}
    dataset = Dataset(users, table, pictured, Cut(min_length=5, last=6))
    assert dataset.histories.rows() == [("long", list("cdefab")), ("edge", list("abcde"))]
    assert dataset.item_ids == list("abcdef")
    assert dataset.dropped == {
        "items without text": 2,
        "items without image": 1,
        "users with fewer than 5 interactions": 3,
        "interactions older than their user's last 6": 3,
        "items left with no interaction": 1,
    }
    dataset.report("arts")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("dropped: 2 items without text, 1 items without image, 3 users")
    assert lines[3].split() == ["arts", "2", "6", "11", "5.500", "0.916667"]
    assert lines[4].split() == ["paper,", "Table", "1", "43,583", "58,900", "333,693", "7.656", "0.000130"]


def test_without_pictures_only_texts_count():
    dataset = Dataset(histories(u="a b c"), items(a="A", b="B", c="C"), None, Cut(3, 15))
    assert dataset.item_ids == ["a", "b", "c"]
    assert dataset.dropped == {}


def test_tables_that_name_items_differently():
    with pytest.raises(InputError, match="'a' for one, is among the items with texts, 'b' for one; do both tables"):
        Dataset(histories(u="a a a"), items(b="B"), None, Cut(3, 15))


def test_what_is_cut_off_is_counted():
    dataset = Dataset(histories(u="a b c a b", v="a b c"), items(a="A", b="B", c="C"), None, Cut(3, 4))
    assert dataset.dropped == {"interactions older than their user's last 4": 1}


def test_what_is_written_is_what_the_reader_reads(tmp_path):
    table = items(a='say "hi", twice', b="été 夏", c="'")
    Dataset(histories(u="a b c a", v="c b a"), table, None, Cut(3, 15)).write(tmp_path)
    read = Interactions.load(tmp_path, min_seq_len=3)
    assert read.user_ids == ["u", "v"]
    assert read.item_ids == ["a", "b", "c"]
    assert read.texts == ['say "hi", twice', "été 夏", "'"]
    assert read.items.tolist() == [1, 2, 3, 1, 3, 2, 1]
    assert sorted(os.listdir(tmp_path)) == ["behaviours.tsv", "items.tsv"]


@pytest.mark.parametrize("name", ["a b", "a/b", "a\u3000b", "..", "x" * 241, "a\tb"])
def test_item_names_that_cannot_be_file_names_are_refused(name):
    table = pl.DataFrame({"item": [name, "b", "c"], "title": ["A", "B", "C"]})
    users = pl.DataFrame({"user": ["u"], "items": [[name, "b", "c"]]})
    with pytest.raises(InputError, match="cannot be used"):
        Dataset(users, table, None, Cut(3, 15))


def test_user_names_with_tabs_are_refused():
    with pytest.raises(InputError, match=r"user 'a\\tb' cannot be used"):
        Dataset(histories(**{"a\tb": "a b c"}), items(a="A", b="B", c="C"), None, Cut(3, 15))


def test_no_user_left_tells_what_was_dropped():
    with pytest.raises(InputError, match="no user is left; dropped: 3 items without image, 1 users"):
        Dataset(histories(u="a b c"), items(a="A", b="B", c="C"), ["d"], Cut(3, 15))


@pytest.mark.parametrize("cut", [(2, 15), (5, 4)])
def test_cuts_that_leave_no_split_are_refused(cut):
    with pytest.raises(InputError, match="--min-length"):
        Cut(*cut)


def test_a_folder_appears_only_when_complete(tmp_path):
    out = tmp_path / "data" / "arts"
    with new_folder(out) as folder:
        (folder / "behaviours.tsv").write_text("x")
        assert not out.exists()
    assert os.listdir(out.parent) == ["arts"]
    assert (out / "behaviours.tsv").read_text() == "x"


def test_a_failure_leaves_nothing_behind(tmp_path):
    out = tmp_path / "arts"
    with pytest.raises(InputError, match=r"arts: not prepared: .*No such file"), new_folder(out) as folder:
        (folder / "behaviours.tsv").rename(folder / "items.tsv")
    assert os.listdir(tmp_path) == []


def test_a_disk_that_takes_no_more_is_named(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(InputError, match=r"arts: not prepared: .*File too large"), new_folder(tmp_path / "arts") as folder:
            Dataset(histories(u="a b c"), items(a="A", b="B", c="C"), None, Cut(3, 15)).write(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"not prepared: .*Not a directory"), new_folder(tmp_path / "file" / "arts"):
        pytest.fail("not reached")


def test_a_dataset_is_replaced_only_when_told_and_only_by_a_complete_one(tmp_path):
    out = tmp_path / "arts"
    with new_folder(out) as folder:
        (folder / "behaviours.tsv").write_text("old")
    with pytest.raises(InputError, match="holds a dataset already; remove it, choose another name"), new_folder(out):
        pytest.fail("not reached")
    with pytest.raises(KeyError), new_folder(out, overwrite=True) as folder:
        raise KeyError
    assert (out / "behaviours.tsv").read_text() == "old"
    with new_folder(out, overwrite=True) as folder:
        (folder / "behaviours.tsv").write_text("new")
    assert (out / "behaviours.tsv").read_text() == "new"
    assert os.listdir(tmp_path) == ["arts"]


def test_what_a_killed_run_left_is_cleared(tmp_path):
    (tmp_path / "arts.partial").mkdir()
    (tmp_path / "arts.partial" / "items.tsv").write_text("half")
    with new_folder(tmp_path / "arts") as folder:
        (folder / "behaviours.tsv").write_text("x")
    assert os.listdir(tmp_path) == ["arts"]
    assert os.listdir(tmp_path / "arts") == ["behaviours.tsv"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "arts").write_text("x")
    with pytest.raises(InputError, match="a file; --out names the folder"), new_folder(tmp_path / "arts"):
        pytest.fail("not reached")


def test_other_folders_are_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds other files already; choose another name"), new_folder(tmp_path, overwrite=True):
        pytest.fail("not reached")
    assert (tmp_path / "thesis.tex").exists()


def test_tidy():
    assert tidy(" a\tb\r\n\x00c \u2028\u3000 d ") == "a b c d"
