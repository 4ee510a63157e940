"""The launcher of graph models: the queue and the table of every launcher, and one process a trial."""

import subprocess
import sys
from pathlib import Path

from graph_dataset import write_pairs

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "scripts/run_graph.py"]


def run(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *args], cwd=ROOT, capture_output=True, text=True)


def test_trains_its_grid_and_shows_the_table(tmp_path):
    write_pairs(tmp_path / "data" / "pairs")
    places = [f"data.root={tmp_path / 'data'}", "data.dataset=pairs", f"runs={tmp_path / 'runs'}"]
    small = ["model.dim=8", "train.epochs=2", "train.batch_size=32", "train.device=cpu", "model.modalities=[text]"]
    done = run("--set", *places, *small)
    assert done.returncode == 0, done.stderr
    assert "chosen by validation recall@20: graph,host-grcn" in done.stdout
    shown = run("--show", "--set", *places, *small)
    assert shown.stdout == done.stdout


def test_several_processes_a_trial_are_refused_with_the_reason(tmp_path):
    refused = run("--gpus", "0,1", "--gpus-per-trial", "2", "--dry-run", "--set", f"runs={tmp_path / 'runs'}")
    assert refused.returncode == 2
    assert "--gpus-per-trial 2: 2 processes: a model on the graph trains in one, since a step needs" in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_names_the_command():
    shown = run("--dry-run")
    assert "torch.distributed.run" not in shown.stdout
    assert "-m odmt.train configs/sgfd-office.yaml model.host=grcn model.extractor=sgfd" in shown.stdout
