"""Tables and figures: what is trained for them, what is quoted, how models are compared, and the files that come out."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ring_dataset import write_ring

from odmt.errors import InputError
from odmt.report import reproduce as command
from odmt.report.expansion import candidates, check_data, chosen, expand
from odmt.report.measurements import Measurement, measure
from odmt.report.odmt_paper import table4_notes
from odmt.report.page import Page
from odmt.report.papers import load_reports
from odmt.report.provenance import COMPARED, footer, gaps, num_users
from odmt.report.reproduce import distinct, main, reproduce
from odmt.report.request import Request
from odmt.report.tables import group_table, groups_as_text, metric_table, side_by_side
from odmt.run_folder import RunFolder
from odmt.significance import compare

REPORTS = load_reports()
PAPER = {name: report for name, report in REPORTS.items() if report.in_all}
SMALL = ["model.dim=8", "data.max_seq_len=4", "train.device=cpu", "train.lr=0.01"]


@pytest.fixture
def request_of(tmp_path):
    """A request whose folders are all in `tmp_path`."""

    def make(*datasets: str, **settings) -> Request:
        places = {name: tmp_path / name for name in ("data", "runs", "reports")}
        return Request(list(datasets), **{"overrides": SMALL, **places, **settings})

    return make


def cells_of(target: str, request: Request):
    return [cell for dataset in request.datasets for cell in expand(REPORTS[target], dataset, request)]


def finish(trial, valid: float, test: float, groups: dict | None = None, **noted):
    """Put a finished run in a trial's folder, of an earlier version but for what else is noted."""
    folder = RunFolder(trial.config)
    folder.open(overwrite=True, provenance={})
    folder.close()
    metrics = [f"{name}@{k}" for name in ("recall", "ndcg") for k in (10, 20)]
    test = {f"fused/{metric}": test for metric in metrics}
    folder.write_result({"valid": {"fused/recall@10": valid}, "test": test, "test_groups": groups or {}, **noted})


@pytest.mark.parametrize("target", ["table2", "table3", "table4"])
def test_the_paper_has_a_number_for_every_row_of_its_tables(target):
    assert {row.key for row in REPORTS[target].rows} == set(REPORTS[target].quoted()["key"])


def test_quoted_numbers():
    def number(target, dataset, key, metric):
        table = REPORTS[target].quoted().set_index(["dataset", "key", "metric"])
        return table.loc[(dataset, key, metric), "value"]

    assert number("table1", "hm", "hm", "interactions") == 606922
    assert number("table2", "arts", "odmt", "ndcg@20") == 0.0852
    assert number("table3", "stream", "no_id_mask", "recall@10") == 0.1155
    assert number("table4", "arts", "temperature:0.3", "recall@10") == 0.1127
    assert number("table4", "stream", "none", "ndcg@10") == 0.0645


def test_what_stands_in_several_tables_is_trained_once(request_of):
    request = request_of("arts", overrides=[])
    by_target = {target: distinct(t for cell in cells_of(target, request) for t in candidates(cell, request)) for target in PAPER}
    # Table 4 has ODMT's own temperature and ramp-up among those it varies.
    sizes = {"table1": 0, "table2": 8, "table3": 9, "table4": 12, "figure1": 25, "figure2": 8, "figure4": 5, "figure5": 9}
    assert {target: len(trials) for target, trials in by_target.items()} == {**sizes, "figure7": 8}
    everything = distinct(trial for trials in by_target.values() for trial in trials)
    assert len(everything) == 8 + 8 + 11 + 23 + 6 + 3
    names = {trial.name for trial in everything}
    assert len({str({**vars(trial.config), "name": ""}) for trial in everything}) == len(names) == len(everything)


def test_settings_of_a_trial(request_of):
    request = request_of("arts", "elsewhere", overrides=["train.lr=0.001"], epochs=2, seeds=[3])
    arts, elsewhere = (candidates(cell, request)[0].config for cell in [cells_of("table2", request)[7]] * 2)
    assert arts == elsewhere
    assert (arts.model.dim, arts.train.lr, arts.train.epochs, arts.train.seed) == (768, 1e-3, 2, 3)
    assert (arts.distillation.temperature, arts.distillation.ramp_up_epochs) == (0.3, 20)
    without_file = candidates(cells_of("table2", request)[-1], request)[0].config
    assert without_file.data.dataset == "elsewhere"


def test_a_setting_for_all_does_not_change_what_a_row_is(request_of):
    request = request_of("arts", overrides=["model.num_layers=4"])
    layers = [cell.trial.config.model.num_layers for cell in cells_of("figure7", request)]
    assert layers == [1, 2, 3, 4] * 2


def test_a_wrong_setting_is_no_gap(request_of):
    with pytest.raises(InputError, match=r"model\.dimension"):
        cells_of("table2", request_of("arts", overrides=["model.dimension=3"]))


def test_what_a_model_refuses_is_a_gap_with_its_reason(request_of):
    # SASRec has 2 heads, the other backbones have none.
    request = request_of("arts", overrides=["model.dim=25", "model.backbone=gru4rec"])
    refused = {cell.row.key: cell.refusal for cell in cells_of("figure5", request) if cell.refusal}
    assert refused.keys() == {"sasrec:sasrec_ef", "sasrec:sasrec_lf", "sasrec:odmt"}
    assert "25 is no multiple of backbone_heads" in refused["sasrec:odmt"]


def test_without_images_models_are_described_by_id_and_text(request_of):
    request = request_of("ring")
    write_ring(request.data / "ring", 12, 7, ("text",))
    cells = {cell.row.key: cell for target in ("table2", "table3", "figure1") for cell in cells_of(target, request)}
    assert cells["odmt"].trial.config.model.sources == ["id", "text"]
    assert cells["sasrec"].trial.config.model.sources == ["id"]
    assert cells["image:dnn"].refusal == "the dataset has no image"
    assert "image needs" in cells["image_initialization"].refusal
    assert "distillation needs two sources" in cells["no_id"].refusal
    check_data(list(cells.values()), request)


def test_missing_features_are_told_with_the_command_that_makes_them(request_of):
    request = request_of("ring")
    with pytest.raises(InputError, match="no such dataset"):
        reproduce("table2", request)
    folder = write_ring(request.data / "ring", 12, 7, ("text",))
    (folder / "images").mkdir()
    with pytest.raises(InputError, match=rf"no image features, which .*extract_features\.py --dataset {folder}"):
        reproduce("table2", request)
    assert not request.runs.exists()


def test_a_search_chooses_by_validation(request_of):
    request = request_of("arts", search=True, dims=[8, 16], lrs=[1e-3, 1e-4], seeds=[1, 2])
    cell = cells_of("table2", request)[-1]
    trials = candidates(cell, request)
    assert [(t.config.model.dim, t.config.train.lr) for t in trials] == [(8, 1e-3), (8, 1e-4), (16, 1e-3), (16, 1e-4)]
    assert chosen(cell, request) == []
    for trial, valid in zip(trials, (0.1, 0.3, 0.2, 0.3)):
        finish(trial, valid, test=1 - valid)
    found = [trial.config for trial in chosen(cell, request)]
    assert [(config.model.dim, config.train.lr, config.train.seed) for config in found] == [(8, 1e-4, 1), (8, 1e-4, 2)]
    assert measure(cell, request).mean("recall@10") == 0.7


def test_values_to_search_need_a_search(request_of):
    for settings, message in (
        ({"dims": [16]}, r"^--dims 16: .* by --search, which is not given; .* --overrides model.dim=16$"),
        ({"lrs": [1e-3, 1e-4], "dry_run": True}, r"^--lrs 0.001 0.0001: .* --overrides train.lr=VALUE$"),
        ({"grid": ["train.lr=[1e-3]"], "render_only": True}, r"^--grid train.lr=\[1e-3\]: .* --overrides KEY=VALUE$"),
    ):
        with pytest.raises(InputError, match=message):
            reproduce("table2", request_of("arts", **settings))


def test_a_search_leaves_out_what_a_model_refuses(request_of):
    request = request_of("arts", search=True, dims=[25, 96], lrs=[1e-3])
    dims = {cell.row.key: [t.config.model.dim for t in candidates(cell, request)] for cell in cells_of("figure5", request)}
    assert dims["sasrec:odmt"] == [96]
    assert dims["gru4rec:odmt"] == [25, 96]


def test_seeds_give_mean_and_standard_deviation(request_of):
    request = request_of("arts", seeds=[1, 2, 3])
    cells = cells_of("table2", request)
    for trial, recall in zip(candidates(cells[0], request), (0.1, 0.2, 0.3)):
        finish(trial, 0.5, recall)
    popular = {"test": {"most popular/recall@10": 0.9}}  # better than the models, and never bold
    for trial in candidates(cells[1], request)[:2]:
        finish(trial, 0.5, 0.5, most_popular=popular, test_users=1234)
    measurements = [measure(cell, request) for cell in cells]
    table = metric_table(REPORTS["table2"], measurements)
    line = table[(table["key"] == "gru4rec") & (table["metric"] == "recall@10")].set_index("origin")
    assert line.loc["measured", "value"] == pytest.approx(0.2)
    assert line.loc["measured", "std"] == pytest.approx(0.1)
    assert line.loc["measured", "seeds"] == 3
    written = table.to_csv(index=False, float_format="%.1f")
    assert "gru4rec,GRU4Rec,measured,recall@10,0.2,0.1,3,valid" in written
    assert "odmt,ODMT,measured,recall@10,,,,,{}" in written, "nothing is measured, not 0 seeds"
    assert line.loc["paper", "value"] == 0.0535
    text = side_by_side(table).set_index("")
    assert text.loc["GRU4Rec", ["recall@10 paper", "recall@10 measured"]].tolist() == ["0.0535", "0.2000 ± 0.1000"]
    assert text.loc["ODMT", ["recall@10 paper", "recall@10 measured"]].tolist() == ["0.1127", "–"]
    assert text.loc["SASRec", "recall@10 measured"] == "**0.5000 ± 0.0000**"
    assert text.index[-1] == "most popular"
    assert text.loc["most popular"].tolist() == ["–", "0.9000", *["–"] * 6]
    assert num_users(measurements) == ["arts: 1,234 test users."]
    assert gaps(measurements, request, {})[-1] == "Of 3 seeds, fewer are finished: SASRec (arts) 2."


def test_popularity_groups_of_several_seeds(request_of):
    request = request_of("arts", seeds=[1, 2])
    cell = cells_of("figure4", request)[0]
    for trial, recall in zip(candidates(cell, request), (0.1, 0.3)):
        finish(trial, 0.5, 0.5, {"0": {"users": 7, "fused/recall@10": recall, "most popular/recall@10": 0.05}})
    measured = measure(cell, request)
    assert measured.groups() == {0: {"users": 7, "meaning": "", "recall@10": pytest.approx(0.2)}}
    assert Measurement(cell, [], []).groups() == {}
    table = group_table([measured]).set_index("label")["value"]
    assert table.to_dict() == {cell.row.label: pytest.approx(0.2), "most popular": pytest.approx(0.05)}
    del measured.results[0]["test_groups"]["0"]["most popular/recall@10"]  # a run of an earlier version
    assert list(group_table([measured])["label"]) == [cell.row.label]


def test_groups_are_columns():
    rare = "seen once in training"
    lines = [("SASRec", 0, 5, "", 0.1), ("SASRec", 1, 9, rare, 0.2), ("ODMT", 0, 5, "", 0.3), ("late", 1, 9, "", 0.4)]
    table = pd.DataFrame(lines, columns=["label", "group", "users", "meaning", "value"]).assign(metric="recall@10")
    text = groups_as_text(table).set_index("recall@10")
    assert text.loc["SASRec"].tolist() == ["0.1000", "0.2000"]
    assert text.loc["ODMT"].to_dict() == {"group 0 (5 users)": "0.3000", "group 1 (9 users): seen once in training": "–"}
    assert text.loc["late"].tolist() == ["–", "0.4000"], "a run of an earlier version stands in the same column"


def test_a_difference_that_is_there_is_found_and_one_that_is_not_is_not():
    random = np.random.default_rng(0)
    base = (random.random(4000) < 0.2).astype(float)
    better = np.maximum(base, random.random(4000) < 0.02)
    difference = compare(better, base)
    assert difference.mean == pytest.approx((better - base).mean())
    assert 0 < difference.low < difference.mean < difference.high
    assert difference.p < 1e-6
    # The standard error of a mean is the half interval over 1.96, within the bootstrap's own error.
    assert (difference.high - difference.low) / 2 / 1.96 == pytest.approx((better - base).std() / 4000**0.5, rel=0.1)
    worse = compare(base, better)
    assert (worse.mean, worse.p) == (-difference.mean, difference.p)
    shuffled = compare(base, random.permutation(base))
    assert shuffled.low <= 0 <= shuffled.high
    assert compare(base, base).p == 1


def test_a_page_in_latex_escapes_what_latex_would_read():
    page = Page("Table 2: everything", [("a_b", pd.DataFrame({"": ["α = 10"], "x": ["1 ± 2"], "y": ["-0.5"]}))], ["50 % of a_b"])
    assert "\\caption{Everything, a\\_b (after Table 2 of the paper).}" in page.latex()
    page.quoted = ["a_b"]
    text = page.latex()
    assert "\\caption{Everything, a\\_b (Table 2 of the paper).}" in text
    assert "$-$0.5" in text
    assert "$\\alpha$ = 10" in text
    assert "1 $\\pm$ 2" in text
    assert "50 \\% of a\\_b" in text
    assert "## a_b" in page.markdown()


def test_dry_run_counts_and_touches_nothing(request_of, capsys, tmp_path):
    places = [f"--{name}={tmp_path / name}" for name in ("data", "runs", "reports")]
    with pytest.raises(SystemExit) as end:
        main(["all", "--datasets", "arts", "stream", "--seeds", "1", "2", *places, "--dry-run"])
    assert end.value.code == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2].split() == ["in", "all", str(2 * 2 * 59), "0"]
    assert out[-1].startswith(f"it would stop: {tmp_path / 'data' / 'arts'}: no such dataset; scripts/prepare.py makes one")
    assert not any(tmp_path.iterdir())


# Few enough models for a test, some of them in every table and figure.
FEW = {"sasrec", "odmt", "text:dnn", "sasrec:odmt", "odmt:2", "ramp_up_epochs:20"}


@pytest.fixture
def few_rows(monkeypatch):
    few = {name: replace(r, rows=tuple(row for row in r.rows if row.key in FEW)) for name, r in PAPER.items()}
    monkeypatch.setattr(command, "load_reports", lambda: few)
    return few


def test_everything_from_data_to_reports(few_rows, request_of):
    request = request_of("ring", epochs=3)
    write_ring(request.data / "ring", 12, 7)
    assert reproduce("all", request) == 0
    runs = sorted(path.name for path in (request.runs / "ring").iterdir())
    assert len(runs) == 3
    written = {path.name for path in request.reports.iterdir()}
    assert written >= {f"{target}.{suffix}" for target in PAPER for suffix in ("csv", "md", "tex")}
    assert written >= {f"figure{number}.{suffix}" for number in (1, 2, 4, 5, 7) for suffix in ("png", "svg")}
    check_numbers(request)
    finished = {path: path.stat().st_mtime_ns for path in request.runs.rglob("result.json")}
    header = request.data / "ring" / "features" / "text" / "header.json"
    header.write_text(header.read_text().replace("random numbers", "another encoder"))  # not the one that was trained on
    assert reproduce("table2", request) == 0
    assert "Encoders: random numbers" in (request.reports / "table2.md").read_text()
    assert {path: path.stat().st_mtime_ns for path in request.runs.rglob("result.json")} == finished


def check_numbers(request: Request):
    """The reports say what the run folders say."""
    cells = {cell.row.key: cell for cell in cells_of("table2", request) if cell.row.key in FEW}
    results = {key: json.loads((candidates(cell, request)[0].folder / "result.json").read_text()) for key, cell in cells.items()}
    table = pd.read_csv(request.reports / "table2.csv").set_index(["key", "metric"])["value"]
    for key, result in results.items():
        assert table[key, "ndcg@20"] == pytest.approx(result["test"]["fused/ndcg@20"])
    difference = pd.read_csv(request.reports / "table2_differences.csv").set_index("metric").loc["recall@10"]
    expected = results["odmt"]["test"]["fused/recall@10"] - results["sasrec"]["test"]["fused/recall@10"]
    assert difference["mean"] == pytest.approx(expected)
    curve = pd.read_csv(request.reports / "figure2.csv")
    assert set(curve["key"]) == {"text:dnn"}
    assert curve["epoch"].max() == 3
    page = (request.reports / "table2.md").read_text()
    assert "\n| most popular " in page
    assert "Settings: the defaults, train.epochs=3, " in page, "no file in configs/ is of this dataset"
    for said in (
        "ring: 12 test users.",
        COMPARED,
        "Commit: ",
        "Machine: CPU",
        "Encoders: random numbers",
        "Seeds: 1.",
        f"{table['odmt', 'recall@10']:.4f}",
    ):
        assert said in page
    assert "paper" not in (request.reports / "table3.md").read_text()


def test_a_failing_trial_leaves_a_gap(few_rows, request_of, capsys):
    request = request_of("ring", epochs=1, overrides=[*SMALL, "train.batch_size=1000000", "train.lr=1e38"])
    write_ring(request.data / "ring", 12, 7)
    assert reproduce("figure7", request) == 1
    assert "not finite" in capsys.readouterr().err
    page = (request.reports / "figure7.md").read_text()
    assert "Gaps, failed now, for reasons that were printed: ODMT, 2 layers (ring)." in page
    assert "not run yet" not in page
    assert reproduce("figure7", replace(request, render_only=True)) == 0
    assert "Gaps, not run yet: ODMT, 2 layers (ring)." in (request.reports / "figure7.md").read_text()
    assert Path(request.reports / "figure7.png").stat().st_size > 1000


def test_runs_of_other_settings_stop_it_before_anything_is_trained(request_of):
    request = request_of("ring")
    write_ring(request.data / "ring", 12, 7)
    cells = cells_of("table2", request)
    (trial,) = candidates(cells[-1], request)
    finish(trial, 0.5, 0.5)
    check_data(cells, request)
    config = trial.folder / "config.yaml"
    config.write_text(config.read_text().replace("min_seq_len: 5", "min_seq_len: 4"))  # as the dataset's file had it then
    told = r"odmt\S*: holds a run that was started with data.min_seq_len=4 \(now 5\); .* another --runs"
    with pytest.raises(InputError, match=told):
        check_data(cells, request)


def test_table_4_says_what_stands_still(request_of):
    request = request_of("arts", "stream")
    cells = cells_of("table4", request)
    finish(candidates(cells[0], request)[0], 0.5, 0.5)
    measurements = [measure(cell, request) for cell in cells]
    assert table4_notes(measurements) == ["On arts, T is varied at α = 20 and α at T = 0.3."]
    assert footer(measurements, request)[-1].startswith("Settings: those of configs/arts.yaml, model.dim=8, ")


def test_reports_are_one_page_too(few_rows, request_of, tmp_path):
    page = tmp_path / "page.html"
    request = request_of("ring", epochs=1, search=True, dims=[4, 8], lrs=[0.01], page=page)
    write_ring(request.data / "ring", 12, 7)
    assert reproduce("figure7", request) == 0
    text = page.read_text(encoding="utf-8")
    assert '<figure tabindex="0"><svg' in text, "it can be scrolled by keys"
    assert "ODMT, 2 layers" in text
    assert re.search(r"<text[^>]*>[^<]*recall@10", text), "a figure's words can be selected"
    assert text.count("<summary>settings</summary>") == 1, "the run that was chosen"
    assert "Search: ODMT, 2 layers on ring: valid/fused/recall@10" in text
    assert len(re.findall('class="shade[1-5]"', text)) == 2
    assert re.search(r"<text[^>]*>most popular</text>", text), "the curve of a run has the line that its own picture has"
    assert "epoch 1/1" in text, "the end of the log"
    assert "&#34;python&#34;" in text, "versions and machine"
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", text.replace('xmlns:xlink="http', ""))
    request.page = None
    shutil.rmtree(request.runs)
    request.render_only = True
    reproduce("all", request)
    index = (request.reports / "index.html").read_text(encoding="utf-8")
    assert "Not measured: " in index
