"""Graph datasets and categories from one's own tables."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from odmt.errors import InputError
from odmt.features.labels import read_labels
from odmt.graph.pairs import Pairs
from odmt.prepare.csv_tables import csv
from odmt.sequential.interactions import Interactions

SHARED = Path(os.environ.get("ODMT_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture
def raw(tmp_path):
    """12 users of 4 to 9 of 10 items; ten of the pairs stand twice."""
    events = [(f"u{user}", f"i{(user + 3 * step) % 10}", step) for user in range(12) for step in range(4 + user % 6)]
    rows = [f"{user},{item},{time}" for user, item, time in events + events[:10]]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    genres = ["Drama|War", "Crime", "Comedy|Drama"]
    rows = [f"i{n},Title {n},{genres[n % 3]}" for n in range(10)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title,genres", *rows]) + "\n")
    return tmp_path


def run(raw, name="out", **options) -> Path:
    csv(**{"interactions": raw / "events.csv", "items": raw / "items.csv", "out": raw / name, "min_length": 4, **options})
    return raw / name


def test_a_random_split(raw, capsys):
    pairs = Pairs.load(run(raw, split="random", label_column="genres", list_separator="|"))
    assert sorted(os.listdir(raw / "out")) == ["dataset.json", "items.tsv", "labels.tsv", "test.tsv", "train.tsv", "valid.tsv"]
    sizes = [4 + user % 6 for user in range(12)]
    # 3 in 10 of 4 to 9 items, rounded, and of the rest one in ten, which is one.
    assert pairs.test.counts.tolist() == [{4: 1, 5: 2, 6: 2, 7: 2, 8: 2, 9: 3}[size] for size in sizes]
    assert pairs.valid.counts.tolist() == [1] * 12
    assert (pairs.train.counts + pairs.valid.counts + pairs.test.counts).tolist() == sizes
    labels = read_labels(raw / "out" / "labels.tsv", pairs.item_ids)
    assert labels.names == ["Comedy", "Crime", "Drama"]
    assert labels.numbers.tolist() == [2, 1, 0, 2, 1, 0, 2, 1, 0, 2]
    printed = capsys.readouterr().out
    assert "10 of 88 interactions repeat a pair of user and item, which counts once" in printed
    assert next(line for line in printed.splitlines() if line.startswith("out")).split()[1:4] == ["12", "10", "78"]


def test_the_seed_decides(raw):
    first, again, other = (run(raw, name, split="random", seed=seed) for name, seed in {"a": 1, "b": 1, "c": 2}.items())
    assert [(first / f).read_text() == (again / f).read_text() for f in ("train.tsv", "valid.tsv", "test.tsv")] == [True] * 3
    assert (first / "test.tsv").read_text() != (other / "test.tsv").read_text()
    assert not (run(raw, "d", split="random", valid_share=0) / "valid.tsv").exists()


def test_a_split_needs_no_times(raw):
    lines = (raw / "events.csv").read_text().splitlines()
    (raw / "events.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    assert Pairs.load(run(raw, split="random")).num_users == 12
    pl.read_csv(raw / "events.csv").write_parquet(raw / "events.parquet")
    pl.read_csv(raw / "events.csv").write_ndjson(raw / "events.jsonl")
    for kind in ("parquet", "jsonl"):
        other = run(raw, kind, split="random", interactions=raw / f"events.{kind}")
        assert (other / "train.tsv").read_text() == (raw / "out" / "train.tsv").read_text()
    with pytest.raises(InputError, match="no column 'timestamp'"):
        run(raw, "sequence")


def test_categories_of_a_sequential_dataset(raw):
    out = run(raw, label_column="genres", list_separator="|")
    assert Interactions.load(out, min_seq_len=4).num_users == 12
    assert (out / "labels.tsv").read_text().splitlines()[:3] == ["i0\tDrama", "i1\tCrime", "i2\tComedy"]


def test_items_without_category_have_one_of_their_own(raw, capsys):
    text = (raw / "items.csv").read_text()
    (raw / "items.csv").write_text(text.replace("Title 3,Drama|War", "Title 3,"))
    out = run(raw, label_column="genres", list_separator="|")
    labels = read_labels(out / "labels.tsv", ["i2", "i3"])
    assert (labels.names, labels.numbers.tolist()) == (["(none)", "Comedy", "Crime", "Drama"], [1, 0])
    said = "1 of 10 items have no genres; their category is called (none)\n4 categories in genres, of 10 items\n"
    printed = capsys.readouterr().out
    assert said in printed
    assert "counts as one category" not in printed
    assert "genres is text and category: teachers of categories read it in the text; --text leaves it out" in printed
    run(raw, "titles", label_column="title", text="genres")
    printed = capsys.readouterr().out
    assert "10 categories in title, of 10 items; most items have one of their own" in printed
    assert "text and category" not in printed
    run(raw, "whole", label_column="genres")
    hint = "'Comedy|Drama' counts as one category: with --list-separator '|' the first of a list is taken\n"
    assert f"4 categories in genres, of 10 items\n{hint}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["csv of Python lists", "csv of JSON lists", "jsonl", "parquet"])
def test_the_first_of_a_list_however_it_is_written(raw, kind):
    genres = [["Science Fiction", "War"], [], ["Crime"]]
    table = pl.DataFrame(
        {"item_id": [f"i{n}" for n in range(10)], "title": ["T"] * 10, "genres": [genres[n % 3] for n in range(10)]}
    )
    path = raw / f"list.{kind[:7].split()[0]}"
    if kind == "jsonl":
        table.write_ndjson(path)
    elif kind == "parquet":
        table.write_parquet(path)
    else:
        written = [str(row) if "Python" in kind else str(row).replace("'", '"') for row in table["genres"].to_list()]
        table.with_columns(genres=pl.Series(written)).write_csv(path)
    labels = read_labels(run(raw, items=path, label_column="genres") / "labels.tsv", ["i0", "i1", "i2"])
    assert [labels.names[number] for number in labels.numbers] == ["Science Fiction", "(none)", "Crime"]


def test_mistakes_are_named(raw):
    with pytest.raises(InputError, match=r"items.csv, line 1: no column 'genre'; its columns are item_id, title, genres"):
        run(raw, label_column="genre")
    with pytest.raises(InputError, match="--last keeps the newest interactions, and --split random knows no order"):
        run(raw, split="random", last=15)
    with pytest.raises(InputError, match=r"a share of 1.0 cannot be held out"):
        run(raw, split="random", test_share=1.0)
    assert not (raw / "out").exists()


def test_as_a_user_types_it(raw):
    script = Path(__file__).parents[1] / "scripts" / "prepare.py"
    options = ["--interactions", "events.csv", "--items", "items.csv", "--out", "mine", "--label-column", "genres"]
    more = ["--split", "random", "--test-share", "0.3", "--valid-share", "0.1", "--seed", "1"]
    done = subprocess.run([sys.executable, script, "csv", *options, *more], cwd=raw, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (raw / "mine" / "labels.tsv").exists()


def test_real_movies(tmp_path):
    folder = SHARED / "data" / "movies"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    options = {"label_column": "genres", "list_separator": "|"}
    csv(folder / "interactions.csv", folder / "items.csv", tmp_path / "graph", split="random", **options)
    pairs = Pairs.load(tmp_path / "graph")
    assert (pairs.num_users, pairs.num_items) == (5544, 2882)
    assert len(pairs.seen("test").items) + len(pairs.test.items) == 80638
    assert len(read_labels(tmp_path / "graph" / "labels.tsv", pairs.item_ids).names) == 19
    csv(folder / "interactions.csv", folder / "items.csv", tmp_path / "movies", **options)
    sequences = Pairs.load(tmp_path / "movies")
    assert (sequences.test.items + 1).tolist() == Interactions.load(tmp_path / "movies").targets("test").tolist()
