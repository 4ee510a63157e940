"""The official folder of SGFD as a graph dataset, and what is said about every kind of bad input."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from odmt.errors import InputError
from odmt.features.labels import read_labels
from odmt.features.store import FeatureStore
from odmt.graph.pairs import Pairs
from odmt.prepare.sgfd import sgfd
from odmt.prepare.splits import hold_out

SHARED = Path(os.environ.get("ODMT_SHARED", Path(__file__).parents[2] / "shared"))

TRAIN = [(0, 0), (1, 0), (2, 0), (0, 1), (3, 1), (1, 2)]  # item, user
TEST = [(4, 0), (2, 1)]


def write_pairs(path: Path, pairs, header: str = "itemID,userID,reviewerID,asin"):
    rows = [f"{item},{user},R{user},B0{item}" if "asin" in header else f"{item},{user}" for item, user in pairs]
    path.write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture
def raw(tmp_path):
    """The folder of 5 items and 3 users, all files but the table of texts."""
    folder = tmp_path / "Tiny"
    folder.mkdir()
    write_pairs(folder / "train.csv", TRAIN)
    write_pairs(folder / "test.csv", TEST)
    np.save(folder / "MetaData_normal.npy", np.array([0, 1, 2, 1, 0]))
    rng = np.random.default_rng(0)
    np.save(folder / "FeatureImage_normal.npy", rng.normal(size=(7, 6)))  # rows beyond the items
    np.save(folder / "FeatureText_normal.npy", rng.normal(size=(5, 3)).astype(np.float32))
    return folder


def test_the_whole_folder(raw, capsys):
    out = raw.parent / "tiny"
    sgfd(raw, out)
    pairs = Pairs.load(out)
    assert pairs.user_ids == ["0", "1", "2"]
    assert pairs.item_ids == ["0", "1", "2", "3", "4"]
    assert pairs.texts == ["b00", "b01", "b02", "b03", "b04"]
    assert pairs.test.items.tolist() == [4, 2]
    # Of 3, 2 and 1 train items a tenth, rounded: one, one, none.
    assert pairs.valid.counts.tolist() == [1, 1, 0]
    assert pairs.train.counts.tolist() == [2, 1, 1]
    together = sorted(zip(pairs.seen("test").items.tolist(), pairs.seen("test").users.tolist()))
    assert together == sorted(TRAIN)
    labels = read_labels(out / "labels.tsv", pairs.item_ids)
    assert (labels.numbers.tolist(), labels.names) == ([0, 1, 2, 1, 0], ["0", "1", "2"])
    with FeatureStore(out / "features" / "image") as store:
        assert (store.header.width, store.header.max_tokens, store.header.dtype, len(store)) == (6, 1, "float16", 5)
        np.testing.assert_array_equal(store.read("3"), np.load(raw / "FeatureImage_normal.npy")[3:4].astype(np.float16))
    printed = capsys.readouterr().out
    assert "FeatureImage_normal.npy: 2 rows of other items left out" in printed
    row = next(line for line in printed.splitlines() if line.startswith("tiny")).split()
    assert row == ["tiny", "3", "5", "8", "4", "2", "2", "3", "46.6667%"]


def test_only_the_tables(raw):
    for name in ("MetaData_normal.npy", "FeatureImage_normal.npy", "FeatureText_normal.npy"):
        (raw / name).unlink()
    for name, pairs in {"train": TRAIN, "test": TEST}.items():
        write_pairs(raw / f"{name}.csv", pairs, "itemID,userID")
    out = raw.parent / "tiny"
    sgfd(raw, out, validation="none")
    assert sorted(os.listdir(out)) == ["dataset.json", "items.tsv", "test.tsv", "train.tsv"]
    assert Pairs.load(out).train.items.tolist() == [0, 1, 2, 0, 3, 1]


def test_features_in_single_precision_on_request(raw):
    np.save(raw / "FeatureText_normal.npy", np.full((5, 3), 1e6))
    with pytest.raises(
        InputError, match=r"FeatureText_normal.npy: item '0' has the value 1e\+06, which float16 cannot hold; .*--dtype"
    ):
        sgfd(raw, raw.parent / "tiny")
    sgfd(raw, raw.parent / "tiny", dtype="float32")
    with FeatureStore(raw.parent / "tiny" / "features" / "text") as store:
        assert store.read("4").tolist() == [[1e6] * 3]


def test_texts_and_categories(raw):
    rows = ["itemID,asin,text,category", *(f"{n},B0{n},Thing  {n},kind {n % 2}" for n in (4, 3, 2, 1, 0, 9))]
    (raw / "items.csv").write_text("\n".join(rows))
    sgfd(raw, raw.parent / "both")
    assert Pairs.load(raw.parent / "both").texts[4] == "thing 4"
    assert read_labels(raw.parent / "both" / "labels.tsv", ["0"]).names == ["0", "1", "2"]  # of the label file
    (raw / "MetaData_normal.npy").unlink()
    other = raw / "titles.csv"
    other.write_text("\n".join(rows).replace("Thing", "Title"))
    sgfd(raw, raw.parent / "table", items=other)
    assert Pairs.load(raw.parent / "table").texts[0] == "title 0"
    assert read_labels(raw.parent / "table" / "labels.tsv", ["0", "1"]).names == ["kind 0", "kind 1"]


def test_what_is_held_out():
    pairs = pl.DataFrame({"user": ["a"] * 30 + ["b"] * 14 + ["c"] * 2 + ["d"], "item": range(47)})
    remains, drawn = hold_out(pairs, 0.1, seed=1)
    assert drawn["user"].value_counts().sort("user").rows() == [("a", 3), ("b", 1), ("c", 1)]
    assert sorted([*remains["item"], *drawn["item"]]) == list(range(47))
    assert hold_out(pairs, 0.1, seed=1)[1].equals(drawn)
    assert not hold_out(pairs, 0.1, seed=2)[1].equals(drawn)
    assert hold_out(pairs, 0.9, seed=1)[0]["user"].value_counts().sort("user").rows() == [("a", 3), ("b", 1), ("c", 1), ("d", 1)]
    assert len(hold_out(pairs, 0, seed=1)[1]) == 0
    places = np.concatenate([hold_out(pairs[:30], 0.1, seed=seed)[1]["item"] for seed in range(500)])
    assert np.bincount(places).min() > 20  # every item of a user is drawn, about 50 times each
    with pytest.raises(InputError, match=r"a share of 1.5 cannot be held out"):
        hold_out(pairs, 1.5, 1)


def lines(*rows: str) -> bytes:
    return "\n".join(["itemID,userID,reviewerID,asin", *rows]).encode()


GOOD = ("0,0,R,B", "1,0,R,B", "2,0,R,B", "0,1,R,B", "3,1,R,B", "1,2,R,B")
BAD = {
    "item is no integer": (
        {"train.csv": lines("0,0,R,B", "x7,0,R,B")},
        r"train.csv, line 3: no valid itemID .a whole number from 0.",
    ),
    "item is a fraction": ({"train.csv": lines("0,0,R,B", "1.5,0,R,B")}, "train.csv, line 3: no valid itemID"),
    "item is negative": ({"test.csv": lines("4,0,R,B", "2,1,R,B", "-1,1,R,B")}, "test.csv, line 4: no valid itemID"),
    "user is no integer": ({"train.csv": lines("0,,R,B")}, "train.csv, line 2: no valid userID"),
    "no such column": ({"test.csv": b"item,userID\n4,0\n"}, "test.csv, line 1: no column 'itemID'"),
    "no row": ({"test.csv": lines()}, "test.csv: no row that can be read"),
    "empty": ({"train.csv": b""}, "train.csv: the file is empty"),
    "missing": ({"train.csv": None}, "train.csv: no such file"),
    "fewer columns": ({"train.csv": lines(*GOOD, "4,2")}, "train.csv, line 8: "),
    "pair in both files": (
        {"test.csv": lines("4,0,R,B", "3,1,R,B")},
        r"test.csv, line 3: user 1 and item 3 stand in line 6 of train.csv",
    ),
    "pair twice": (
        {"train.csv": lines(*GOOD, "1,2,R,B")},
        r"train.csv, line 8: .* in line 7 of train.csv already; .*stand twice: 1\)",
    ),
    "gap in the items": (
        {"test.csv": lines("6,0,R,B", "2,1,R,B")},
        r"Tiny: itemID 4 stands in neither .*6 is the highest .2 are missing",
    ),
    "items from 1": (
        {"train.csv": lines(*(f"{n + 1},{n},R,B" for n in range(4))), "test.csv": lines("5,0,R,B")},
        "itemID 0 stands in",
    ),
    "gap in the users": ({"train.csv": lines(*GOOD, "1,4,R,B")}, r"userID 3 stands in neither .*4 is the highest .1 are missing"),
    "user without train rows": (
        {"test.csv": lines("4,0,R,B", "2,3,R,B")},
        r"test.csv: user 3 has no row in train.csv .1 such users",
    ),
    "labels fewer than items": ({"MetaData_normal.npy": np.arange(4)}, "MetaData_normal.npy: 4 labels, but 5 items"),
    "labels with gaps": ({"MetaData_normal.npy": np.array([0, 1, 3, 1, 0])}, "3 labels from 0 to 3, without 2; they go from 0"),
    "labels from 1": ({"MetaData_normal.npy": np.array([1, 2, 3, 1, 2])}, "from 1 to 3, without 0"),
    "negative labels": ({"MetaData_normal.npy": np.array([0, 1, -1, 1, 0])}, "from -1 to 1"),
    "labels not whole": ({"MetaData_normal.npy": np.array([0, 0.5, 1, 1, 0])}, "labels are whole numbers, .*float64"),
    "labels not finite": ({"MetaData_normal.npy": np.array([0, np.nan, 1, 1, 0])}, "labels are whole numbers"),
    "labels of a table": (
        {"MetaData_normal.npy": np.zeros((5, 2), int)},
        r"an array of shape \[5, 2\]; expected one label an item",
    ),
    "labels that are objects": (
        {"MetaData_normal.npy": np.array([0, "a", None], object)},
        "cannot be read: an object array, .*unpickled",
    ),
    "labels that are words": ({"MetaData_normal.npy": np.array(list("abcde"))}, "labels are whole numbers"),
    "features that are objects": (
        {"FeatureImage_normal.npy": np.array([None] * 5, object)},
        "FeatureImage_normal.npy: .*object array",
    ),
    "too few rows": ({"FeatureText_normal.npy": np.ones((4, 3))}, "FeatureText_normal.npy: 4 rows, but the highest itemID is 4"),
    "not finite": (
        {"FeatureText_normal.npy": np.array([[1.0]] * 3 + [[np.inf], [1]])},
        "item '3' has 1 values that are not finite, inf",
    ),
    "features that are no floats": (
        {"FeatureText_normal.npy": np.ones((5, 3), int)},
        "FeatureText_normal.npy: values of type int64",
    ),
    "features of one dimension": ({"FeatureText_normal.npy": np.ones(5)}, r"FeatureText_normal.npy: an array of shape \[5\]"),
    "tokens": ({"FeatureText_normal.npy": np.ones((5, 3, 2))}, "FeatureText_normal.npy: 3 tokens an item"),
    "a pickle": ({"MetaData_normal.npy": pickle.dumps([0, 1])}, "MetaData_normal.npy: cannot be read"),
    "cut off": ({"FeatureText_normal.npy": b"\x93NUMPY\x01\x00"}, "FeatureText_normal.npy: cannot be read"),
    "texts fewer than items": ({"items.csv": b"itemID,text\n0,a\n1,b\n2,c\n4,d\n"}, "items.csv: no row of 1 of 5 items, itemID 3"),
    "texts without itemID": (
        {"items.csv": b"asin,text\nB00,a\n"},
        "items.csv, line 1: no column 'itemID'; its columns are asin, text",
    ),
    "itemID twice": ({"items.csv": b"itemID,text\n0,a\n1,b\n0,c\n"}, "items.csv, line 4: itemID 0 stands in line 2 already"),
    "itemID not whole": ({"items.csv": b"itemID,text\n0,a\n-1,b\n"}, "items.csv, line 3: itemID '-1' is no whole number"),
    "an empty text": ({"items.csv": b"itemID,text\n0,a\n1, \n2,c\n3,d\n4,e\n"}, "itemID 1 has no text .1 such items"),
    "an empty category": (
        {"items.csv": b"itemID,text,category\n0,a,x\n1,b,\n2,c,x\n3,d,\n4,e,x\n"},
        "itemID 1 has no category .2 such",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(raw, case):
    files, message = BAD[case]
    for name, content in files.items():
        path = raw / name
        if content is None:
            path.unlink()
        elif isinstance(content, np.ndarray):
            np.save(path, content, allow_pickle=True)
        else:
            path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        sgfd(raw, raw.parent / "out")
    assert not (raw.parent / "out").exists()


def test_tables_as_other_programs_write_them(raw):
    """A mark at the start, carriage returns, quotes, blanks, columns in another order, no ASIN."""
    rows = ['"userID", itemID ,asin', *(f'"{user}", 0{item},' for item, user in TRAIN)]
    (raw / "train.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    sgfd(raw, raw.parent / "out")
    pairs = Pairs.load(raw.parent / "out")
    assert len(pairs.seen("test").items) == len(TRAIN)
    assert pairs.texts == ["item 00", "item 01", "item 02", "item 03", "b04"]
    (raw / "train.csv").write_bytes("\r\n".join([*rows, rows[-1]]).encode())
    with pytest.raises(InputError, match=r"train.csv, line 8: user 2 and item 1 stand in line 7 of train.csv already"):
        sgfd(raw, raw.parent / "again")


def test_bad_lines_can_be_left_out(raw):
    (raw / "train.csv").write_bytes(lines(*GOOD, "4,two,R,B"))
    sgfd(raw, raw.parent / "out", skip_bad_lines=1)
    assert len(Pairs.load(raw.parent / "out").seen("test").items) == len(GOOD)


def test_as_a_user_types_it(raw):
    script = Path(__file__).parents[1] / "scripts" / "prepare.py"
    command = [sys.executable, script, "sgfd", "--data", "Tiny", "--out", "data/tiny", "--validation", "none"]
    done = subprocess.run(command, cwd=raw.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    again = subprocess.run(command, cwd=raw.parent, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.splitlines() == [
        "error: data/tiny: the folder holds a dataset already; remove it, choose another name, or pass --overwrite"
    ]


def test_the_real_office(tmp_path, capsys):
    folder = SHARED / "data" / "sgfd_office"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    sgfd(folder, tmp_path / "office")
    pairs = Pairs.load(tmp_path / "office")
    assert (pairs.num_users, pairs.num_items) == (4874, 2406)
    assert (len(pairs.seen("test").items), len(pairs.test.items)) == (37027, 15930)
    assert (pairs.valid.counts > 0).sum() == 4874 - 35  # who has one train item gives none
    assert len(read_labels(tmp_path / "office" / "labels.tsv", pairs.item_ids).names) == 40
    printed = capsys.readouterr().out
    assert "The README says 7,279 items, but the files that SGFD ships have 2,406." in printed
    assert "The README's sparsity of 99.85 % does not follow from the counts: 99.55 %." in printed
