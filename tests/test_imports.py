"""Dependencies point one way, and a family of models can be deleted: the other one trains as before."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from graph_dataset import write_pairs
from ring_dataset import write_ring

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
SMALL = ["model.dim=8", "train.epochs=2", "train.device=cpu", "train.batch_size=16"]


def test_the_contracts_hold(tmp_path):
    """Those of pyproject.toml, that of the engine for whatever lies at the package's root."""
    engine = [f"odmt.{path.stem}" for path in sorted((ROOT / "odmt").glob("[!_]*.py"))]
    contracts = [{**c, "source_modules": engine} if "odmt.train" in c.get("source_modules", []) else c for c in CONTRACTS]
    sections = [
        "\n".join([f"[importlinter:contract:{number}]", *(f"{key} = {_in_ini(value)}" for key, value in contract.items())])
        for number, contract in enumerate(contracts)
    ]
    config = tmp_path / "contracts.ini"
    config.write_text("\n\n".join(["[importlinter]\nroot_package = odmt", *sections]) + "\n")
    code = "from importlinter.cli import lint_imports_command as run; run()"
    command = [sys.executable, "-c", code, "--no-cache", "--config", str(config)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken" in done.stdout


def test_preparing_needs_no_pytorch():
    """Which takes longer to import than a small dataset to prepare."""
    code = "import runpy, sys; [runpy.run_path(script) for script in sys.argv[1:]]; assert 'torch' not in sys.modules"
    done = run(ROOT, "-c", code, *[f"scripts/{name}.py" for name in ("prepare", "fetch_images", "inspect_features")])
    assert done.returncode == 0, done.stderr


def _in_ini(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(f"\n    {line}" for line in value)


def without(family: str, place: Path) -> Path:
    """A copy of the package without a family's folder."""
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "odmt", place / "odmt", ignore=skipped)
    shutil.copytree(ROOT / "configs", place / "configs")
    shutil.copytree(ROOT / "scripts", place / "scripts", ignore=skipped)
    shutil.rmtree(place / "odmt" / family)
    return place


def run(tree: Path, *args: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(tree)}
    return subprocess.run([sys.executable, *args], cwd=tree, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("deleted", "left", "config", "report", "row"),
    [
        ("graph", "sequential", ["data.max_seq_len=5"], "table2", "SASRec+LF"),
        ("sequential", "graph", ["family=graph", "model.host=grcn"], "sgfd", "GRCN+SGFD"),
    ],
)
def test_without_one_family_the_other_trains(deleted, left, config, report, row, tmp_path):
    tree = without(deleted, tmp_path)
    write = write_ring if left == "sequential" else write_pairs
    write(tree / "data" / "mine", 20, 8 if left == "sequential" else 30)
    code = """
import sys
from odmt.cli import report_mistakes
from odmt.train import main
assert main(sys.argv[2:]) == 0
with report_mistakes():
    main([f"family={sys.argv[1]}"])
"""
    done = run(tree, "-c", code, deleted, "data.dataset=mine", *config, *SMALL, "name=run")
    result = json.loads((tree / "runs" / "mine" / "run" / "result.json").read_text())
    assert result["epochs"] == 2
    assert done.returncode == 2, done.stderr
    assert f"config key family: '{deleted}' is none of {left}" in done.stderr
    shown = run(tree, "scripts/reproduce.py", report, "--datasets", "mine", "--render-only")
    assert shown.returncode == 0, shown.stderr
    assert row in shown.stdout
