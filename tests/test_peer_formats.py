"""RecBole's and MMRec's files, there and back."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from odmt.errors import InputError
from odmt.features.importing import import_features
from odmt.features.labels import read_labels
from odmt.features.store import FeatureStore
from odmt.graph.pairs import Pairs
from odmt.prepare.export import export_dataset
from odmt.prepare.mmrec import mmrec
from odmt.prepare.recbole import recbole
from odmt.sequential.interactions import Interactions

ITEM_FILE = "item_id:token\ttitle:token_seq\tgenre:token_seq\tyear:float\n" + "".join(
    f'i{n}\tA "{n}" title\t{genre}\t{1990 + n}\n' for n, genre in enumerate(["Drama War", "Crime", "Crime Drama", "War", ""])
)


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def atomic(tmp_path):
    """A folder with ml.inter and ml.item."""
    rows = [(f"u{user}", f"i{(user + step) % 5}", 100.5 - step) for user in range(6) for step in range(3 + user % 3)]
    write(
        tmp_path / "ml.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        *(f"{u}\t{i}\t5\t{t}" for u, i, t in rows),
    )
    (tmp_path / "ml.item").write_text(ITEM_FILE)
    return tmp_path


def test_atomic_files(atomic):
    out = atomic / "out"
    recbole([atomic / "ml.inter"], out, atomic / "ml.item", label_field="genre", min_length=4)
    read = Interactions.load(out, min_seq_len=4)
    assert read.user_ids == ["u1", "u2", "u4", "u5"]
    assert [read.item_ids[n - 1] for n in read.items[:4]] == ["i4", "i3", "i2", "i1"]  # by time
    assert read.texts[0] == 'a "0" title drama war'  # the fields of words, not the numbers
    labels = read_labels(out / "labels.tsv", read.item_ids)
    assert [labels.names[n] for n in labels.numbers] == ["Drama", "Crime", "Crime", "War", "(none)"]
    recbole([atomic / "ml.inter"], atomic / "title", atomic / "ml.item", text="title,year", min_length=3)
    assert Interactions.load(atomic / "title", min_seq_len=3).texts[0] == 'a "0" title 1990'
    recbole([atomic / "ml.inter"], atomic / "graph", split="random", min_length=3)
    pairs = Pairs.load(atomic / "graph")
    assert (pairs.num_users, len(pairs.seen("test").items) + len(pairs.test.items)) == (6, 24)
    assert pairs.texts == ["i0", "i1", "i2", "i3", "i4"]  # without an item file


def test_benchmark_files_are_taken_as_they_are(atomic, capsys):
    header = "user_id:token\titem_id:token"
    parts = {"train": ["u\ti0", "u\ti1", "v\ti1", "u\ti0"], "valid": ["u\ti2"], "test": ["v\ti3", "u\tx", "w\ti0", "u\ti1"]}
    paths = [write(atomic / f"ml.{part}.inter", header, *rows) for part, rows in parts.items()]
    recbole(paths[::-1], atomic / "out", atomic / "ml.item", label_field="genre")
    assert (atomic / "out" / "train.tsv").read_text() == "u\ti0 i1\nv\ti1\n"
    assert (atomic / "out" / "valid.tsv").read_text() == "u\ti2\n"
    assert (atomic / "out" / "test.tsv").read_text() == "v\ti3\nu\tx\n"
    pairs = Pairs.load(atomic / "out")
    assert pairs.item_ids == ["i0", "i1", "i2", "i3", "x"]
    assert pairs.texts[-1] == "x "
    assert read_labels(atomic / "out" / "labels.tsv", ["x"]).names == ["(none)", "Crime", "Drama", "War"]
    printed = capsys.readouterr().out
    assert "1 of 4 test pairs stand there or in an earlier part of the split already: left out" in printed
    assert "1 of 4 test pairs are of users without a train item: left out" in printed
    assert "1 of 4 train pairs stand there already: left out" in printed
    recbole([paths[0], paths[2]], atomic / "two")
    assert not (atomic / "two" / "valid.tsv").exists()


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "ml.inter",
            ["user_id\titem_id:token"],
            "ml.inter, line 1: column 1 is called 'user_id'; in an atomic file it is name:type",
        ),
        ("ml.inter", ["user_id:token\titem_id:word"], "column 2 is called 'item_id:word'; .*type one of token, token_seq, float"),
        ("ml.inter", ["uid:token\titem_id:token\ttimestamp:float"], "no field 'user_id'; its fields are uid, item_id, timestamp"),
        ("ml.inter", ["user_id:token\titem_id:token"], "no field 'timestamp'"),
        ("ml.inter", ["user_id:token\titem_id:token\ttimestamp:float", "u\ti0\tsoon"], "line 2: no valid time"),
        ("ml.inter", ["user_id:token\titem_id:token\ttimestamp:float", "u\ti0\t1", "u\ti1"], "line 3: "),
        ("ml.inter", ["user_id:token,item_id:token,timestamp:float"], "line 1: column 1 is called .* tabs part the columns"),
        ("ml.item", ["item_id:token\tname:token", "i0\tA"], "ml.item, line 1: no field 'genre'; its fields are item_id, name"),
        ("ml.item", ["item_id:token\tgenre:token", "i0\tA\tB"], "ml.item, line 2: 3 columns, expected 2"),
    ],
)
def test_bad_atomic_files_are_named(atomic, name, rows, message):
    write(atomic / name, *rows)
    with pytest.raises(InputError, match=message):
        recbole([atomic / "ml.inter"], atomic / "out", atomic / "ml.item", label_field="genre", min_length=3)
    assert not (atomic / "out").exists()


def test_bad_benchmarks_are_named(atomic):
    with pytest.raises(InputError, match=r"ml.inter: of several --inter files each is X.train.inter"):
        recbole([atomic / "ml.inter", atomic / "ml.train.inter"], atomic / "out")
    with pytest.raises(InputError, match=r"a split needs a test file too"):
        recbole([atomic / "ml.train.inter", atomic / "ml.valid.inter"], atomic / "out")


@pytest.fixture
def baby(tmp_path):
    """A folder of MMRec with everything that one has."""
    folder = tmp_path / "baby"
    folder.mkdir()
    rows = ["userID\titemID\trating\ttimestamp\tx_label"]
    for user in range(4):
        rows += [f"{user}\t{(user + step) % 6}\t5.0\t{1000 + (step * 7) % 5}\t{max(0, step - 2)}" for step in range(5)]
    write(folder / "baby.inter", *rows)
    write(folder / "i_id_mapping.csv", "asin\titemID", *(f"B00{n}\t{n}" for n in (3, 2, 1, 0, 4, 5)))
    write(folder / "u_id_mapping.csv", "user_id\tuserID", *(f"A{n}\t{n}" for n in range(4)))
    rng = np.random.default_rng(0)
    np.save(folder / "image_feat.npy", rng.normal(size=(6, 8)))
    np.save(folder / "text_feat.npy", rng.normal(size=(6, 4)).astype(np.float32))
    return folder


def test_a_folder_of_mmrec(baby):
    out = baby.parent / "out"
    mmrec(baby, out)
    assert sorted(os.listdir(out)) == [
        "behaviours.tsv",
        "dataset.json",
        "features",
        "items.tsv",
        "test.tsv",
        "train.tsv",
        "valid.tsv",
    ]
    pairs = Pairs.load(out)
    assert (pairs.user_ids, pairs.item_ids) == (["A0", "A1", "A2", "A3"], [f"B00{n}" for n in range(6)])
    assert pairs.train.of(np.array([0]))[0].tolist() == [0, 1, 2]
    assert (pairs.valid.items[0], pairs.test.items[0]) == (3, 4)
    assert Interactions.load(out).items[:5].tolist() == [1, 4, 2, 5, 3]  # by the times 1000, 1002, 1004, 1001, 1003
    with FeatureStore(out / "features" / "image") as store:
        np.testing.assert_array_equal(store.read("B004"), np.load(baby / "image_feat.npy")[4:5].astype(np.float16))


def test_texts_beside_mmrec(baby, tmp_path):
    table = write(tmp_path / "meta.csv", "asin,title,kind", *(f"B00{n},Title {n},{'xy'[n % 2]}" for n in range(5)))
    mmrec(baby, tmp_path / "out", items=table, text="title", label_column="kind", dtype="float32")
    assert Pairs.load(tmp_path / "out").texts == [*(f"title {n}" for n in range(5)), "b005"]
    assert read_labels(tmp_path / "out" / "labels.tsv", ["B001", "B005"]).names == ["(none)", "x", "y"]
    for name in ("i_id_mapping.csv", "u_id_mapping.csv", "image_feat.npy", "text_feat.npy"):
        (baby / name).unlink()
    rows = (baby / "baby.inter").read_text().splitlines()
    write(baby / "baby.inter", *(row.rpartition("\t")[0] for row in rows))  # no x_label
    mmrec(baby, tmp_path / "numbers")
    assert sorted(os.listdir(tmp_path / "numbers")) == ["behaviours.tsv", "dataset.json", "items.tsv"]
    assert Pairs.load(tmp_path / "numbers").item_ids == [str(n) for n in range(6)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("baby.inter", "userID\titemID\n0\t0\n", "neither timestamp nor x_label among its columns, userID, itemID"),
        ("baby.inter", "userID\titemID\tx_label\n0\t0\t3\n", r"baby.inter, line 2: no valid x_label .0, 1 or 2."),
        ("baby.inter", "userID\titemID\tx_label\n0\t-1\t0\n", r"baby.inter, line 2: no valid itemID .a whole number from 0."),
        ("baby.inter", "userID\titemID\ttimestamp\nu\t1\t0\n", "baby.inter, line 2: no valid userID"),
        ("baby.inter", "userID\titemID\ttimestamp\n0\t1\tx\n", "baby.inter, line 2: no valid timestamp"),
        ("baby.inter", "userID\titem\tx_label\n0\t1\t0\n", "baby.inter, line 1: no column 'itemID'"),
        ("i_id_mapping.csv", "asin\titemID\nB0\t0\nB1\t1\n", "i_id_mapping.csv: 4 of 6 numbers have no name, itemID 2 the first"),
        ("i_id_mapping.csv", "asin\titemID\n" + "B\t0\nB\t1\nC\t2\nD\t3\nE\t4\nF\t5\n", "i_id_mapping.csv: 'B' has two numbers"),
        ("u_id_mapping.csv", "user_id\tuserID\nA\t0\nB\t0\n", "u_id_mapping.csv, line 3: number 0 is that of 'A' already"),
        ("image_feat.npy", np.ones((5, 3)), "image_feat.npy: 5 rows, but the highest itemID is 5"),
        ("image_feat.npy", np.ones((6, 3, 2)), "image_feat.npy: 3 tokens an item"),
        ("text_feat.npy", np.full((6, 3), np.nan), "text_feat.npy: item 'B000' has 3 values that are not finite"),
        ("text_feat.npy", np.array([{}] * 6, object), "text_feat.npy: cannot be read: an object array"),
        ("other.inter", "userID\titemID\n", None),
        ("items.csv", "name,text\nB000,a\n", "items.csv, line 1: no column itemID, asin or item_id; its columns are name, text"),
    ],
)
def test_bad_folders_of_mmrec_are_named(baby, name, content, message):
    np.save(baby / name, content, allow_pickle=True) if isinstance(content, np.ndarray) else (baby / name).write_text(content)
    if message is None:  # the folder's own table is found
        return mmrec(baby, baby.parent / "out")
    with pytest.raises(InputError, match=message):
        mmrec(baby, baby.parent / "out")
    return None


def test_which_table_of_mmrec(baby):
    (baby / "baby.inter").rename(baby / "a.inter")
    mmrec(baby, baby.parent / "one")
    write(baby / "b.inter", "userID\titemID\tx_label")
    with pytest.raises(InputError, match=r"expected one file X.inter, or one called baby.inter, and found a.inter, b.inter"):
        mmrec(baby, baby.parent / "out")
    with pytest.raises(InputError, match="no such folder; --data names"):
        mmrec(baby / "nowhere", baby.parent / "out")


@pytest.fixture
def mine(tmp_path):
    """A sequential dataset with categories and features."""
    folder = tmp_path / "mine"
    folder.mkdir()
    rng = np.random.default_rng(0)
    write(folder / "items.tsv", *(f'i-{n}\tA {n}, said "x"\tmore' for n in range(12)))
    write(folder / "labels.tsv", *(f"i-{n}\tkind {n % 3}" for n in range(12)))
    lines = (f"u {u}\t" + " ".join(f"i-{n}" for n in rng.integers(0, 11, 4 + u)) for u in range(20))  # item 11 in none
    write(folder / "behaviours.tsv", *lines)
    np.save(tmp_path / "f.npy", rng.normal(size=(12, 3, 4)).astype(np.float16))
    import_features(folder, "text", tmp_path / "f.npy", first_token="cls")
    return folder


def same_sequences(one: Path, other: Path):
    first, second = Interactions.load(one), Interactions.load(other)
    assert first.fingerprint() == second.fingerprint()
    assert first.texts == second.texts
    assert np.array_equal(
        read_labels(one / "labels.tsv", first.item_ids).numbers, read_labels(other / "labels.tsv", first.item_ids).numbers
    )


def same_pairs(one: Path, other: Path):
    first, second = Pairs.load(one), Pairs.load(other)
    assert (first.item_ids, first.texts, first.user_ids) == (second.item_ids, second.texts, second.user_ids)
    for part in ("train", "valid", "test"):
        for user in range(first.num_users):
            items = [set(getattr(pairs, part).of(np.array([user]))[0].tolist()) for pairs in (first, second)]
            assert items[0] == items[1]


def test_sequences_to_recbole_and_back(mine, tmp_path):
    export_dataset(mine, "recbole", tmp_path / "exported")
    assert sorted(os.listdir(tmp_path / "exported")) == ["mine.inter", "mine.item", "mine.yaml"]
    config = yaml.safe_load((tmp_path / "exported" / "mine.yaml").read_text())
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
    files = [tmp_path / "exported" / f"mine.{suffix}" for suffix in ("inter", "item")]
    recbole(files[:1], tmp_path / "back", files[1], text="text", label_field="category")
    same_sequences(mine, tmp_path / "back")


def test_sequences_to_mmrec_and_back(mine, tmp_path):
    export_dataset(mine, "mmrec", tmp_path / "exported")
    names = ["i_id_mapping.csv", "items.csv", "mine.inter", "text_feat.npy", "u_id_mapping.csv"]
    assert sorted(os.listdir(tmp_path / "exported")) == names
    features = np.load(tmp_path / "exported" / "text_feat.npy")
    np.testing.assert_array_equal(features, np.load(tmp_path / "f.npy")[:11, 0].astype(np.float32))
    mmrec(tmp_path / "exported", tmp_path / "back")
    same_sequences(mine, tmp_path / "back")
    sequences, given = Pairs.load(mine), Pairs.load(tmp_path / "back")
    new = ~np.array(
        [np.isin(sequences.test.items[u], sequences.seen("test").of(np.array([u]))[0]) for u in range(sequences.num_users)]
    )
    assert given.test.items.tolist() == sequences.test.items[new].tolist()  # without those that no model can rank
    # And there again, with the sequences and the split.
    export_dataset(tmp_path / "back", "mmrec", tmp_path / "again")
    with pytest.raises(InputError, match="again: the folder holds other files already; choose another name"):
        export_dataset(tmp_path / "back", "mmrec", tmp_path / "again")


def test_a_split_there_and_back(mine, tmp_path):
    (mine / "behaviours.tsv").unlink()
    write(mine / "train.tsv", "ann\ti-1 i-2 i-3", "bob\ti-4", "cat\ti-0 i-9")
    write(mine / "valid.tsv", "ann\ti-4")
    write(mine / "test.tsv", "cat\ti-5 i-6", "ann\ti-7")
    export_dataset(mine, "recbole", tmp_path / "recbole")
    files = {path.name: path for path in (tmp_path / "recbole").iterdir()}
    assert sorted(files) == ["mine.item", "mine.test.inter", "mine.train.inter", "mine.valid.inter", "mine.yaml"]
    assert yaml.safe_load(files["mine.yaml"].read_text())["benchmark_filename"] == ["train", "valid", "test"]
    recbole([path for name, path in files.items() if name.endswith(".inter")], tmp_path / "one", files["mine.item"], text="text")
    same_pairs(mine, tmp_path / "one")
    export_dataset(mine, "mmrec", tmp_path / "mmrec")
    mmrec(tmp_path / "mmrec", tmp_path / "other")
    same_pairs(mine, tmp_path / "other")


def test_a_split_and_its_sequences_there_and_back(mine, tmp_path):
    write(mine / "behaviours.tsv", "ann\ti-1 i-2 i-3 i-4 i-7", "cat\ti-0 i-9 i-5 i-6 i-8")
    write(mine / "train.tsv", "ann\ti-1 i-2 i-3", "cat\ti-0 i-9 i-8")
    write(mine / "valid.tsv", "ann\ti-4")
    write(mine / "test.tsv", "cat\ti-5 i-6", "ann\ti-7")
    export_dataset(mine, "mmrec", tmp_path / "mmrec")
    mmrec(tmp_path / "mmrec", tmp_path / "back")
    same_pairs(mine, tmp_path / "back")
    same_sequences(mine, tmp_path / "back")


def test_items_that_extraction_dropped_are_not_exported(mine, tmp_path):
    (mine / "features" / "image").mkdir()
    (mine / "features" / "image" / "dropped.tsv").write_text("i-3\tbroken\n")
    export_dataset(mine, "recbole", tmp_path / "exported")
    assert "i-3\t" not in (tmp_path / "exported" / "mine.item").read_text()
    assert "\ti-3\t" not in (tmp_path / "exported" / "mine.inter").read_text()


def test_as_a_user_types_it(atomic):
    scripts = Path(__file__).parents[1] / "scripts"

    def run(name: str, *options: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, scripts / name, *options], cwd=atomic, capture_output=True, text=True)

    done = run("prepare.py", "recbole", "--inter", "ml.inter", "--item", "ml.item", "--out", "data/ml", "--min-length", "3")
    assert (done.returncode, done.stderr) == (0, "")
    done = run("export_dataset.py", "--dataset", "data/ml", "--to", "mmrec", "--out", "peer", "--min-seq-len", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "peer: ml with 5 items for MMRec\n"
