import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from odmt.errors import InputError
from odmt.prepare.layout import Cut, Dataset, tidy
from odmt.prepare.new_folder import new_folder
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
        "items that are not in the item table": 1,
        "items without text": 1,
        "items without image": 1,
        "users with fewer than 5 interactions": 3,
        "interactions older than their user's last 6": 3,
        "items left with no interaction": 1,
    }
    dataset.report("arts")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "dropped: 1 items that are not in the item table ('nowhere' for one; it has 'never' for one, which is not looked for), "
        "1 items without text, 1 items without image ('no_image' for one), 3 users"
    )
    assert lines[3].split() == ["arts", "2", "6", "11", "5.500", "0.916667"]
    assert lines[4].split() == ["paper,", "Table", "1", "43,583", "58,900", "333,693", "7.656", "0.000130"]


def test_without_pictures_only_texts_count():
    dataset = Dataset(histories(u="a b c"), items(a="A", b="B", c="C"), None, Cut(3, 15))
    assert dataset.item_ids == ["a", "b", "c"]
    assert dataset.dropped == {}


def test_tables_that_name_items_differently():
    with pytest.raises(InputError, match=r"none of the 1 items .* is in the item table: 'a' for one; it has 'b' for one"):
        Dataset(histories(u="a a a"), items(b="B"), None, Cut(3, 15))


def test_what_is_cut_off_is_counted():
    dataset = Dataset(histories(u="a b c a b", v="a b c"), items(a="A", b="B", c="C"), None, Cut(3, 4))
    assert dataset.dropped == {"interactions older than their user's last 4": 1}


def test_what_is_written_is_what_the_reader_reads(tmp_path):
    table = items(a='say "hi", twice', b="été 夏", c="'")
    Dataset(histories(u="a b c a", v="c b a"), table, None, Cut(3, 15)).write(tmp_path, {"command": "test"})
    read = Interactions.load(tmp_path, min_seq_len=3)
    assert read.user_ids == ["u", "v"]
    assert read.item_ids == ["a", "b", "c"]
    assert read.texts == ['say "hi", twice', "été 夏", "'"]
    assert read.items.tolist() == [1, 2, 3, 1, 3, 2, 1]
    assert sorted(os.listdir(tmp_path)) == ["behaviours.tsv", "dataset.json", "items.tsv"]


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
    with pytest.raises(InputError, match=r"no user is left; dropped: 2 items without image \('b' for one; .* has 'd'.*\), 1 users"):
        Dataset(histories(u="a b c"), items(a="A", b="B", c="C"), ["a", "d"], Cut(3, 15))
    with pytest.raises(InputError, match=r"none of the 3 items with interactions and text has an image: 'a' for one; .* has 'd'"):
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
        match = r"items.tsv: cannot be written .*File too large.*ulimit"
        with pytest.raises(InputError, match=match), new_folder(tmp_path / "arts") as folder:
            Dataset(histories(u="a b c"), items(a="A", b="B", c="C"), None, Cut(3, 15)).write(folder, {})
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


def test_what_somebody_else_made_is_not_removed(tmp_path):
    out, backup = tmp_path / "arts", tmp_path / "arts.replaced"
    write_dataset(out)
    (out / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"beside the dataset the folder holds 'thesis.tex', which --overwrite would remove"):
        write_dataset(out, overwrite=True)
    (out / "thesis.tex").rename(tmp_path / "thesis.tex")
    write_dataset(backup_made_by_hand := tmp_path / "copy")
    backup_made_by_hand.rename(backup)
    with pytest.raises(InputError, match=r"arts.replaced: in the way of --overwrite, and not made by it; move it away"):
        write_dataset(out, overwrite=True)
    assert sorted(os.listdir(backup)) == ["behaviours.tsv", "dataset.json", "items.tsv"]
    backup.rename(tmp_path / "arts.partial")
    with pytest.raises(InputError, match=r"arts.partial: in the way, and not made by a command that was killed"):
        write_dataset(out, overwrite=True)
    with pytest.raises(InputError, match=r"names that end in .partial are kept"):
        write_dataset(tmp_path / "arts.partial", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["arts", "arts.partial", "thesis.tex"]


def test_the_old_dataset_gets_its_name_back_after_a_kill_between_the_renames(tmp_path):
    out = tmp_path / "arts"
    write_dataset(out)
    out.rename(tmp_path / "arts.replaced")
    # Whatever happens in the next start, here a mistake, the old dataset is there again.
    with pytest.raises(InputError, match="mistake"), new_folder(out, overwrite=True):
        raise InputError("mistake")
    assert os.listdir(tmp_path) == ["arts"]
    assert sorted(os.listdir(out)) == ["behaviours.tsv", "dataset.json", "items.tsv"]
    out.rename(tmp_path / "arts.replaced")
    with pytest.raises(InputError, match="holds a dataset already"):
        write_dataset(out)
    assert os.listdir(tmp_path) == ["arts"]


DYING = """
import os, shutil, sys
from pathlib import Path
from odmt.prepare.new_folder import new_folder

def counted(function):
    def call(*args, **kwargs):
        global left
        left -= 1
        if not left:
            os._exit(9)
        return function(*args, **kwargs)
    return call

for left in range(1, 20):
    child = os.fork()
    if child:
        print(os.waitpid(child, 0)[1], flush=True)
        input()  # until what the child has left has been looked at
        continue
    for name in ("rename", "unlink", "touch"):
        setattr(Path, name, counted(getattr(Path, name)))
    shutil.rmtree = counted(shutil.rmtree)
    with new_folder(Path(sys.argv[1]), overwrite=True) as folder:
        (folder / "behaviours.tsv").write_text("new")
    os._exit(0)
"""


def test_killed_at_any_rename_nothing_is_lost(tmp_path):
    """A process that dies at each of its renames and removals in turn leaves the old dataset or the new one, whole."""
    out = tmp_path / "arts"
    command = [sys.executable, "-c", DYING, out]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        left = []
        while not left or left[-1][0] != "0":
            shutil.rmtree(out, ignore_errors=True)
            with new_folder(out) as folder:
                (folder / "behaviours.tsv").write_text("old")
            if left:
                process.stdin.write("\n")
                process.stdin.flush()
            status = process.stdout.readline().strip()
            with pytest.raises(InputError, match="mistake"), new_folder(out, overwrite=True):
                raise InputError("mistake")
            assert os.listdir(tmp_path) == ["arts"]
            left.append((status, (out / "behaviours.tsv").read_text()))
        process.stdin.close()
    assert [text for _, text in left] == sorted((text for _, text in left), key=["old", "new"].index)
    assert {"old", "new"} == {text for _, text in left}


def test_two_at_once(tmp_path):
    out = tmp_path / "arts"
    with new_folder(out) as folder:
        with pytest.raises(InputError, match=r"arts.partial: another process is preparing this dataset"), new_folder(out):
            pytest.fail("not reached")
        (folder / "behaviours.tsv").write_text("x")
    assert os.listdir(out) == ["behaviours.tsv"]


def test_of_a_link_the_folder_behind_it_is_replaced(tmp_path):
    write_dataset(tmp_path / "disk" / "arts")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "arts").symlink_to(tmp_path / "disk" / "arts")
    write_dataset(tmp_path / "data" / "arts", "new", overwrite=True)
    assert Interactions.load(tmp_path / "data" / "arts", min_seq_len=3).user_ids == ["new"]
    assert (os.listdir(tmp_path / "data"), os.listdir(tmp_path / "disk")) == (["arts"], ["arts"])


def write_dataset(out: Path, user: str = "u", overwrite: bool = False):
    with new_folder(out, overwrite) as folder:
        Dataset(histories(**{user: "a b c"}), items(a="A", b="B", c="C"), None, Cut(3, 15)).write(folder, {})


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
    assert tidy("Soft\u00adware \u200eB\u00e4r\u200bchen\u2060") == "Software B\u00e4rchen"
    assert tidy(" a\tb\r\n\x00c \u2028\u3000 d ") == "a b c d"
