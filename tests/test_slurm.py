"""What the batch files start, seen by commands in place of Slurm's and Python's, which print what they are given."""

import os
import subprocess
from pathlib import Path

import pytest

SLURM = Path(__file__).parents[1] / "scripts" / "slurm"
JOB = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "77"}
TORCHRUN = "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint n1:29500 --rdzv-id 77"


def submit(folder: Path, name: str, *args: str, **variables: str) -> subprocess.CompletedProcess:
    """Run a batch file as Slurm does, in a checkout with an environment."""
    for command, body in {"srun": 'echo "$@"', "scontrol": "printf 'n1\\nn2\\n'"}.items():
        (folder / command).write_text(f"#!/bin/sh\n{body}\n")
        (folder / command).chmod(0o755)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"} | JOB | variables
    command = ["bash", SLURM / f"{name}.sbatch", *args]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("name", "args", "started"),
    [
        ("run", ["configs/arts.yaml", "name=a b"], f"{TORCHRUN} -m odmt.train configs/arts.yaml name=a b --resume"),
        (
            "grid",
            ["run_arts.py", "--set", "model.dim=64"],
            "python run_arts.py --storage postgresql://me@db/odmt --set model.dim=64",
        ),
        (
            "extract",
            ["--dataset", "data/arts"],
            "python scripts/extract_features.py --processes 4 --dataset data/arts",
        ),
    ],
)
def test_what_is_started(tmp_path, name, args, started):
    done = submit(tmp_path, name, *args, STORAGE="postgresql://me@db/odmt")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{started}\n", "")


def test_a_grid_names_its_database(tmp_path):
    done = submit(tmp_path, "grid", "run_arts.py")
    assert done.returncode != 0
    assert "STORAGE: set it to postgresql://USER@HOST/NAME" in done.stderr
