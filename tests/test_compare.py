"""Runs beside one another: the same numbers as their own results, whatever the family; other held-out items are refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from graph_dataset import write_pairs
from ring_dataset import write_ring

from odmt.compare import load_comparison
from odmt.config_files import load_config
from odmt.errors import InputError
from odmt.publishing import publish
from odmt.train import train

ROOT = Path(__file__).parents[1]
SMALL = ["model.dim=8", "train.device=cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A sequential and a graph run on a ring, and runs on other held-out items."""
    root = tmp_path_factory.mktemp("compare")
    write_ring(root / "ring", 30, 9)
    write_pairs(root / "pairs")
    sequential = ["data.dataset=ring", "model.item_encoder=dnn", "train.batch_size=8", "train.lr=0.01"]
    graph = ["family=graph", "model.host=lightgcn", "train.batch_size=16", "train.lr=0.05"]
    wanted = {
        "dnn": [*sequential, "train.epochs=3"],
        "light": [*graph, "data.dataset=ring", "train.epochs=4"],
        "pairs": [*graph, "data.dataset=pairs", "train.epochs=1"],
    }
    folders = {}
    for name, settings in wanted.items():
        config = load_config([f"data.root={root}", f"runs={root / 'runs'}", f"name={name}", *SMALL, *settings])
        train(config)
        folders[name] = config.folder
    return folders


@pytest.fixture(scope="module")
def comparison(runs):
    return load_comparison([runs["dnn"], runs["light"]], 10)


def test_metrics_are_those_of_the_results(comparison):
    table = comparison.metrics().set_index(["run", "source"])
    for contender in comparison.contenders:
        result = train(load_config([str(contender.run.folder / "config.yaml")]), resume=True)
        for source in contender.ranks:
            for metric in ("recall@10", "ndcg@20"):
                assert table.loc[(contender.name, source), metric] == pytest.approx(result["test"][f"{source}/{metric}"], abs=1e-12)


def test_differences_are_paired(comparison):
    line = comparison.differences().iloc[0]
    means = comparison.metrics().query("source == 'fused'").set_index("run")["recall@10"]
    assert line["run"] == "light − dnn"
    assert float(line["difference"]) == pytest.approx(means["light"] - means["dnn"], abs=1e-4)


def test_groups_add_up(comparison):
    hits = {of.name: comparison.hits(of) for of in comparison.contenders}
    served = comparison.served().set_index("")
    assert served.loc["served by dnn", "in all"] == hits["dnn"].sum()
    assert served.loc["served by dnn", "not by light"] == (hits["dnn"] & ~hits["light"]).sum()
    for table, count in (
        (comparison.by_popularity(), "number"),
        (comparison.by_category(), "number"),
        (comparison.by_length(), "users"),
    ):
        assert table[count].sum() == 30
        for name, of in hits.items():
            assert (table[name] * table[count]).sum() == pytest.approx(of.sum())
    popularity = comparison.by_popularity()["held-out items"].tolist()
    assert len(set(popularity)) == len(popularity)
    assert popularity[-1].startswith("fifth 5 of the items, most popular: seen ")
    assert comparison.by_category()["held-out items"].tolist() == ["kind 0", "kind 1", "kind 2"]
    correlation = comparison.correlation().set_index("")
    np.testing.assert_allclose(np.diag(correlation), 1)
    assert list(correlation) == ["dnn fused", "dnn id", "dnn text", "dnn image", "light fused"]


def test_other_held_out_items_are_refused(runs, tmp_path):
    with pytest.raises(InputError, match=r"other held-out items than those of .*compare runs of one dataset"):
        load_comparison([runs["dnn"], runs["pairs"]])
    with pytest.raises(InputError, match="name two or more"):
        load_comparison([runs["dnn"]])


def test_the_command_writes_a_page(runs, tmp_path):
    page = tmp_path / "page.html"
    call = [sys.executable, str(ROOT / "scripts/compare.py"), str(runs["dnn"]), str(runs["light"]), "--page", str(page)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "by length of history" in done.stdout
    text = page.read_text(encoding="utf-8")
    assert "Users served by " in text
    assert "✓ hit" in text


def test_an_unfinished_run_ends_in_the_error_alone(runs, tmp_path):
    unfinished = tmp_path / "begun"
    shutil.copytree(runs["dnn"], unfinished, ignore=shutil.ignore_patterns("result.json"))
    call = [sys.executable, str(ROOT / "scripts/compare.py"), str(runs["dnn"]), str(unfinished)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    remedy = f"python -m odmt.train {unfinished}/config.yaml --resume"
    assert done.returncode == 2
    assert done.stderr == f"error: {unfinished}: no result.json, so the run is not finished; {remedy}\n"


def test_a_published_folder_is_told_from_an_unfinished_run(runs, tmp_path):
    publish(runs["dnn"], tmp_path / "published")
    with pytest.raises(InputError, match="published: a published folder has no test ranks of the users"):
        load_comparison([runs["dnn"], tmp_path / "published"])


def test_runs_of_one_name_are_called_by_as_much_of_their_folders_as_tells_them_apart(runs, tmp_path):
    for place in ("ring/here", "other/here"):
        shutil.copytree(runs["dnn"], tmp_path / place)
    copies = [tmp_path / "ring/here", tmp_path / "other/here", tmp_path / "ring/here"]
    assert [of.name for of in load_comparison(copies[:2], 10).contenders] == ["ring/here", "other/here"]
    assert [of.name for of in load_comparison([runs["dnn"], runs["light"]], 10).contenders] == ["dnn", "light"]
    assert load_comparison(copies[::2], 10).contenders[1].name.endswith("ring/here (2)"), "the same run twice"
