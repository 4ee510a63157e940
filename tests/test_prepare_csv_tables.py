import gzip
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from odmt.errors import InputError
from odmt.prepare.csv_tables import csv, read_items
from odmt.prepare.raw_files import zstd
from odmt.sequential.interactions import Interactions

SHARED = Path(os.environ.get("ODMT_SHARED", Path(__file__).parents[2] / "shared"))


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


@pytest.fixture
def raw(tmp_path):
    write(
        tmp_path / "events.csv",
        "user_id,item_id,rating,timestamp",
        "u,b,1,30",
        "v,a,5,7.5",
        "u,a,1,10",
        "u,c,1,30",
        "v,b,5,1e1",
        "v,c,4,-3",
        "v,d,4,11",
        "",
    )
    write(
        tmp_path / "items.csv",
        "item_id,title,genre",
        '"c","A ""quoted"", long',
        'title",Drama|Comedy',
        "b,B,",
        "a,A,Crime",
        "d,,",
        "e,E,never seen",
    )
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.PNG", "c.webp", "e.jpg"):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "images" / name)
    (tmp_path / "images" / "d.txt").write_text("no image")
    return tmp_path


def run(raw, **options):
    csv(**{"interactions": raw / "events.csv", "items": raw / "items.csv", "out": raw / "out", "min_length": 3, **options})
    return Interactions.load(raw / "out", min_seq_len=3)


def test_the_whole_way(raw, capsys):
    read = run(raw, images=raw / "images", list_separator="|")
    assert read.item_ids == ["c", "b", "a"]
    assert read.texts == ['a "quoted", long title drama comedy', "b ", "a crime"]
    assert read.user_ids == ["u", "v"]
    assert [read.item_ids[n - 1] for n in read.items] == ["a", "b", "c", "c", "a", "b"]
    assert sorted(os.listdir(raw / "out" / "images")) == ["a.jpg", "b.png", "c.webp"]
    assert os.path.samefile(raw / "images" / "a.jpg", raw / "out" / "images" / "a.jpg")
    assert "dropped: 1 items without text" in capsys.readouterr().out


def test_without_images_and_with_named_columns(raw):
    write(raw / "events.csv", "who,what,when", *(f"u,{item},{day}" for item, day in [("a", 3), ("b", 1), ("c", 2)]))
    write(raw / "items.csv", "what,title,note", "a,A,x", "b,B,y", "c,C,z")
    read = run(raw, user="who", item="what", timestamp="when", text="note")
    assert read.texts == ["x", "y", "z"]
    assert [read.item_ids[n - 1] for n in read.items] == ["b", "c", "a"]
    assert not (raw / "out" / "images").exists()


def test_dates_and_tabs(raw):
    times = ["2020-02-01T10:00:00", "2020-01-31T23:59:59", "2019-12-31T00:00:00"]
    write(raw / "events.tsv", "user_id\titem_id\ttimestamp", *(f"u\t{item}\t{time}" for item, time in zip("abc", times)))
    read = run(raw, interactions=raw / "events.tsv")
    assert [read.item_ids[n - 1] for n in read.items] == ["c", "b", "a"]


def test_nanoseconds_and_carriage_returns(raw):
    (raw / "events.csv").write_bytes(
        b"\xef\xbb\xbfuser_id,item_id,timestamp\r\nu,a,1600000000000003000\r\nu,b,1600000000000001000\r\nu,c,1600000000000002000\r\n"
    )
    read = run(raw)
    assert [read.item_ids[n - 1] for n in read.items] == ["b", "c", "a"]


def test_bad_lines_are_named_or_counted(raw, capsys):
    lines = ["user_id,item_id,timestamp", "u,a,1", "u,b,soon", "u,c,3", "u", ",b,4", "u,b,5", "u,b,6,7", "u,a,8"]
    write(raw / "events.csv", *lines)
    with pytest.raises(InputError, match=r"line 3: no valid time: 'soon' is no number.*: 'u,b,soon'; .*--skip-bad-lines 1"):
        run(raw)
    with pytest.raises(InputError, match=r"events.csv, line 6: no valid user"):
        run(raw, skip_bad_lines=2)
    read = run(raw, skip_bad_lines=4)
    assert [read.item_ids[n - 1] for n in read.items] == ["a", "c", "b", "a"]
    assert "events.csv: bad lines left out: 4, the first: line 3" in capsys.readouterr().out


def test_gzipped_tables(raw):
    for name in ("events.csv", "items.csv"):
        (raw / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes()))
    plain = run(raw)
    zipped = run(raw, interactions=raw / "events.csv.gz", items=raw / "items.csv.gz", overwrite=True)
    assert (plain.item_ids, plain.texts, plain.items.tolist()) == (zipped.item_ids, zipped.texts, zipped.items.tolist())
    (raw / "items.csv.gz").write_bytes((raw / "items.csv.gz").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"items.csv.gz, line \d: the gzip file is broken"):
        run(raw, items=raw / "items.csv.gz", overwrite=True)


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        (
            "events.csv",
            ["user,item_id,timestamp", "u,a,1"],
            "line 1: no column 'user_id'; its columns are user, item_id",
        ),
        ("events.csv", ["user_id,item_id,timestamp"], "no row that can be read"),
        (
            "events.csv",
            ["user_id,item_id,timestamp", "u,a,1,"],
            "no row that can be read; the first, line 2: another number of columns than expected: 'u,a,1,'",
        ),
        ("events.csv", [], "the file is empty"),
        ("items.csv", ["id,title", "a,A"], "line 1: no column 'item_id'; its columns are id, title"),
        ("items.csv", ["item_id", "a"], "line 1: no column but 'item_id'"),
        ("items.csv", ["item_id,title", "a,A", "b,B,C"], "line 3: 3 columns, expected 2"),
        ("items.csv", ["item_id,title", "a,A", "b"], "line 3: 1 columns, expected 2"),
        ("items.csv", ["item_id,title", "a,A", ",B"], "line 3: the item has no name"),
        ("items.csv", ["item_id,title", "a,A", 'b,"B', 'B"', "a,A"], "line 5: item 'a' stands in line 2 already"),
        ("items.csv", ["item_id,title", "a,A", 'b,"B'], "line 3: unexpected end of data"),
        ("items.csv", [], "the file is empty"),
        ("events.csv", ["<html>\rnot found"], "line 1: .*is it a CSV file"),
        ("events.csv", ["user_id,item_id,timestamp", "u,a,1", "\r\x8b\r"], "line 3: "),
    ],
)
def test_bad_files_are_named(raw, file, lines, message):
    write(raw / file, *lines)
    with pytest.raises(InputError, match=f"{file}.*{message}"):
        run(raw)
    assert not (raw / "out").exists()


def test_other_encodings_are_refused(raw):
    write(raw / "items.csv", "item_id,title", "a,été", encoding="latin-1")
    with pytest.raises(InputError, match=r"items.csv, line 2: not UTF-8"):
        run(raw)
    write(raw / "items.csv", "item_id,title", "a,A")
    write(raw / "events.csv", "user_id,item_id,timestamp", "u,a,1", "é,a,1", encoding="latin-1")
    with pytest.raises(InputError, match=r"events.csv, line 3: invalid utf-8"):
        run(raw)


def test_missing_files_are_named(raw):
    with pytest.raises(InputError, match=r"nowhere.csv: no such file"):
        run(raw, interactions=raw / "nowhere.csv")
    with pytest.raises(InputError, match="no such folder; it should hold the images"):
        run(raw, images=raw / "nowhere")


def test_a_text_column_may_be_called_item(tmp_path):
    table = read_items(write(tmp_path / "items.csv", "item_id,item", "a,A"), "item_id")
    assert table.rows() == [("a", "A")]


def test_a_big_file_is_read_in_blocks(raw, monkeypatch):
    monkeypatch.setattr("odmt.prepare.raw_lines.BLOCK_BYTES", 100)
    rows = [(f"u{n % 40}", "abc"[n % 3], str(n)) for n in range(2000)]
    write(raw / "events.csv", "user_id,item_id,timestamp", *(",".join(row) for row in rows))
    read = run(raw, last=1000)
    expected = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").group_by("user", maintain_order=True).agg("item")
    assert read.user_ids == expected["user"].to_list()
    written = dict(line.split("\t") for line in (raw / "out" / "behaviours.tsv").read_text().splitlines())
    assert written == {user: " ".join(items) for user, items in expected.rows()}


def test_quotation_marks_of_a_file_with_tabs_belong_to_the_text(raw):
    rows = [("u", item, str(n)) for n, item in enumerate("abcdef")]
    write(raw / "events.TSV", "user_id\titem_id\ttimestamp", *("\t".join(row) for row in rows))
    titles = ["Plain", '"Foo', "Thing two", 'Thing 3"', '"a ""quoted"" one"', '"over\ntwo lines"']
    write(raw / "items.tsv", "item_id\ttitle", *(f"{item}\t{title}" for item, title in zip("abcdef", titles)))
    read = run(raw, interactions=raw / "events.TSV", items=raw / "items.tsv")
    assert read.texts == ["plain", '"foo', "thing two", 'thing 3"', 'a "quoted" one', "over two lines"]
    assert [read.item_ids[n - 1] for n in read.items] == list("abcdef")


def test_a_mark_that_is_never_closed_swallows_no_interactions(raw):
    write(raw / "events.tsv", "user_id\titem_id\ttimestamp\tnote", 'u\ta\t1\t"x', "u\tb\t2\ty", 'u\t"c"\t3\tz"')
    read = run(raw, interactions=raw / "events.tsv")
    assert [read.item_ids[n - 1] for n in read.items] == ["a", "b", "c"]


@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 20])
def test_quoted_reviews_with_line_breaks(raw, monkeypatch, block_bytes):
    monkeypatch.setattr("odmt.prepare.raw_lines.BLOCK_BYTES", block_bytes)
    reviews = ['"good:\nvery"', "plain", '"said ""a\n\n"" b"', '"x\r\ny"', '"one, ""two"""', '5" wide', '"to the\nend"']
    rows = [f"u,{item},{n},{review}" for n, (item, review) in enumerate(zip("abcabca", reviews))]
    write(raw / "events.csv", "user_id,item_id,timestamp,review", *rows)
    read = run(raw)
    assert [read.item_ids[n - 1] for n in read.items] == list("abcabca")


def test_lines_are_numbered_as_they_stand_in_the_file(raw):
    write(
        raw / "events.csv", "user_id,item_id,timestamp,review", 'u,a,1,"two', 'lines"', 'u,b,2,"and', "three", 'more"', "u,c,soon,x"
    )
    with pytest.raises(InputError, match=r"events.csv, line 7: no valid time"):
        run(raw)
    write(raw / "events.csv", "user_id,item_id,timestamp,review", 'u,a,1,"two', 'lines"', 'u,b,2,"and', "u,c,3,x")
    with pytest.raises(InputError, match=r"events.csv, line 4: a quotation mark that is not closed"):
        run(raw)


def test_columns_of_the_text_are_said(raw, capsys):
    write(raw / "items.csv", ",item_id,title,price,Unnamed: 0.1", "0,a,thing a,10.99,x", "1,b,B,,y", "2,c,C,1,z")
    assert run(raw).texts == ["thing a 10.99", "b ", "c 1"]
    out = capsys.readouterr().out
    assert "text of the items, from items.csv: title ('thing a'), price ('10.99'); column 1, 5 has no name and is left out" in out
    with pytest.raises(InputError, match=r"no column 'name'; its columns are \(column 1, without a name\), item_id, title"):
        run(raw, text="name", overwrite=True)


def test_a_column_that_stands_twice_is_refused(raw):
    write(raw / "items.csv", "item_id,title,genre,title", "a,A,x,B")
    with pytest.raises(InputError, match=r"items.csv, line 1: columns 2 and 4 are both called 'title'; rename one"):
        run(raw)
    write(raw / "items.csv", "item_id,title", "a,A", "b,B", "c,C")
    write(raw / "events.csv", "user_id,item_id,item_id,timestamp", "u,a,b,1")
    with pytest.raises(InputError, match=r"events.csv, line 1: columns 2 and 3 are both called 'item_id'"):
        run(raw)


def test_characters_that_are_not_seen_part_no_words(raw):
    write(raw / "items.csv", "item_id,title", "a,Soft\u00adware", "b,B\u00e4r\u200bchen", "c,\u0645\u06cc\u200c\u062e\ufeff!\u2060")
    assert run(raw).texts == ["software", "b\u00e4rchen", "\u0645\u06cc\u062e!"]


@pytest.mark.parametrize("form", ["jsonl", "json", "jsonl.gz", "jsonl.zst", "csv.zst", "tsv.gz", "parquet", "PARQUET"])
def test_other_formats_give_the_same(raw, form):
    events = pl.DataFrame(
        {"user_id": [7, 7, 7, 8, 8, 8], "item_id": ["b", "a", "c", "a", "b", "c"], "timestamp": [30, 10, 31, 7, 10, -3]}
    )
    items = pl.DataFrame(
        {"item_id": ["c", "b", "a"], "title": ['C "x"', "B", None], "genres": [["u", "v"], [], ["w"]], "year": [1, 2, 3]}
    )
    kind, _, packing = form.lower().partition(".")
    for name, table in {"events": events, "items": items}.items():
        flat = table.with_columns(pl.col(pl.List(pl.String)).list.join(" "))
        if kind in ("csv", "tsv"):
            content = flat.write_csv(separator="\t" if kind == "tsv" else ",").encode()
        elif kind == "parquet":
            buffer = io.BytesIO()
            table.write_parquet(buffer)
            content = buffer.getvalue()
        else:
            content = (table.write_ndjson() if kind == "jsonl" else json.dumps(table.to_dicts(), indent=1)).encode()
        pack = {"": bytes, "gz": gzip.compress, "zst": zstd.compress}[packing]
        (raw / f"{name}.{form}").write_bytes(pack(content))
    read = run(raw, interactions=raw / f"events.{form}", items=raw / f"items.{form}")
    assert read.user_ids == ["7", "8"]
    assert [read.item_ids[n - 1] for n in read.items] == ["a", "b", "c", "c", "a", "b"]
    assert [" ".join(text.split()) for text in read.texts] == ['c "x" u v 1', "b 2", "w 3"]


def test_typed_columns_of_parquet(raw, capsys):
    times = [datetime(2023, 5, 1, 9, tzinfo=UTC), datetime(2023, 5, 1, 8, tzinfo=UTC), None, datetime(2023, 5, 1, 10, tzinfo=UTC)]
    pl.DataFrame({"user_id": [1.0, 1.0, 1.0, 1.0], "item_id": ["a", "b", "c", "c"], "timestamp": times}).write_parquet(
        raw / "e.parquet"
    )
    with pytest.raises(InputError, match=r"e.parquet, row 3: no valid time"):
        run(raw, interactions=raw / "e.parquet")
    read = run(raw, interactions=raw / "e.parquet", skip_bad_lines=1)
    assert (read.user_ids, [read.item_ids[n - 1] for n in read.items]) == (["1"], ["b", "a", "c"])
    assert "1 bad rows left out, the first: row 3" in capsys.readouterr().out
    (raw / "e.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match=r"e.parquet: cannot be read as Parquet"):
        run(raw, interactions=raw / "e.parquet", overwrite=True)


def test_json_that_cannot_be_read_is_named(raw):
    write(raw / "e.jsonl", '{"user_id": 1, "item_id": "a", "timestamp": 1}', '{"user_id": 1, "item_id": "b"')
    with pytest.raises(InputError, match=r"e.jsonl, line 2: not a JSON object"):
        run(raw, interactions=raw / "e.jsonl")
    write(raw / "e.jsonl", '{"user": 1, "item_id": "a", "timestamp": 1}')
    with pytest.raises(InputError, match=r"no column 'user_id'; its columns are user, item_id, timestamp"):
        run(raw, interactions=raw / "e.jsonl")
    write(raw / "items.json", '[{"item_id": "a", "title": "A"}, {"item_id": "b", "title": ]')
    with pytest.raises(InputError, match=r"items.json, object 2: "):
        run(raw, items=raw / "items.json")


@pytest.mark.parametrize(("content", "what"), [(b"PK\x03\x04rest", "a ZIP archive or a spreadsheet"), (b"BZh9", "a bzip2 file")])
def test_archives_are_named(raw, content, what):
    (raw / "events.csv").write_bytes(content)
    with pytest.raises(InputError, match=f"events.csv: {what}; unpack it"):
        run(raw)


def test_as_a_user_types_it(raw):
    script = Path(__file__).parents[1] / "scripts" / "prepare.py"
    options = ["--interactions", "events.csv", "--items", "items.csv", "--images", "images", "--out", "data/mine"]

    def prepare(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, script, "csv", *options, *more], cwd=raw, capture_output=True, text=True)

    done = prepare("--min-length", "3", "--skip-bad-lines", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "mine" in done.stdout.splitlines()[-1]
    again = prepare("--min-length", "3")
    assert again.returncode == 2
    assert again.stderr.splitlines() == [
        "error: data/mine: the folder holds a dataset already; remove it, choose another name, or pass --overwrite"
    ]
    assert prepare("--min-length", "3", "--overwrite").returncode == 0


def test_real_movies(tmp_path):
    folder = SHARED / "data" / "movies"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    csv(folder / "interactions.csv", folder / "items.csv", tmp_path / "movies", images=folder / "images")
    read = Interactions.load(tmp_path / "movies")
    assert (read.num_users, read.num_items, len(read.items)) == (5544, 2882, 80638)
    assert len(os.listdir(tmp_path / "movies" / "images")) == 2882
