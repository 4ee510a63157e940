"""Ready features of every format in a dataset's store, continued after a kill, and what is said of files that cannot be taken."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import save_file as save_safetensors
from safetensors.torch import save_file as save_torch_safetensors
from waiting import wait_until

from odmt.errors import InputError
from odmt.features import importing
from odmt.features.importing import import_features
from odmt.features.store import FeatureStore
from odmt.features.tables import load_features
from odmt.sequential.config import DataConfig

ITEMS = [f"i{n}" for n in range(7)]
VECTORS = np.random.default_rng(0).normal(size=(7, 4))
TOKENS = np.random.default_rng(1).normal(size=(7, 3, 4))


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "items.tsv").write_text("".join(f"{item}\tthing\n" for item in ITEMS))
    return folder


def stored(dataset: Path, modality: str = "image") -> np.ndarray:
    with FeatureStore(dataset / "features" / modality) as store:
        return np.stack([store.read(item) for item in ITEMS])


def save(path: Path, array: np.ndarray) -> Path:
    """Write an array in the format of the path's suffix; without one, a folder with a file an item."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, array)
    elif path.suffix in (".pt", ".pth"):
        torch.save(torch.from_numpy(array), path)
    elif path.suffix == ".safetensors":
        save_safetensors({"features": array}, path)
    elif path.suffix == ".parquet":  # lists, or arrays of one shape
        form = pl.Array(pl.Float64, array.shape[1:]) if array.ndim == 3 else pl.List(pl.Float64)
        pl.DataFrame({"features": pl.Series(array.tolist(), dtype=form)}).write_parquet(path)
    else:
        path.mkdir()
        kinds = [".npy", ".pt", ".safetensors"]
        for n, (item, row) in enumerate(zip(ITEMS, array)):
            save(path / f"{item}{kinds[n % 3]}", row)
    return path


NAMES = ["f.npy", "f.npz", "f.pt", "f.pth", "f.safetensors", "f.parquet", "folder"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format(dataset, tmp_path, name, monkeypatch):
    monkeypatch.setattr(importing, "BLOCK_BYTES", 200)  # blocks of few rows
    import_features(dataset, "image", save(tmp_path / name, VECTORS))
    np.testing.assert_array_equal(stored(dataset), VECTORS[:, None].astype(np.float16))
    tokens = save(tmp_path / f"tokens_{name}", TOKENS)
    import_features(dataset, "text", tokens, dtype="float32", first_token="mean")
    np.testing.assert_array_equal(stored(dataset, "text"), TOKENS.astype(np.float32))
    with FeatureStore(dataset / "features" / "text") as store:
        header = store.header
    assert (header.width, header.max_tokens, header.dtype) == (4, 3, "float32")
    assert (header.layer, header.preprocessing) == ("tokens as imported, their mean first", "imported")
    assert header.encoder == str(tokens)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_every_type(dataset, tmp_path, dtype, kind):
    tensor = torch.from_numpy(VECTORS).to(dtype)
    path = tmp_path / f"f.{kind}"
    torch.save({"image": tensor, "epoch": 3}, path) if kind == "pt" else save_torch_safetensors({"image": tensor}, path)
    import_features(dataset, "image", path, dtype="float32")
    np.testing.assert_array_equal(stored(dataset)[:, 0], tensor.float().numpy())


def test_parameters_and_types_that_numpy_lacks(dataset, tmp_path):
    torch.save({"weight": torch.nn.Parameter(torch.from_numpy(VECTORS))}, tmp_path / "state.pt")
    import_features(dataset, "image", tmp_path / "state.pt")
    np.testing.assert_array_equal(stored(dataset), VECTORS[:, None].astype(np.float16))
    small = torch.from_numpy(VECTORS).to(torch.float8_e4m3fn)
    torch.save(small, tmp_path / "f8.pt")
    import_features(dataset, "text", tmp_path / "f8.pt")
    np.testing.assert_array_equal(stored(dataset, "text")[:, 0], small.half().numpy())
    torch.save(torch.from_numpy(VECTORS).to_sparse(), tmp_path / "sparse.pt")
    with pytest.raises(InputError, match=r"sparse.pt: (a sparse tensor; save its to_dense|no tensors that can be read)"):
        import_features(dataset, "text", tmp_path / "sparse.pt")


def test_old_torch_files_and_fortran_order(dataset, tmp_path):
    torch.save(torch.from_numpy(VECTORS), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    import_features(dataset, "image", tmp_path / "old.pt")
    np.save(tmp_path / "columns.npy", np.asfortranarray(VECTORS))
    import_features(dataset, "text", tmp_path / "columns.npy")
    np.testing.assert_array_equal(stored(dataset), stored(dataset, "text"))


def test_the_mean_can_be_put_in_front(dataset, tmp_path):
    import_features(dataset, "image", save(tmp_path / "f.npy", TOKENS), dtype="float32", first_token="add-mean")
    found = stored(dataset)
    np.testing.assert_allclose(found[:, 0], TOKENS.mean(1), rtol=1e-6)
    np.testing.assert_array_equal(found[:, 1:], TOKENS.astype(np.float32))
    with FeatureStore(dataset / "features" / "image") as store:
        assert (store.header.max_tokens, store.header.layer) == (4, "tokens as imported, their mean put in front")


def test_items_of_different_lengths(dataset, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for n, item in enumerate(ITEMS):
        np.save(folder / f"{item}.npy", np.full((1, 1 + n % 3, 4), n, np.float32))
    import_features(dataset, "text", folder, first_token="cls")
    lists = pl.DataFrame({"itemID": ITEMS[::-1], "tokens": [[[float(n)] * 4] * (1 + n % 3) for n in range(7)][::-1]})
    lists.write_parquet(tmp_path / "f.parquet")
    import_features(dataset, "image", tmp_path / "f.parquet", first_token="cls")
    for modality in ("text", "image"):
        with FeatureStore(dataset / "features" / modality) as store:
            assert store.header.max_tokens == 3
            assert [store.num_tokens(item) for item in ITEMS] == [1, 2, 3, 1, 2, 3, 1]
            assert store.read("i5").tolist() == [[5] * 4] * 3


def test_rows_by_name(dataset, tmp_path):
    order = [3, 1, 0, 2, 6, 5, 4]
    save(tmp_path / "f.npy", VECTORS[order])
    lists = {
        "ids.txt": "".join(f"{ITEMS[n]}\n" for n in order),
        "i_id_mapping.csv": "asin\titemID\n" + "".join(f"{ITEMS[n]}\t{row}\n" for row, n in enumerate(order)),
        "swapped.csv": "itemID,asin\n" + "".join(f"{row},{ITEMS[n]}\n" for row, n in enumerate(order)),
        "toys.item2index": "".join(f"{ITEMS[n]}\t{row}\n" for row, n in sorted(enumerate(order), key=lambda pair: pair[1])),
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        import_features(dataset, "image", tmp_path / "f.npy", ids=tmp_path / name)
        np.testing.assert_array_equal(stored(dataset), VECTORS[:, None].astype(np.float16))
    (tmp_path / "ids.txt").write_text("".join(f"{item}\n" for item in ITEMS))  # another order: the items are stored anew
    import_features(dataset, "image", tmp_path / "f.npy", ids=tmp_path / "ids.txt")
    np.testing.assert_array_equal(stored(dataset), VECTORS[order][:, None].astype(np.float16))


def test_a_numbering_from_1_has_a_row_of_padding(dataset, tmp_path):
    save(tmp_path / "f.npy", np.vstack([np.zeros((1, 4)), VECTORS]))
    (tmp_path / "ids").write_text("".join(f"{item}\t{row}\n" for row, item in enumerate(ITEMS, 1)))
    import_features(dataset, "image", tmp_path / "f.npy", ids=tmp_path / "ids")
    np.testing.assert_array_equal(stored(dataset), VECTORS[:, None].astype(np.float16))


def test_names_within_the_file(dataset, tmp_path):
    np.savez(tmp_path / "f.npz", item_ids=np.array(ITEMS[::-1]), features=VECTORS[::-1])
    import_features(dataset, "image", tmp_path / "f.npz")
    np.testing.assert_array_equal(stored(dataset), VECTORS[:, None].astype(np.float16))


def test_more_items_than_the_dataset_has(dataset, tmp_path):
    np.savez(tmp_path / "f.npz", item_ids=np.array(["x", *ITEMS, "y"]), features=np.vstack([VECTORS[:1], VECTORS, VECTORS[:1]]))
    with pytest.raises(InputError, match=r"f.npz: 2 items are not in items.tsv, 'x' the first; --ignore-unknown"):
        import_features(dataset, "image", tmp_path / "f.npz")
    import_features(dataset, "image", tmp_path / "f.npz", ignore_unknown=True)
    np.testing.assert_array_equal(stored(dataset), VECTORS[:, None].astype(np.float16))


def test_rows_of_zeros_are_counted(dataset, tmp_path, capsys):
    vectors = VECTORS.copy()
    vectors[[1, 4]] = 0
    import_features(dataset, "image", save(tmp_path / "f.npy", vectors))
    assert "image features of 2 items are all zero, the usual mark of a missing image: i1, i4, listed in" in capsys.readouterr().out
    assert (dataset / "features" / "image" / "blank.tsv").read_text() == "i1\tall zero\ni4\tall zero\n"
    np.testing.assert_array_equal(stored(dataset), vectors[:, None].astype(np.float16))


def changed(value: float, row: int = 5) -> np.ndarray:
    vectors = VECTORS.copy()
    vectors[row, 2] = value
    return vectors


BAD = {
    "too few rows": (VECTORS[:6], r"f.npy: 6 rows, but .*items.tsv has 7 items; rows stand in its order, or --ids"),
    "too many rows": (np.vstack([VECTORS, VECTORS]), "f.npy: 14 rows"),
    "nan": (changed(np.nan), "f.npy: item 'i5' has 1 values that are not finite, nan the first"),
    "infinity": (changed(-np.inf, 0), "item 'i0' has 1 values that are not finite, -inf"),
    "too large": (
        changed(70000),
        "item 'i5' has the value 70000, which float16 cannot hold; store them as they are with --dtype float32",
    ),
    "too small": (np.full((7, 4), 1e-9), "item 'i0' has the value 1e-09, which float16 cannot hold"),
    "objects": (np.array([[None] * 4] * 7, object), "f.npy: cannot be read: an object array, which would have to be unpickled"),
    "ragged": (np.array([VECTORS[0], VECTORS[0, :2]] + [None] * 5, object), "an object array"),
    "whole numbers": (np.ones((7, 4), np.int32), "f.npy: values of type int32; features are float16, float32, float64 or bfloat16"),
    "complex numbers": (np.ones((7, 4), complex), "values of type complex128"),
    "one dimension": (VECTORS[:, 0], r"f.npy: an array of shape \[7\]; features are \[items, width\]"),
    "four dimensions": (np.ones((7, 2, 2, 2)), r"an array of shape \[7, 2, 2, 2\]"),
    "no width": (np.ones((7, 0)), r"an array of shape \[7, 0\]"),
    "no first token": (TOKENS, "f.npy: 3 tokens an item, .*--first-token cls, pooled or mean, or .* --first-token add-mean"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_are_named(dataset, tmp_path, case):
    array, message = BAD[case]
    np.save(tmp_path / "f.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        import_features(dataset, "image", tmp_path / "f.npy")
    # The mended file is taken as if nothing had been.
    import_features(dataset, "image", save(tmp_path / "f.npy", VECTORS))
    np.testing.assert_array_equal(stored(dataset), VECTORS[:, None].astype(np.float16))


def test_single_precision_has_its_limits_too(dataset, tmp_path):
    save(tmp_path / "f.npy", changed(1e39))
    with pytest.raises(InputError, match=r"item 'i5' has the value 1e\+39, which float32 cannot hold; scale the features"):
        import_features(dataset, "image", tmp_path / "f.npy", dtype="float32")
    import_features(dataset, "image", save(tmp_path / "f.npy", changed(70000)), dtype="float32")
    assert stored(dataset)[5, 0, 2] == 70000


BAD_IDS = {
    "too few": ("i0\ni1\n", "ids: 2 items, but 7 rows of features"),
    "twice": ("i0\ni1\ni2\ni3\ni1\ni5\ni6\n", "ids: item 'i1' has two rows, 2 and 5"),
    "unknown": ("i0\ni1\ni2\ni3\ni4\ni5\ni6x\n", "ids: 1 of 7 items have no row, 'i6' the first"),
    "empty": ("", "ids: the file is empty"),
    "row twice": ("".join(f"i{n}\t{n // 2}\n" for n in range(7)), "ids, line 2: number 0 is that of 'i0' already"),
    "row too large": (
        "".join(f"i{n}\t{n + 1}\n" for n in range(7)),
        "ids: row 7 of item 'i6', but there are 7 rows of features, from 0",
    ),
    "no number": ("i0\t0\ni1\tone\n", "ids, line 2: 'i1 one', expected two columns"),
    "rows without item": ("i0\t0\ni1\t1\n", "ids: 5 of 7 rows have no item, 2 the first"),
    "not UTF-8": ("é\n".encode("latin-1"), "ids, line 1: not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_IDS)
def test_bad_lists_of_names_are_named(dataset, tmp_path, case):
    content, message = BAD_IDS[case]
    (tmp_path / "ids").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=message):
        import_features(dataset, "image", save(tmp_path / "f.npy", VECTORS), ids=tmp_path / "ids")


def test_bad_files_are_named(dataset, tmp_path):
    def refused(path: Path, message: str, **options):
        with pytest.raises(InputError, match=message):
            import_features(dataset, "image", path, **options)

    refused(tmp_path / "f.npy", "f.npy: no such file")
    (tmp_path / "f.mat").write_text("x")
    refused(tmp_path / "f.mat", "f.mat: features are read from .npy, .npz, .pt")
    for suffix in (".npy", ".npz", ".pt", ".safetensors", ".parquet"):
        (tmp_path / f"f{suffix}").write_bytes(b"nothing of the kind" * 9)
        refused(tmp_path / f"f{suffix}", rf"f\{suffix}: ")
    whole = save(tmp_path / "cut.npy", VECTORS).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-20])
    refused(tmp_path / "cut.npy", "cut.npy: cannot be read")
    torch.save([1, 2], tmp_path / "list.pt")
    refused(tmp_path / "list.pt", "list.pt: holds a list; expected a tensor, or a dict of tensors")
    torch.save(Path("x"), tmp_path / "object.pt")
    refused(tmp_path / "object.pt", "object.pt: no tensors that can be read without unpickling")
    np.savez(tmp_path / "two.npz", a=VECTORS, b=VECTORS)
    refused(tmp_path / "two.npz", "two.npz: has not one but 2; its arrays: a, b; choose with --key")
    refused(tmp_path / "two.npz", "two.npz: no 'c' in it; its arrays: a, b", key="c")
    import_features(dataset, "text", tmp_path / "two.npz", key="b")
    np.savez(tmp_path / "objects.npz", np.array([[None]], object))
    refused(tmp_path / "objects.npz", "objects.npz: (cannot be read: an object array|values of type object)")
    pl.DataFrame({"item_id": ITEMS, "x": [1.0] * 7}).write_parquet(tmp_path / "flat.parquet")
    refused(tmp_path / "flat.parquet", "flat.parquet: has not one but 0; its columns of lists: none")
    pl.DataFrame({"x": [[1.0, 2.0]] * 6 + [[1.0]]}).write_parquet(tmp_path / "widths.parquet")
    refused(tmp_path / "widths.parquet", r"widths.parquet: item 'i6' has features of shape \[1\], the first item of width 2")
    pl.DataFrame({"x": [[1.0, 2.0]] * 6 + [None]}).write_parquet(tmp_path / "null.parquet")
    refused(tmp_path / "null.parquet", "null.parquet: cannot be read: row 7 has no value")
    pl.DataFrame({"x": [[1.0, 2.0]] * 6 + [[1.0, None]]}).write_parquet(tmp_path / "nan.parquet")
    refused(tmp_path / "nan.parquet", "nan.parquet: item 'i6' has 1 values that are not finite")
    pl.DataFrame({"x": [[[1.0], [2.0]]] * 5 + [[[1.0], [2.0, 3.0]]] * 2}).write_parquet(tmp_path / "tokens.parquet")
    refused(
        tmp_path / "tokens.parquet", "tokens.parquet: cannot be read: row 6 has tokens of width 2, others of 1", first_token="cls"
    )
    folder = save(tmp_path / "folder", VECTORS)
    refused(folder, "folder: a folder names its items by its files; leave --ids out", ids=tmp_path / "ids")
    save(folder / "i9.npy", VECTORS[0])
    refused(folder, "folder: 1 items are not in items.tsv, 'i9' the first")
    (folder / "i9.npy").unlink()
    (folder / "i3.npy").unlink()
    refused(folder, "folder: 1 of 7 items have no row, 'i3' the first")
    save(folder / "i3.npy", VECTORS[0, :3])
    refused(folder, r"folder: item 'i3' has features of shape \[3\], the first item of width 4")
    save(folder / "i3.npy", VECTORS[:2, None])
    refused(folder, "i3.npy: 2 rows in the file of one item")
    (tmp_path / "none").mkdir()
    refused(tmp_path / "none", "none: no file ITEM.npy or ITEM.pt")
    assert not (dataset / "features" / "image" / "shard-00000.lmdb").exists()


def test_another_file_is_not_mixed_in(dataset, tmp_path):
    import_features(dataset, "image", save(tmp_path / "f.npy", VECTORS))
    before = stored(dataset)
    with pytest.raises(
        InputError, match=r"features/image: holds features of .*f.npy' that differ .*weights is .*remove the folder"
    ):
        import_features(dataset, "image", save(tmp_path / "g.npy", VECTORS + 1))
    with (tmp_path / "f.npy").open("r+b") as file:  # one value, in place
        file.seek(-3 * 8, os.SEEK_END)
        file.write(np.float64(3).tobytes())
    with pytest.raises(InputError, match=r"f.npy' that differ from those of .*f.npy': weights is "):
        import_features(dataset, "image", tmp_path / "f.npy")
    save(tmp_path / "f.npy", VECTORS)
    with pytest.raises(InputError, match="dtype is 'float16', asked for 'float32'"):
        import_features(dataset, "image", tmp_path / "f.npy", dtype="float32")
    np.testing.assert_array_equal(stored(dataset), before)
    os.rename(tmp_path / "f.npy", tmp_path / "moved.npy")
    import_features(dataset, "image", tmp_path / "moved.npy")


@pytest.mark.parametrize("name", ["f.npy", "f.npz"])
def test_killed_and_started_again(tmp_path, name):
    num_items = 4000
    dataset = tmp_path / "data"
    dataset.mkdir()
    (dataset / "items.tsv").write_text("".join(f"i{n}\tthing\n" for n in range(num_items)))
    vectors = np.random.default_rng(0).normal(size=(num_items, 10, 64)).astype(np.float32)
    vectors[7] = 0
    save(tmp_path / name, vectors)
    program = (
        "import sys\nfrom pathlib import Path\nfrom odmt.features import importing\nimporting.BLOCK_BYTES = 25600\n"
        "importing.import_features(Path(sys.argv[1]), 'image', Path(sys.argv[2]), first_token='mean')\n"
    )
    shard = dataset / "features" / "image" / "shard-00000.lmdb"

    def count() -> int:
        return sum(1 for _ in FeatureStore(shard.parent).records()) if shard.exists() else 0

    process = subprocess.Popen([sys.executable, "-c", program, dataset, tmp_path / name], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: count() >= 100, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    before = count()
    assert 100 <= before < num_items
    done = subprocess.run([sys.executable, "-c", program, dataset, tmp_path / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"image features of 4,000 items; {num_items - before:,} were not there yet" in done.stdout
    assert "1 items are all zero" in done.stdout
    with FeatureStore(shard.parent) as store:
        for n in range(num_items):
            np.testing.assert_array_equal(store.read(f"i{n}"), vectors[n].astype(np.float16))


def test_memory_does_not_grow_with_the_file(tmp_path):
    dataset = tmp_path / "data"
    dataset.mkdir()
    num_items = 1600
    (dataset / "items.tsv").write_text("".join(f"i{n}\tthing\n" for n in range(num_items)))
    array = np.lib.format.open_memmap(tmp_path / "f.npy", "w+", np.float32, (num_items, 50, 1024))  # 328 MB
    array[:] = 1
    del array
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom odmt.features.importing import import_features\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\nbefore = peak()\n"
        "import_features(Path(sys.argv[1]), 'image', Path(sys.argv[2]), first_token='mean')\nprint(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, dataset, tmp_path / "f.npy"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 250  # MiB: of blocks, not of the file


def test_training_says_how_to_mend_what_is_missing(dataset, tmp_path):
    save(tmp_path / "f.npy", VECTORS)
    import_features(dataset, "text", tmp_path / "f.npy")
    data = DataConfig(dataset="data", root=str(tmp_path))
    with pytest.raises(
        InputError, match=r"1 items have no features, 'new' the first; import those of all items again, .*f.npy with"
    ):
        load_features(data, [*ITEMS, "new"], {"text": "cls"}, torch.device("cpu"))
    with pytest.raises(InputError, match=r"the dataset has no images; .*or import features"):
        load_features(data, ITEMS, {"image": "cls"}, torch.device("cpu"))
    (table,) = load_features(data, ITEMS, {"text": "cls"}, torch.device("cpu")).values()
    np.testing.assert_array_equal(table.cls()[1:], VECTORS.astype(np.float16))


def test_as_a_user_types_it(dataset, tmp_path):
    script = Path(__file__).parents[1] / "scripts" / "import_features.py"
    save(tmp_path / "f.npy", VECTORS)
    options = ["--dataset", "data", "--modality", "image", "--file", "f.npy"]

    def run(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, script, *options, *more], cwd=tmp_path, capture_output=True, text=True)

    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "image features of 7 items; 7 were not there yet or have changed\n"
    refused = run("--dtype", "float32")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: data/features/image: holds features")
