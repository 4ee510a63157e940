"""A part of one's own, named in one place: settings, help, figures, tables and the tests of the contract have it too."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BACKBONE = re.search(r"```python\n(import torch\n\nfrom [^`]*?class Decay.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
TOWER = """
ITEM_ENCODERS["line"] = ItemEncoderPart(
    "Line", ClsTower, per_modality(lambda model, width: ClsTower(nn.Linear(width, model.dim)))
)
"""
HOST = """
HOSTS["twin"] = HostPart("Twin", _grcn, batch_size=512, copy="grcn")
HOSTS["bare"] = HostPart("Bare", _bprmf, uses_content=False)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the project with a backbone (README's), an item encoder and two hosts more."""
    place = tmp_path_factory.mktemp("project")
    for folder in ("odmt", "configs", "tests"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    imports, backbone = BACKBONE.split("\n\n\n", 1)
    parts = place / "odmt/sequential/models/parts.py"
    before = parts.read_text()
    first = before.index("\nfrom ")
    parts.write_text(f"{before[:first]}\n{imports}\n{before[first:]}\n\n{backbone}{TOWER}")
    with (place / "odmt/graph/hosts.py").open("a") as hosts:
        hosts.write(HOST)
    return place


def run(tree: Path, *args: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run([sys.executable, *args], cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_they_pass_the_linter(tree):
    rules = ["--isolated", "--no-cache", "--select", "E402,F"]
    run(tree, "-m", "ruff", "check", *rules, "odmt/sequential/models/parts.py", "odmt/graph/hosts.py")


def test_the_help_and_the_reports_have_them(tree):
    code = """
from odmt.config_files import config_help
from odmt.report.papers import load_reports
text = config_help() + config_help(["family=graph"])
rows = {name: {row.key for row in report.rows} for name, report in load_reports().items()}
assert all(name in text for name in ("decay", "line", "twin", "bare"))
assert "decay:odmt" in rows["figure5"]
assert {"text:line", "ef:line"} <= rows["figure1"]
assert {"twin", "twin_sgfd", "bare"} <= rows["sgfd"]
assert "twin:class" in rows["hosts_sgfd_ablation"]
"""
    run(tree, "-c", code)


def test_the_tests_of_the_contract_take_them(tree):
    files = [f"tests/test_{name}.py" for name in ("contract", "graph_hosts", "graph_train", "config")]
    line = "line and not sasrec_lf and not baseline and (causal or padding or gradient)"
    wanted = f"(decay and not processes) or ({line}) or twin or bare or wrong_type"
    out = run(tree, "-m", "pytest", *files, "-v", "-k", wanted, "-p", "no:cacheprovider")
    passed = [line for line in out.splitlines() if " PASSED" in line]
    for word, least in {"decay": 12, ":line": 6, "[twin": 5, "[bare": 5, "wrong_type": 10}.items():
        assert sum(word in line for line in passed) >= least, word
