import dataclasses
import json
import multiprocessing
import os
import pickle
import re
import threading
import time

import lmdb
import numpy as np
import pytest
import torch

from odmt.errors import InputError
from odmt.features.header import Header, Record
from odmt.features.store import FeatureStore
from odmt.features.tables import ResidentTable, StoredTable
from odmt.features.writer import LISTS, FeatureWriter, check_names, claim_folder, discard, read_records, write_lists

WIDTH = 4
HEADER = Header("text", "some/encoder", "abc", "last", WIDTH, 30, "lower-cased")


def tokens(*values: float) -> np.ndarray:
    """One token a value, as wide as the store."""
    return np.repeat(np.array(values, np.float16)[:, None], WIDTH, axis=1)


def fill(folder, items: dict[str, np.ndarray], shard: int = 0):
    with FeatureWriter(folder, HEADER, shard) as writer:
        writer.add(items, dict.fromkeys(items, Record("source")))


def test_reads_what_was_written(tmp_path):
    fill(tmp_path, {"a": tokens(1, 2, 3), "ß-ü": tokens(-0.5)})
    with FeatureStore(tmp_path) as store:
        assert store.header == HEADER
        assert len(store) == 2
        assert "a" in store
        assert "b" not in store
        assert store.num_tokens("a") == 3
        assert store.num_tokens("ß-ü") == 1
        np.testing.assert_array_equal(store.read("a"), tokens(1, 2, 3))
        assert store.read("ß-ü").dtype == np.float16
        mine = store.read("a")
        mine[:] = 0
        np.testing.assert_array_equal(store.read("a"), tokens(1, 2, 3))


def test_shards_are_one_store(tmp_path):
    fill(tmp_path, {"a": tokens(1)})
    fill(tmp_path, {"b": tokens(2, 2)}, shard=3)
    with FeatureStore(tmp_path) as store:
        assert len(store) == 2
        np.testing.assert_array_equal(store.read("b"), tokens(2, 2))
    assert read_records(tmp_path) == {"a": Record("source"), "b": Record("source")}


def test_missing_item_is_named_with_the_remedy(tmp_path):
    fill(tmp_path, {"a": tokens(1)})
    store = FeatureStore(tmp_path)
    for ask in (store.read, store.num_tokens):
        with pytest.raises(InputError, match=r"'b'.*extract_features"):
            ask("b")


def test_damage_is_noticed(tmp_path):
    fill(tmp_path, {"good": tokens(1, 2), "bad": tokens(3, 4)})
    path = tmp_path / "shard-00000.lmdb"
    content = bytearray(path.read_bytes())
    at = content.index(tokens(3, 4).tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    store = FeatureStore(tmp_path)
    np.testing.assert_array_equal(store.read("good"), tokens(1, 2))
    with pytest.raises(InputError, match="'bad' are damaged"):
        store.read("bad")


def test_damaged_records_are_named(tmp_path):
    fill(tmp_path, {"good": tokens(1), "bad": tokens(2)})
    path = tmp_path / "shard-00000.lmdb"
    content = path.read_bytes()
    for damaged in (b"source\tstorex", b"source stored", b"source\tstor\xff\xff"):
        path.write_bytes(content.replace(b"source\tstored", damaged, 1))
        with pytest.raises(InputError, match=r"shard-00000\.lmdb: the record of item '(good|bad)' is damaged"):
            read_records(tmp_path)
        with FeatureStore(tmp_path) as store, pytest.raises(InputError, match="is damaged"):
            store.content_fingerprint()


def test_names_that_are_no_keys(tmp_path):
    fill(tmp_path, {"a": tokens(1)})
    check_names(["a" * 511])
    with pytest.raises(InputError, match="a name of 512 bytes, 511 are the most"):
        check_names(["a", "ü" * 256])
    with FeatureStore(tmp_path) as store, pytest.raises(InputError, match="no features of item"):
        store.read("x" * 600)


def test_file_that_was_cut_off_is_refused(tmp_path):
    fill(tmp_path, {f"item{n}": np.ones((50, WIDTH)) for n in range(500)})
    path = tmp_path / "shard-00000.lmdb"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match="cut off"):
        FeatureStore(tmp_path)


def test_not_a_store(tmp_path):
    with pytest.raises(InputError, match=r"header\.json: no such file"):
        FeatureStore(tmp_path)
    (tmp_path / "header.json").write_text('{"modality": "text"}')
    with pytest.raises(InputError, match="not a header"):
        FeatureStore(tmp_path)
    claim_folder(tmp_path / "new", HEADER)
    assert len(FeatureStore(tmp_path / "new")) == 0
    (tmp_path / "new" / "shard-00000.lmdb").write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match=r"shard-00000\.lmdb: cannot be opened"):
        FeatureStore(tmp_path / "new")


def test_other_header_is_refused_and_its_keys_are_named(tmp_path):
    fill(tmp_path, {"a": tokens(1)})
    other = Header("text", "some/encoder", "xyz", "last", WIDTH, 20, "lower-cased")
    with pytest.raises(InputError, match="weights is 'abc', asked for 'xyz'; max_tokens is 30, asked for 20"):
        claim_folder(tmp_path, other)
    renamed = Header("text", "/the/same/checkpoint", "abc", "last", WIDTH, 30, "lower-cased")
    claim_folder(tmp_path, renamed)
    assert Header.read(tmp_path).encoder == "some/encoder"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 9),
        ("dtype", "float64"),
        ("modality", "audio"),
        ("modality", "image"),  # in a folder named text
        ("max_tokens", None),
        *(("width", width) for width in (0, -64, "32", 32.0, 1e30, True, 2**31)),
        ("weights", 7),
        ("preprocessing", None),
    ],
)
def test_a_header_that_this_version_does_not_write_is_refused(tmp_path, key, value):
    folder = tmp_path / "text"
    fill(folder, {"a": tokens(1)})
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps(header | {key: value}))
    with pytest.raises(InputError, match=re.escape(f"header.json: not a header of this version ({key} is {value!r}")):
        FeatureStore(folder)


def test_a_header_that_cannot_be_read_is_refused(tmp_path):
    fill(tmp_path, {"a": tokens(1)})
    for content in (b"\xff\xfe", b"[" * 100_000, b"[]", b'{"version": 1}', b""):
        (tmp_path / "header.json").write_bytes(content)
        with pytest.raises(InputError, match=r"header\.json: not a header of this version"):
            FeatureStore(tmp_path)


def test_a_shard_knows_what_it_was_written_for(tmp_path):
    image = Header("image", "some/encoder", "abc", "last", WIDTH, 30, "RGB")
    with FeatureWriter(tmp_path / "image", image) as writer:
        writer.add({"a": tokens(1)}, {"a": Record("1")})
    fill(tmp_path / "text", {"a": tokens(2)})
    shard = "shard-00000.lmdb"
    (tmp_path / "image" / shard).rename(tmp_path / "text" / shard)
    for use in (FeatureStore, lambda folder: fill(folder, {"b": tokens(2)})):
        with pytest.raises(InputError, match=r"text/shard-00000\.lmdb: was not written .*modality is 'image', there 'text'"):
            use(tmp_path / "text")
    # One letter of header.json, changed by whatever: another text, but not the one that the shard was written with.
    fill(tmp_path / "flipped", {"a": tokens(2)})
    path = tmp_path / "flipped" / "header.json"
    path.write_text(path.read_text().replace("lower-cased", "lower-dased"))
    with pytest.raises(InputError, match="preprocessing is 'lower-cased', there 'lower-dased'"):
        FeatureStore(tmp_path / "flipped")


def test_a_shard_of_an_earlier_version_is_read_and_written_on(tmp_path):
    fill(tmp_path, {"a": tokens(1)})
    env = lmdb.open(str(tmp_path / "shard-00000.lmdb"), subdir=False, max_dbs=2)
    with env.begin(write=True) as transaction:
        assert transaction.delete(b"header")
    env.close()
    with FeatureStore(tmp_path) as store:
        np.testing.assert_array_equal(store.read("a"), tokens(1))
    fill(tmp_path, {"b": tokens(2)})
    (tmp_path / "header.json").write_text((tmp_path / "header.json").read_text().replace("abc", "abd"))
    with pytest.raises(InputError, match="weights is 'abc', there 'abd'"):
        FeatureStore(tmp_path)


def fingerprint(folder) -> str:
    with FeatureStore(folder) as store:
        return store.content_fingerprint()


def test_fingerprint_of_the_content(tmp_path):
    """It follows what the features were made from, whatever the order, the shards and the look of the files."""

    def write(name: str, *parts: dict[str, Record]) -> str:
        for shard, records in enumerate(parts):
            with FeatureWriter(tmp_path / name, HEADER, shard) as writer:
                writer.add({item: tokens(1) for item in records if records[item].fate != "stop"}, records)
        return fingerprint(tmp_path / name)

    a, b = Record("1"), Record("2")
    one = write("one", {"a": a, "b": b})
    assert write("two shards", {"b": b}, {"a": a}) == one
    assert write("seen again", {"a": dataclasses.replace(a, seen="5 7"), "b": b}) == one
    assert write("bad", {"a": a, "b": b, "c": Record("none", "stop", "no image file")}) == one
    assert write("other", {"a": a, "b": Record("3")}) != one
    assert write("exchanged", {"a": b, "b": a}) != one
    assert write("more", {"a": a, "b": b, "c": b}) != one


def test_fingerprint_of_as_many_items_as_arts_has(tmp_path):
    with FeatureWriter(tmp_path, HEADER) as writer:
        writer.add({}, {f"item{number}": Record(f"{number:032x}", seen=f"{number} 1700000000") for number in range(60_000)})
    begin = time.process_time()  # not the clock's: others may be busy
    fingerprint(tmp_path)
    assert time.process_time() - begin < 3


def test_the_map_grows(tmp_path, monkeypatch):
    monkeypatch.setattr("odmt.features.writer.INITIAL_MAP_BYTES", 1 << 18)
    big = {f"item{n}": np.full((200, WIDTH), n) for n in range(500)}  # 0.8 MB in one transaction
    fill(tmp_path, big)
    fill(tmp_path, {"after": tokens(9)})
    store = FeatureStore(tmp_path)
    assert len(store) == 501
    np.testing.assert_array_equal(store.read("item499"), big["item499"])


def test_a_failing_batch_leaves_nothing_behind(tmp_path):
    fill(tmp_path, {"a": tokens(1)})
    too_long = "x" * 600
    with FeatureWriter(tmp_path, HEADER) as writer, pytest.raises(InputError, match="cannot be written"):
        writer.add({"b": tokens(2), too_long: tokens(3)}, {})
    with FeatureStore(tmp_path) as store:
        assert "b" not in store
        assert len(store) == 1


def test_discarding_reaches_every_shard(tmp_path):
    fill(tmp_path, {"a": tokens(1), "b": tokens(2)})
    fill(tmp_path, {"c": tokens(3)}, shard=1)
    discard(tmp_path, {"a", "c"})
    with FeatureStore(tmp_path) as store:
        assert ["a" in store, "b" in store, "c" in store] == [False, True, False]
    assert set(read_records(tmp_path)) == {"b"}


def test_lists_name_items_by_their_fate(tmp_path):
    records = {
        "x": Record("1", "drop", "broken\tin\ntwo lines"),
        "b": Record("1", "blank", "gone"),
        "a": Record("1", "drop", "gone"),
    }
    with FeatureWriter(tmp_path, HEADER) as writer:
        writer.add({"b": tokens(0), "ok": tokens(1)}, {**records, "ok": Record("1")})
    write_lists(tmp_path, ["x", "b", "a", "ok"])
    assert (tmp_path / "dropped.tsv").read_text() == "a\tgone\nx\tbroken in two lines\n"
    assert (tmp_path / "blank.tsv").read_text() == "b\tgone\n"
    assert not (tmp_path / "bad_images.tsv").exists()
    discard(tmp_path, {"a"})
    write_lists(tmp_path, ["b", "a", "ok"])
    assert [name for name in LISTS.values() if (tmp_path / name).exists()] == ["blank.tsv"]


def test_two_stores_of_a_folder_live_side_by_side(tmp_path):
    fill(tmp_path, {"a": tokens(1)})
    first, second = FeatureStore(tmp_path), FeatureStore(tmp_path)
    first.close()
    np.testing.assert_array_equal(second.read("a"), tokens(1))
    second.close()
    fill(tmp_path, {"b": tokens(2)})  # LMDB refuses to open a file twice: both have let go of it
    assert len(FeatureStore(tmp_path)) == 2


def test_threads_read_what_one_reads(tmp_path):
    items = {f"item{n}": np.full((20, WIDTH), n, np.float16) for n in range(200)}
    fill(tmp_path, items)
    store = FeatureStore(tmp_path)
    wrong = []

    def read_all(step: int):
        for item_id in list(items)[::step]:
            if not np.array_equal(store.read(item_id), items[item_id]):
                wrong.append(item_id)

    threads = [threading.Thread(target=read_all, args=(step,)) for step in (1, -1, 3, -3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def read_in_child(store: FeatureStore, item_id: str, answers):
    answers.put(store.read(item_id).tolist())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read(tmp_path, method):
    fill(tmp_path, {"a": tokens(1, 2)})
    store = FeatureStore(tmp_path)
    context = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    child = context.Process(target=read_in_child, args=(store, "a", answers))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert answers.get() == tokens(1, 2).tolist()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read("a"), tokens(1, 2))


def test_opening_does_not_grow_with_the_items(tmp_path):
    seconds = {}
    for count in (10, 30_000):
        folder = tmp_path / str(count)
        fill(folder, {f"item{n}": tokens(n % 7) for n in range(count)})
        repeats = []
        for _ in range(5):
            begin = time.process_time()
            with FeatureStore(folder) as store:
                assert len(store) == count
            repeats.append(time.process_time() - begin)
        seconds[count] = min(repeats)
    assert seconds[30_000] < 5 * seconds[10] + 0.01


def test_read_only_folder_can_be_read(tmp_path):
    fill(tmp_path, {"a": tokens(1)})
    (tmp_path / "shard-00000.lmdb-lock").unlink()
    with FeatureStore(tmp_path) as store:
        np.testing.assert_array_equal(store.read("a"), tokens(1))
    assert not (tmp_path / "shard-00000.lmdb-lock").exists()  # reading needs no lock file, so no right to write


def test_values_are_raw_float16_with_a_checksum(tmp_path):
    fill(tmp_path, {"a": tokens(1, 2)})
    env = lmdb.open(str(tmp_path / "shard-00000.lmdb"), subdir=False, readonly=True, max_dbs=2)
    with env.begin(db=env.open_db(b"features", create=False)) as transaction:
        value = transaction.get(b"a")
    assert value[:-8] == tokens(1, 2).astype("<f2").tobytes()
    assert len(value) == 2 * WIDTH * 2 + 8


def test_float32_is_stored_as_it_is(tmp_path):
    values = np.array([[1e-30, 1 / 3, 7e4, 3e38]], np.float32)  # float16 has 0, 0.3333, infinity and infinity
    header = dataclasses.replace(HEADER, dtype="float32")
    with FeatureWriter(tmp_path, header) as writer:
        writer.add({"a": np.vstack([values, -values]), "b": tokens(1)}, dict.fromkeys("ab", Record("source")))
    with FeatureStore(tmp_path) as store:
        assert (store.num_tokens("a"), store.num_tokens("b")) == (2, 1)
        np.testing.assert_array_equal(store.read("a"), np.vstack([values, -values]))
        assert store.read("b").dtype == np.float32
        stored = StoredTable(store, ["b", "a"])
        assert stored.nbytes == 3 * WIDTH * 4
        for table in (stored, ResidentTable(stored, torch.device("cpu"))):
            gathered = table.gather(torch.tensor([2, 1]))
            (part,) = gathered.split(2)
            np.testing.assert_array_equal(part.values, np.vstack([values, -values, tokens(1)]))
            np.testing.assert_array_equal(table.cls(), np.vstack([0 * values, tokens(1), values]))


def test_items_are_read_straight_into_their_rows(tmp_path):
    written = {"a": tokens(1, 2, 3), "b": tokens(4), "c": tokens(5, 6)}
    fill(tmp_path, written)
    out = np.zeros((4, WIDTH), np.float16)
    with FeatureStore(tmp_path) as store:
        store.read_into(["c", "a"], [out[:1], out[1:]])
        np.testing.assert_array_equal(out, np.vstack([written["c"][:1], written["a"]]))
        with pytest.raises(InputError, match="no features of item 'x'"):
            store.read_into(["a", "x"], [out[:3], out[:1]])


def test_types_are_compared_and_known(tmp_path):
    fill(tmp_path, {"a": tokens(1)})
    with pytest.raises(InputError, match="dtype is 'float16', asked for 'float32'"):
        claim_folder(tmp_path, dataclasses.replace(HEADER, dtype="float32"))
    path = tmp_path / "header.json"
    path.write_text(path.read_text().replace("float16", "float8"))
    with pytest.raises(InputError, match=r"not a header of this version .dtype is 'float8', not float16 or float32"):
        FeatureStore(tmp_path)
