"""The tables of SGFD's paper: rows, published settings, quoted numbers, searches, and a whole table on a small dataset."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from graph_dataset import write_pairs
from ring_dataset import write_ring

from odmt.checkpoint import load_tensors
from odmt.config_files import load_config
from odmt.errors import InputError
from odmt.metrics import per_user
from odmt.report import reproduce as command
from odmt.report.expansion import candidates, chosen, dataset_file, expand
from odmt.report.measurements import measure
from odmt.report.papers import load_reports
from odmt.report.reproduce import reproduce
from odmt.report.request import Request
from odmt.report.sgfd_paper import ABLATION, DATASETS, PAPERS_HOSTS, PUBLISHED, TABLE_2, quoted_table2
from odmt.train import train

REPORTS = load_reports()
SMALL = ["model.dim=8", "train.device=cpu", "train.batch_size=32"]


@pytest.fixture
def request_of(tmp_path):
    """A request whose folders are all in `tmp_path`."""

    def make(*datasets: str, **settings) -> Request:
        places = {name: tmp_path / name for name in ("data", "runs", "reports")}
        return Request(list(datasets), **{"overrides": SMALL, **places, **settings})

    return make


def cells_of(name: str, request: Request) -> dict:
    return {cell.row.key: cell for dataset in request.datasets for cell in expand(REPORTS[name], dataset, request)}


def test_quoted_numbers_are_shares_under_names_of_our_own():
    table = quoted_table2().set_index(["dataset", "key", "metric"])["value"]
    assert table["sgfd-office", "bm3_sgfd", "recall@20"] == pytest.approx(0.1407)
    assert table["sgfd-toys-games", "grcn", "ndcg@20"] == pytest.approx(0.1123)
    assert {row.key for row in TABLE_2} - {"bprmf", "lightgcn"} <= set(quoted_table2()["key"])


@pytest.mark.parametrize("dataset", DATASETS.values())
def test_a_datasets_file_gives_the_published_commands(dataset, request_of):
    file = dataset_file(dataset, "graph")
    commands = [line for line in file.read_text().splitlines() if line.startswith("# python -m odmt.train ")]
    by_host = {re.search(r"models/(\w+)_sgfd", command)[1]: load_config(command.split()[4:]) for command in commands}
    assert list(by_host) == list(PAPERS_HOSTS) == list(PUBLISHED)
    cells = cells_of("sgfd", request_of(dataset, overrides=[]))
    for host, config in by_host.items():
        row = cells[f"{host}_sgfd"].trial.config
        assert (config.train.lr, config.sgfd, config.model) == (row.train.lr, row.sgfd, row.model)


def test_what_is_asked_for_wins_over_what_was_published(request_of):
    cells = cells_of("sgfd", request_of("sgfd-office", overrides=["train.lr=0.5"]))
    assert {cell.trial.config.train.lr for cell in cells.values()} == {0.5}
    assert cells["grcn_sgfd"].trial.config.sgfd.temperature == 100


def test_the_ablation_is_of_one_loss_at_a_time(request_of):
    cells = cells_of("hosts_sgfd_ablation", request_of("sgfd-office", overrides=[]))
    for host in PAPERS_HOSTS:
        weights = {
            kind: tuple(
                getattr(cells[f"{host}:{kind}"].trial.config.sgfd, f"{loss}_weight") for loss in ("class", "response", "feature")
            )
            for kind in ("none", "class", "response", "feature", "all")
        }
        one, two, three = weights["all"]
        assert 0 not in weights["all"]
        assert weights["none"] == (0, 0, 0)
        assert (weights["class"], weights["response"], weights["feature"]) == ((one, 0, 0), (0, two, 0), (0, 0, three))
    everything = cells_of("sgfd", request_of("sgfd-office", overrides=[]))
    assert cells["bm3:all"].trial.folder == everything["bm3_sgfd"].trial.folder, "trained once"


def test_a_search_tries_the_hosts_settings_and_sgfds(request_of):
    request = request_of("sgfd-office", overrides=[], search=True)
    cells = cells_of("sgfd", request)
    tried = {key: {name for point in cell.points for name in point} for key, cell in cells.items()}
    for host, own in {"bm3": "bm3.reg_weight", "grcn": "grcn.reg_weight", "maml": "maml.covariance_weight"}.items():
        assert tried[host] >= {"train.lr", own}
        assert not any(name.startswith("sgfd.") for name in tried[host])
        assert tried[f"{host}_sgfd"] >= {"train.lr", own, "sgfd.class_weight", "sgfd.temperature"}
    assert {point["sgfd.temperature"] for point in cells["bm3_sgfd"].points} == {50, 100, 5}
    # What makes a row of the ablation what it is, is never searched.
    ablation = cells_of("hosts_sgfd_ablation", request)
    trials = candidates(ablation["grcn:class"], request)
    assert {(trial.config.sgfd.response_weight, trial.config.sgfd.feature_weight) for trial in trials} == {(0, 0)}
    assert len({trial.name for trial in trials}) == len(trials) == len(ablation["grcn:class"].points)


def test_a_grid_of_ones_own(request_of):
    request = request_of("sgfd-office", overrides=[], search=True, grid=["train.lr=[1e-2]", "sgfd.temperature=[3, 4]"])
    cells = cells_of("sgfd", request)
    assert {point["train.lr"] for cell in cells.values() for point in cell.points} == {0.01}
    assert {trial.config.sgfd.temperature for trial in candidates(cells["maml_sgfd"], request)} == {3, 4}
    assert not any("sgfd.temperature" in point for point in cells["maml"].points), "it would change nothing"
    assert not any(cell.refusal for cell in cells.values())
    with pytest.raises(InputError, match=r"--grid train.lr=1: expected KEY=\[VALUE,...\]"):
        cells_of("sgfd", request_of("sgfd-office", search=True, grid=["train.lr=1"]))
    with pytest.raises(InputError, match=r"unknown key 'train.lrs'"):
        cells_of("sgfd", request_of("sgfd-office", search=True, grid=["train.lrs=[1]"]))


def test_without_images_or_labels(request_of):
    request = request_of("pairs")
    folder = write_pairs(request.data / "pairs", modalities=("text",))
    cells = cells_of("sgfd", request)
    assert cells["grcn_sgfd"].trial.config.model.modalities == ["text"]
    assert not any(cell.refusal for cell in cells.values())
    (folder / "labels.tsv").unlink()
    refused = {key: cell.refusal for key, cell in cells_of("sgfd", request).items() if cell.refusal}
    assert refused.keys() == {"bm3_sgfd", "grcn_sgfd", "maml_sgfd"}
    assert all("no labels.tsv; scripts/prepare.py csv --label-column" in refusal for refusal in refused.values())


def test_a_sequential_datasets_file_is_not_the_graph_models(request_of):
    assert dataset_file("arts", "sequential").name == "arts.yaml"
    assert dataset_file("arts", "graph") is None
    assert cells_of("sgfd", request_of("arts"))["grcn"].trial.config.data.dataset == "arts"


def make(name: str, request: Request):
    """What `reproduce` does, but that trials are trained in this process: as many processes would take a minute to start."""
    for cell in cells_of(name, request).values():
        for trial in candidates(cell, request):
            train(trial.config)
    assert reproduce(name, replace(request, render_only=True)) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Request:
    """The whole table on a small dataset, with two seeds."""
    root = tmp_path_factory.mktemp("sgfd")
    request = Request(
        ["pairs"], epochs=2, seeds=[1, 2], overrides=SMALL, runs=root / "runs", data=root / "data", reports=root / "reports"
    )
    write_pairs(request.data / "pairs", num_users=30)
    make("sgfd", request)
    return request


def test_the_table_says_what_the_runs_say(finished):
    cells = cells_of("sgfd", finished)
    table = pd.read_csv(finished.reports / "sgfd.csv").set_index(["key", "metric"])
    for key, cell in cells.items():
        found = measure(cell, finished)
        results = [json.loads((trial.folder / "result.json").read_text()) for trial in found.trials]
        for metric in ("recall@20", "ndcg@50"):
            values = [result["test"][f"fused/{metric}"] for result in results]
            assert table.loc[(key, metric), "value"] == pytest.approx(np.mean(values))
            assert table.loc[(key, metric), "std"] == pytest.approx(np.std(values, ddof=1))
    page = (finished.reports / "sgfd.md").read_text()
    header = next(line for line in page.splitlines() if "recall@20" in line)
    assert "measured" not in header, "the paper has no such dataset"
    assert page.count("**") >= 2 * 6, "the best of each metric"
    assert page.count("two-tailed paired t-test") == 1
    assert "\n| most popular " in page
    assert "pairs: 30 test users." in page
    assert "TEST SET" not in page


def test_gains_are_over_users_with_several_test_items(finished):
    cells = cells_of("sgfd", finished)
    table = pd.read_csv(finished.reports / "sgfd_differences.csv").set_index(["key", "metric"])
    assert table["reference"].unique().tolist() == ["BM3+SGFD", "GRCN+SGFD", "MAML+SGFD"]

    def by_user(key: str) -> np.ndarray:
        tensors = [load_tensors(trial.folder / "ranks.safetensors")[0] for trial in chosen(cells[key], finished)]
        return np.mean([per_user("ndcg", t["test/fused"].numpy(), 20, t["test/offsets"].numpy()) for t in tensors], 0)

    plain, distilled = by_user("grcn"), by_user("grcn_sgfd")
    assert len(plain) == 30
    line = table.loc[("grcn", "ndcg@20")]
    assert line["mean"] == pytest.approx((distilled - plain).mean())
    assert line["relative"] == pytest.approx((distilled - plain).mean() / plain.mean())
    assert line["low"] <= line["mean"] <= line["high"]


def test_the_papers_numbers_stand_beside_ours_as_what_they_are(finished, request_of):
    request = request_of("sgfd-office", epochs=1, overrides=[*SMALL, "evaluation.selection=test"])
    write_pairs(request.data / "sgfd-office")
    make("sgfd", request)
    page = (request.reports / "sgfd.md").read_text()
    assert "recall@20 paper (metrics of its own, chosen on test)" in page
    assert "recall@20 measured" in page
    assert "recall@10 measured" not in page
    assert "0.1388" in page
    assert "relative, paper" in page
    assert "+5.2 %" in page, "GRCN: 13.20 -> 13.88"
    assert "quoted from its Table 2. They are no standard metrics" in page
    assert re.search(r"- CHOSEN ON THE TEST SET, by TEST recall@20 .*GRCN\+SGFD \(sgfd-office\)", page)


def test_both_families_on_one_dataset(request_of):
    request = request_of("ring", epochs=1, overrides=["model.dim=8", "train.device=cpu"])
    write_ring(request.data / "ring", 20, 8)
    make("families", request)
    table = pd.read_csv(request.reports / "families.csv")
    assert set(table["origin"]) == {"measured", "baseline"}
    assert table["value"].notna().all()
    table = table[table["origin"] == "measured"]
    assert set(table["selection"]) == {"valid/fused/recall@10", "valid/fused/recall@20"}
    differences = pd.read_csv(request.reports / "families_differences.csv")
    assert len(differences) == 2 * (len(table["key"].unique()) - 1)


def test_every_ablation_row_is_a_model_file():
    models = Path(__file__).parents[1] / "configs" / "models"
    assert all((models / f"{row.model}.yaml").is_file() for row in (*TABLE_2, *ABLATION))


def test_from_nothing_to_a_table_in_processes_of_their_own(request_of, monkeypatch, capsys):
    rows = tuple(row for row in TABLE_2 if row.key in ("grcn", "grcn_sgfd"))
    monkeypatch.setattr(command, "load_reports", lambda: {"sgfd": replace(REPORTS["sgfd"], rows=rows)})
    weights = [f"sgfd.{name}=[1.0]" for name in ("class_weight", "response_weight", "feature_weight", "temperature")]
    grid = ["train.lr=[1e-2]", "grcn.reg_weight=[1e-3]", *weights]
    request = request_of("pairs", epochs=2, search=True, grid=grid)
    write_pairs(request.data / "pairs")
    assert reproduce("sgfd", replace(request, dry_run=True)) == 0
    assert "sgfd searches train.lr of 0.01; grcn.reg_weight of 0.001; sgfd.temperature of 1; " in capsys.readouterr().out
    assert reproduce("sgfd", request) == 0
    printed = capsys.readouterr().out
    assert "| GRCN+SGFD" in printed, "the table is printed at the end"
    assert "GRCN+SGFD minus GRCN" in printed
    assert "chosen by validation recall@20 with seed 1" in printed
    assert len(list((request.runs / "pairs").glob("*/result.json"))) == 2
