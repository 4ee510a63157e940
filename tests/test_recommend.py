"""What a run recommends: the ranks of its test, names in and out, new items without IDs, every mistake with a remedy."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from graph_dataset import write_pairs
from ring_dataset import WIDTH, write_ring

from odmt.checkpoint import load_tensors
from odmt.cli import run as command_line
from odmt.config_files import load_config
from odmt.errors import InputError
from odmt.exports import export_vectors, read_users, write_table
from odmt.features.header import Record
from odmt.features.store import FeatureStore
from odmt.features.writer import FeatureWriter
from odmt.recommend import load_run
from odmt.recommend_command import recommend
from odmt.train import train

ROOT = Path(__file__).parents[1]
SMALL = ["train.epochs=1", "train.device=cpu", "model.dim=8"]
SEQUENTIAL = ["data.max_seq_len=5", "model.num_layers=1", "model.backbone_layers=1", "train.batch_size=8"]
MODELS = {
    "odmt": [],
    "sasrec": ["model.sources=[id]", "model.item_encoder=dnn", "model.fusion=early"],
    "text": ["model.sources=[text]", "model.item_encoder=transformer", "model.fusion=early"],
    "late": ["model.item_encoder=dnn", "model.fusion=late"],
    "sum": ["model.item_encoder=moe", "model.fusion=sum"],
    "fdsa": ["model.item_encoder=dnn", "model.fusion=fdsa", "model.id_encoder=embedding"],
    "seen_id": ["model.id_visible_to_modalities=true"],
    "gru4rec": ["model.backbone=gru4rec"],
    "sgfd": ["model.item_encoder=sgfd"],
}
HOSTS = ["bm3", "grcn", "maml", "lightgcn", "bprmf"]
NEW = "new1"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Datasets: a ring of 20 items, and pairs."""
    root = tmp_path_factory.mktemp("recommend")
    write_ring(root / "ring", 20, 8)
    write_pairs(root / "pairs")
    return root


@pytest.fixture(scope="module")
def run_of(root):
    """The function that trains a model, once, and gives the run's folder."""

    def run_of(name: str) -> Path:
        places = [f"data.root={root}", f"runs={root / 'runs'}", f"name={name}"]
        graph = ["family=graph", "data.dataset=pairs", f"model.host={name}", "train.batch_size=16", "train.lr=0.01"]
        own = graph if name in HOSTS else ["data.dataset=ring", *SEQUENTIAL, *MODELS[name]]
        config = load_config([*own, *SMALL, *places])
        train(config, resume=True)
        return config.folder

    return run_of


@pytest.fixture
def own_root(root, tmp_path) -> Path:
    """A copy of the datasets that a test may change."""
    shutil.copytree(root, tmp_path / "own", ignore=shutil.ignore_patterns("runs"))
    return tmp_path / "own"


def add_new_item(dataset: Path, item: str = NEW, like: str = "3"):
    """Let an item appear after training, with the features of another."""
    with (dataset / "items.tsv").open("a") as file:
        file.write(f"{item}\tthing anew\n")
    for modality in ("text", "image"):
        with FeatureStore(dataset / "features" / modality) as store:
            header, tokens = store.header, store.read(like)
        with FeatureWriter(dataset / "features" / modality, header) as writer:
            writer.add({item: tokens}, {item: Record("later")})


@pytest.mark.parametrize("name", [*MODELS, *HOSTS])
def test_the_places_in_the_lists_are_the_ranks_of_the_test(name, run_of):
    run = load_run(run_of(name))
    ranks = load_tensors(run.folder / "ranks.safetensors")[0]
    held_out = run.task.held_out("test")
    for source in run.sources:
        table = run.recommend("all", len(run.item_ids), source)
        places = table.set_index(["user", "item"])["rank"]
        for user, name in enumerate(run.user_ids):
            mine = slice(held_out.offsets[user], held_out.offsets[user + 1])
            for item, rank in zip(held_out.items[mine], ranks[f"test/{source}"][mine].tolist()):
                target = run.item_ids[item - run.task.first_item]
                if np.isfinite(rank) and rank == int(rank):  # no rival of equal score
                    assert places[name, target] == rank


def test_seen_items_are_left_out_or_not(run_of):
    run = load_run(run_of("odmt"))
    names, people = run.people(["user0"])
    assert [run.item_ids[column - 1] for column in people.histories.items] == ["1", "2", "3", "4", "5", "6", "7"]
    assert not set(run.recommend(names, 13)["item"]) & set("1234567")
    assert len(run.recommend(names, 20)) == 13, "no more than there are"
    assert set(run.recommend(names, 20, exclude_seen=False)["item"]) == set(run.item_ids)
    assert "8" not in set(run.recommend(names, 20, held_out=True)["item"]), "the held-out item has been had as well"
    assert set(run.recommend(names, 3, candidates=["9", "11"])["item"]) == {"9", "11"}
    assert list(run.recommend(names, 3)) == ["user", "rank", "item", "score"]


def test_a_history_of_somebody_new_is_scored_as_a_users_own(run_of):
    run = load_run(run_of("odmt"))
    known = run.recommend(["user4"], 5)
    strange = run.recommend([[str(item) for item in range(5, 12)]], 5)
    assert strange["item"].tolist() == known["item"].tolist()
    np.testing.assert_allclose(strange["score"], known["score"], rtol=1e-5)
    assert run.recommend({"ann": ["5"], "bob": ["7", "8"]}, 1)["user"].tolist() == ["ann", "bob"]


@pytest.mark.parametrize("name", ["odmt", "late", "sum", "gru4rec", "bm3", "lightgcn"])
def test_products_of_vectors_are_scores(name, run_of):
    run = load_run(run_of(name))
    for source in run.sources:
        table = run.recommend(run.user_ids[:1], len(run.item_ids), source, exclude_seen=False)
        scores = run.item_vectors(source) @ run.user_vectors(run.user_ids[:1], source)[0]
        expected = dict(zip(run.item_ids, scores))
        np.testing.assert_allclose(table["score"], [expected[item] for item in table["item"]], rtol=1e-4, atol=1e-5)


def test_neighbours_are_the_nearest_by_cosine(run_of):
    run = load_run(run_of("odmt"))
    vectors = run.item_vectors("text")
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = units @ units[4]
    cosines[4] = -1
    best = np.argsort(-cosines)[:3]
    table = run.similar_items(["5"], 3, "text")
    assert table["neighbour"].tolist() == [run.item_ids[item] for item in best]
    np.testing.assert_allclose(table["score"], cosines[best], rtol=1e-5)
    fused = run.similar_items(["5"], 19).set_index("neighbour")["score"]
    parts = [run.similar_items(["5"], 19, source).set_index("neighbour")["score"] for source in ("id", "text", "image")]
    np.testing.assert_allclose(fused, (sum(parts) / 3)[fused.index], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["odmt", "late", "sum", "sgfd", "text", "gru4rec"])
def test_new_items_are_scored_without_an_id(name, run_of, own_root):
    folder, before = run_of(name), {}
    add_new_item(own_root / "ring")
    run = load_run(folder, data_root=own_root)
    assert run.new_items == [NEW]
    before = run.recommend("all", 5)
    assert "scored_by" not in before
    assert NEW not in set(before["item"]), "what is not asked for is not recommended"
    table = run.recommend("all", 21, new_items=True, exclude_seen=False)
    assert set(table["item"]) == {*run.item_ids, NEW}
    if {"text", "image"} <= set(run.sources):  # it has the features of item 3, and so its scores
        new, old = (table[table["item"] == item].set_index("user")["scored_by"] for item in (NEW, "3"))
        assert set(new) == {"text+image"}
        assert set(old) == {"+".join(run.catalogue.averaged)}
        scores = [
            run.recommend(["user0"], 21, source, False, None, True).set_index("item")["score"] for source in ("text", "image")
        ]
        for of_source in scores:
            assert of_source[NEW] == pytest.approx(of_source["3"], rel=1e-4)
        assert table.set_index(["user", "item"])["score"]["user0", NEW] == pytest.approx(sum(s[NEW] for s in scores) / 2, rel=1e-4)
        assert run.similar_items([NEW], 1, "text")["neighbour"].tolist() == ["3"]
    if "id" in run.sources:
        with pytest.raises(InputError, match=r"source=id: nobody trained one of the new items \('new1'.*take fused, text, image"):
            run.recommend("all", 3, "id", candidates=[NEW])
    with pytest.raises(InputError, match="item 'new1' came after training, so no history can hold it"):
        run.recommend([["1", NEW]])


@pytest.mark.parametrize("name", ["sasrec", "fdsa", "seen_id"])
def test_models_of_which_ids_are_a_part_of_everything_refuse_new_items(name, run_of, own_root):
    folder = run_of(name)
    add_new_item(own_root / "ring")
    with pytest.raises(InputError, match="cannot be recommended by this model, which knows an item by what it has learnt"):
        load_run(folder, data_root=own_root).recommend("all", 3, new_items=True)


def test_hosts_refuse_what_they_cannot_know(run_of):
    run = load_run(run_of("bm3"))
    with pytest.raises(InputError, match="says nothing to bm3, which has learnt a vector of every user"):
        run.recommend([["i1", "i2"]], 3)


def test_a_run_of_another_machine_is_read_here(run_of, tmp_path):
    """Device, precision and the number of processes decide how something is computed, not what."""
    folder = shutil.copytree(run_of("odmt"), tmp_path / "odmt")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["train"]["device"], config["data"]["placement"] = "cuda", "pinned"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "last.safetensors").unlink()
    there, here = load_run(folder, device="cpu"), load_run(run_of("odmt"))
    assert there.recommend().equals(here.recommend())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_recommends_what_a_cpu_does(run_of):
    on_cpu, on_gpu = (load_run(run_of("odmt"), device=device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu.item_vectors(), on_cpu.item_vectors(), atol=0.05)
    assert len(on_gpu.recommend()) == len(on_cpu.recommend())


@pytest.mark.parametrize("change", ["behaviours.tsv", "features"])
def test_a_run_of_another_dataset_is_refused(change, run_of, own_root):
    folder, dataset = run_of("odmt"), own_root / "ring"
    if change == "features":
        with FeatureStore(dataset / "features" / "text") as store:
            header = store.header
        shutil.rmtree(dataset / "features" / "text")
        tokens = {str(item): np.ones((2, WIDTH), np.float16) for item in range(1, 21)}
        with FeatureWriter(dataset / "features" / "text", header) as writer:
            writer.add(tokens, {item: Record("other") for item in tokens})
    else:
        lines = (dataset / change).read_text().splitlines()
        (dataset / change).write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match=r"trained with other (interactions|text content).*data_root="):
        load_run(folder, data_root=own_root)


def test_a_run_goes_on_when_new_items_have_come(run_of, own_root, tmp_path):
    """What a model never sees does not make its dataset another."""
    places = [f"data.root={own_root}", f"runs={tmp_path / 'runs'}", "data.dataset=ring", *SEQUENTIAL, *SMALL]
    train(load_config(places))
    add_new_item(own_root / "ring")
    assert train(load_config([*places, "train.epochs=2"]), resume=True)["epochs"] == 2


def test_mistakes_name_their_remedy(run_of, tmp_path, own_root):
    run = load_run(run_of("odmt"))
    wrong = [
        (lambda: run.recommend(["user21x"]), r"no user 'user21x' in this run; did you mean user"),
        (lambda: run.recommend([]), "no users are named"),
        (lambda: run.recommend({}), "no users are named"),
        (lambda: run.recommend([["1", "99x"]]), "history 0: no item '99x' in this run"),
        (lambda: run.recommend([[]]), "history 0: no list of items; give one item"),
        (lambda: run.recommend({"ann": "1"}), "history ann: no list of items"),
        (lambda: run.recommend(k=21), "21 items a list: there are 20 to choose from; take 1 to 20"),
        (lambda: run.recommend(k=0), "take 1 to 20"),
        (lambda: run.recommend(source="audio"), "source=audio: this run has scores of fused, id, text, image"),
        (lambda: run.recommend(candidates=[]), "candidates: none is named"),
        (lambda: run.recommend(candidates=["x"]), "no item 'x'"),
        (lambda: run.similar_items(["x"]), "no item 'x'"),
        (lambda: run.similar_items(["1"], 20), "take 1 to 19"),
        (lambda: run.similar_items(["1"], source="x"), "vectors of fused, id, text, image"),
        (lambda: load_run(tmp_path), r"no config.yaml, so this is no run"),
        (lambda: load_run(run.folder, data_root=tmp_path / "gone"), "which is not there now; name the folder of the datasets"),
        (lambda: read_users(str(tmp_path / "gone.txt")), "no such file"),
    ]
    for call, message in wrong:
        with pytest.raises(InputError, match=message):
            call()
    folder = shutil.copytree(run.folder, tmp_path / "unfinished")
    (folder / "best.safetensors").unlink()
    with pytest.raises(InputError, match=r"no best.safetensors, so no epoch of the run has ended; go on with: .*--resume"):
        load_run(folder)


def test_users_are_read_from_a_file(tmp_path):
    path = tmp_path / "users"
    path.write_text("u1\n\nu2\n")
    assert read_users(str(path)) == ["u1", "u2"]
    assert read_users("u1,u2") == ["u1", "u2"]
    path.write_text("ann\t1 2\nbob\t3\n")
    assert read_users(str(path)) == {"ann": ["1", "2"], "bob": ["3"]}
    for text, message in {
        "": "names nobody",
        "ann\t1\nu2\n": "line 2: has no tab, and other lines do",
        "a\t1\t2\n": "line 1: has several tabs",
        "a\t1\na\t2\n": "'a' stands in several",
    }.items():
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_users(str(path))


def test_tables_are_written_as_their_ending_says(run_of, tmp_path):
    table = load_run(run_of("odmt")).recommend("all", 3)
    readers = {".parquet": pl.read_parquet, ".csv": lambda path: pl.read_csv(path, infer_schema=False), ".jsonl": pl.read_ndjson}
    for suffix, read in readers.items():
        write_table(table, tmp_path / f"table{suffix}")
        back = read(tmp_path / f"table{suffix}")
        assert back.columns == list(table)
        assert back["item"].to_list() == table["item"].tolist()
        np.testing.assert_allclose(back["score"].cast(pl.Float64), table["score"], rtol=1e-6)
    assert len(list(tmp_path.iterdir())) == 3, "nothing half-written is left"


def test_vectors_are_exported_with_their_names(run_of, tmp_path):
    run = load_run(run_of("odmt"))
    export_vectors(run, tmp_path / "vectors")
    export_vectors(run, tmp_path / "vectors")  # replaces its own
    assert (tmp_path / "vectors/item_ids.txt").read_text().split() == run.item_ids
    items = load_tensors(tmp_path / "vectors/item_vectors.safetensors")[0]
    assert {source: tuple(rows.shape) for source, rows in items.items()} == {
        "fused": (20, 24), "id": (20, 8), "text": (20, 8), "image": (20, 8)
    }  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("dear")
    with pytest.raises(InputError, match=r"holds thesis\.txt, so this command has not made it"):
        export_vectors(run, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_vectors_are_searched_with_faiss(run_of, tmp_path):
    faiss = pytest.importorskip("faiss")
    run = load_run(run_of("odmt"))
    export_vectors(run, tmp_path)
    items, users = (load_tensors(tmp_path / f"{kind}_vectors.safetensors")[0]["fused"].numpy() for kind in ("item", "user"))
    names = (tmp_path / "item_ids.txt").read_text().split()
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    scores, found = index.search(users, 5)
    expected = run.recommend("all", 5, exclude_seen=False)
    assert [names[item] for item in found.ravel()] == expected["item"].tolist()
    np.testing.assert_allclose(scores.ravel(), expected["score"], rtol=1e-4)


def test_the_command(run_of, own_root, tmp_path):
    add_new_item(own_root / "ring")

    def command(*args: str):
        call = [sys.executable, str(ROOT / "scripts/recommend.py"), str(run_of("odmt")), "--data-root", str(own_root), *args]
        return subprocess.run(call, capture_output=True, text=True, check=False)

    done = command(
        "--users", "all", "--top", "3", "--out", str(tmp_path / "table.csv"), "--export-vectors", str(tmp_path / "vectors")
    )
    assert done.returncode == 0, done.stderr
    assert "60 rows" in done.stdout
    assert "left out: 1 item that came after training; --new-items recommends what is new too, without IDs\n" in done.stdout
    assert len(pl.read_csv(tmp_path / "table.csv")) == 60
    done = command("--users", "user1", "--top", "20", "--new-items", "--keep-seen", "--similar-to", NEW)
    said = "in 1 row: 1 item that came after training, scored by text+image, since nobody trained an ID for what is new\n"
    assert said in done.stdout
    assert "neighbour" in done.stdout
    assert re.search(r"^user1 +1 +(\d+) .* thing \1$", done.stdout, re.MULTILINE), "the text beside the name"
    done = command("--users", "nobody")
    assert done.returncode == 2
    assert "no user 'nobody'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_whether_new_items_are_among_the_first_is_said(run_of, own_root, capsys):
    for item, like in ((NEW, "3"), ("new2", "9")):
        add_new_item(own_root / "ring", item, like)
    first = load_run(run_of("odmt"), data_root=own_root).recommend("all", 1, new_items=True)
    user = first["user"][~first["item"].isin([NEW, "new2"])].iloc[0]
    said = {
        1: "no item that came after training is among those recommended",
        22: "in 2 rows: 2 items that came after training, scored by",
    }
    for top, expected in said.items():
        recommend(run_of("odmt"), users=user, top=top, new_items=True, keep_seen=top > 1, data_root=own_root)
        assert f"\n{expected}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--users", "all", "--out", "table.xlsx"], "unknown ending '.xlsx'; take one of .parquet, .csv, .jsonl"),
        (["--users", "all", "--out", "gone/table.csv"], "there is no folder"),
        ([], "say what is wanted"),
    ],
)
def test_mistakes_in_the_command(run_of, capsys, args, message):
    with pytest.raises(SystemExit) as end:
        command_line(recommend, [str(run_of("odmt")), *args], positional=True)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_run_keeps_its_name(run_of):
    assert load_run(run_of("late")).task.config.name == "late"
