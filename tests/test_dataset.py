import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from odmt.errors import InputError
from odmt.features.dataset import find_dataset, may_be_cut, read_record
from odmt.features.item_table import read_items
from odmt.graph.pairs import Pairs
from odmt.prepare.accept import accept
from odmt.prepare.csv_tables import csv
from odmt.prepare.new_folder import new_folder
from odmt.sequential.interactions import Interactions


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u{user},{item},{n}\n" for user in range(9) for n, item in enumerate("abcde"))
    )
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{item},{item.upper()}\n" for item in "abcdef"))
    csv(tmp_path / "events.csv", tmp_path / "items.csv", tmp_path / "data" / "mine")
    return tmp_path / "data" / "mine"


def test_what_is_recorded(folder):
    record = json.loads((folder / "dataset.json").read_text())
    assert (record["users"], record["items"], record["interactions"], record["dropped"]) == (9, 5, 45, {})
    assert record["tables"]["behaviours.tsv"]["lines"] == 9
    assert record["tables"]["behaviours.tsv"]["bytes"] == (folder / "behaviours.tsv").stat().st_size
    assert set(record["tables"]) == {"behaviours.tsv", "items.tsv"}
    source = record["source"]
    assert (source["command"], source["arguments"]["min_length"], source["arguments"]["images"]) == ("csv", 5, None)
    assert source["files"]["interactions"]["bytes"] == (folder.parent.parent / "events.csv").stat().st_size


def test_whether_interactions_were_left_out_is_known(folder):
    assert not may_be_cut(folder)
    csv(Path("events.csv"), Path("items.csv"), Path("data/short"), min_length=3, last=4)
    assert may_be_cut(Path("data/short"))
    (folder / "dataset.json").unlink()
    assert may_be_cut(folder), "nothing is known"


def test_a_table_that_was_cut_off_is_refused(folder):
    path = folder / "behaviours.tsv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:6]))
    match = r"behaviours.tsv: not as it was prepared: 6 lines of 78 bytes in all, which were 9 lines and 117 bytes\..*accept"
    for reader in (Interactions.load, lambda folder: Pairs.load(folder, leave_one_out=True)):
        with pytest.raises(InputError, match=match):
            reader(folder)
    path.write_text("".join([lines[0].replace("a b", "b a"), *lines[1:]]))
    with pytest.raises(InputError, match=r"other content in as many lines \(9\) and bytes"):
        Interactions.load(folder)
    path.write_text("")
    with pytest.raises(InputError, match="0 lines of 0 bytes"):
        Interactions.load(folder)


def test_items_are_compared_too(folder):
    (folder / "items.tsv").write_text("a\tA\nb\tB\nc\tC\nd\tD\n")
    with pytest.raises(InputError, match=r"items.tsv: not as it was prepared: 4 lines"):
        read_items(folder / "items.tsv")


def test_an_edited_table_is_accepted(folder, capsys):
    lines = (folder / "behaviours.tsv").read_text().splitlines(keepends=True)
    (folder / "behaviours.tsv").write_text("".join(lines[:4]))
    accept(Path("mine"))
    assert "accepted with 4 users, 5 items, 20 interactions" in capsys.readouterr().out
    assert Interactions.load(folder).num_users == 4
    record = read_record(folder)
    assert (record["users"], record["accepted"], record["source"]["command"]) == (4, True, "csv")


def test_a_table_that_cannot_be_read_is_not_accepted(folder):
    before = (folder / "dataset.json").read_bytes()
    (folder / "behaviours.tsv").write_text("u\ta b nowhere\n")
    with pytest.raises(InputError, match=r"behaviours.tsv, line 1: item 'nowhere' is not in items.tsv"):
        accept(folder)
    assert (folder / "dataset.json").read_bytes() == before


def test_a_dataset_without_a_record_is_read_as_it_is(folder):
    (folder / "dataset.json").unlink()
    (folder / "behaviours.tsv").write_text("u\ta b c d e\n")
    assert Interactions.load(folder).num_users == 1
    accept(folder)
    (folder / "behaviours.tsv").write_text("u\ta b c d e a\n")
    with pytest.raises(InputError, match="not as it was prepared"):
        Interactions.load(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"tables": 3}', b'{"tables": {"items.tsv": {"lines": 1}}}', b"\xff", b"[" * 9999]
)
def test_a_damaged_record_is_named(folder, content):
    (folder / "dataset.json").write_bytes(content)
    with pytest.raises(InputError, match=r"dataset.json: damaged .*prepare.py accept --dataset"):
        Interactions.load(folder)
    accept(folder)
    assert Interactions.load(folder).num_users == 9


def test_a_dataset_is_found_by_its_name(folder):
    assert find_dataset(Path("mine")) == Path("data/mine")
    assert find_dataset(Path("data/mine")) == Path("data/mine")
    assert find_dataset(folder) == folder
    with pytest.raises(InputError, match=r"^data/yours: no such dataset; scripts/prepare.py makes one"):
        find_dataset(Path("yours"))
    for misspelt in ("mien", "data/mien"):
        with pytest.raises(InputError, match=r"^data/mien: no such dataset; did you mean mine\?"):
            find_dataset(Path(misspelt))


def test_a_name_that_two_folders_have_is_refused(folder):
    here = folder.parents[1] / "mine"
    here.symlink_to(folder)
    assert find_dataset(Path("mine")).samefile(folder), "one folder, found twice"
    here.unlink()
    here.mkdir()
    with pytest.raises(InputError, match=rf"^mine: names two folders; .* is meant: {here} or data/mine$"):
        find_dataset(Path("mine"))
    assert find_dataset(here) == here
    assert find_dataset(Path("data/mine")) == Path("data/mine")
    assert find_dataset(Path("..")) == Path(".."), "no name"


def test_what_cannot_be_read_is_said_without_a_traceback(folder):
    code = (
        "import os, sys; from odmt.cli import report_mistakes; from odmt.sequential.interactions import Interactions\n"
        "with report_mistakes(): Interactions.load('data/mine')"
    )
    for name in ("behaviours.tsv", "items.tsv", "dataset.json"):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).symlink_to(name)  # a loop, which not even root can open
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder.parent.parent)
        (folder / name).unlink()
        (folder / name).write_bytes(content)
        assert done.returncode == 2
        assert done.stderr.startswith("error: data/mine/") or "no such file" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_place_that_is_read_only_is_called_so(tmp_path, monkeypatch):
    """Root may write anywhere, so the operating system's answer is put in its mouth."""

    def refuse(*_, **__):
        raise OSError(30, os.strerror(30), "data/mine.partial")

    monkeypatch.setattr(Path, "mkdir", refuse)
    match = r"Read-only file system .*; the place is read only: name another one"
    with pytest.raises(InputError, match=match) as caught, new_folder(tmp_path / "mine"):
        pytest.fail("not reached")
    assert "make room" not in str(caught.value)
