"""The recommended model's tables: what is compared, under which search, and that each row leaves out one thing."""

from dataclasses import replace

import pandas as pd
import pytest
from ring_dataset import write_ring

from odmt.config_files import flatten
from odmt.report.expansion import candidates, expand
from odmt.report.odmt_paper import TABLE_2
from odmt.report.papers import load_reports
from odmt.report.recommended import RECOMMENDED, REPORTS, WITHOUT
from odmt.report.reproduce import reproduce
from odmt.report.request import Request


@pytest.fixture
def request_of(tmp_path):
    """A request whose folders are all in `tmp_path`."""

    def make(**settings) -> Request:
        return Request(["ring"], **{name: tmp_path / name for name in ("data", "runs", "reports")}, **settings)

    return make


def test_its_tables_are_known_and_not_among_the_papers():
    assert {name: load_reports()[name] for name in REPORTS} == REPORTS
    assert not any(report.in_all for report in REPORTS.values())


def test_each_row_without_a_part_differs_from_it_in_that_part_alone(request_of):
    cells = {cell.row.key: cell for cell in expand(REPORTS["recommended"], "ring", request_of())}
    whole = dict(flatten(cells[RECOMMENDED.key].trial.config))
    for row in WITHOUT:
        found = dict(flatten(cells[row.key].trial.config))
        changed = {key for key in whole if whole[key] != found[key] and key != "name"}
        assert changed == {pair.partition("=")[0] for pair in row.overrides}


def test_everybody_has_the_same_search(request_of):
    request = request_of(search=True)
    cells = [cell for cell in expand(REPORTS["recommended"], "ring", request) if cell.row in (*TABLE_2, RECOMMENDED)]
    trials = [[trial.config for trial in candidates(cell, request)] for cell in cells]
    searched = {(64, lr, dropout) for lr in (3e-3, 1e-3) for dropout in (0.1, 0.3, 0.5)}
    assert len(cells) == 9
    assert all({(c.model.dim, c.train.lr, c.model.dropout) for c in of_row} == searched for of_row in trials)


def test_the_table_by_popularity_takes_the_runs_of_the_other(request_of, monkeypatch):
    request = request_of(epochs=1, overrides=["model.dim=8", "data.max_seq_len=4", "train.device=cpu"])
    write_ring(request.data / "ring", 20, 8)
    for name, report in REPORTS.items():  # two models are enough
        monkeypatch.setitem(
            REPORTS, name, replace(report, rows=(TABLE_2[1], RECOMMENDED), comparisons=(("recommended", "sasrec"),))
        )
    assert reproduce("recommended", request) == 0
    assert reproduce("recommended_by_popularity", replace(request, render_only=True)) == 0
    table = pd.read_csv(request.reports / "recommended.csv")
    assert set(table["label"]) == {"SASRec", "recommended", "most popular"}
    assert table["value"].notna().all()
    assert len(pd.read_csv(request.reports / "recommended_differences.csv")) == 2
    groups = pd.read_csv(request.reports / "recommended_by_popularity.csv")
    assert groups.groupby("label")["users"].sum().nunique() == 1
    assert (request.reports / "recommended_by_popularity.png").is_file()
