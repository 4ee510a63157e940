"""In what surroundings a run was started."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch


def environment() -> dict:
    """Versions, commit, machine and command of this process."""
    packages = {name: version(name) for name in ("odmt", "torch", "transformers", "numpy", "lmdb", "safetensors")}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "command": sys.argv,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": packages,
        "machine": {"system": platform.platform(), "cpu_threads": torch.get_num_threads(), "gpus": gpus},
    }


def _commit() -> str | None:
    """The commit of the project's own checkout, None where it is installed without one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
