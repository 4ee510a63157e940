"""Waiting for other processes, and runs that are there for as long as a test needs them, on a machine of whatever speed."""

import json
import re
import subprocess
import time
from pathlib import Path

ENDLESS = 1_000_000  # epochs of a run that is to be ended by somebody else


def wait_until(condition, process: subprocess.Popen | None = None):
    """Look again and again; a process that has to bring it about must live. What never comes is ended by pytest's timeout."""
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.005)


def num_epochs(folder: Path) -> int:
    """Epochs that a run has noted."""
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def epochs_of(folder: Path) -> list[int]:
    """Their numbers."""
    return [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def end_after(folder: Path, more: int) -> int:
    """Let an endless run that was stopped be one that ends some epochs from where it is; returns how many it has then."""
    config, epochs = folder / "config.yaml", num_epochs(folder) + more
    text, count = re.subn(rf"epochs: {ENDLESS}\b", f"epochs: {epochs}", config.read_text())
    assert count == 1
    config.write_text(text)
    return epochs
