import json
import os
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "scripts/bench.py"


def test_both_are_measured_on_small_files(tmp_path):
    # A process of its own, since the measured processes write where the first of their kind was started.
    sizes = ["--transactions=60000", "--reviews=8000", "--metadata=200"]
    command = [sys.executable, BENCH, "prepare", *sizes, f"--folder={tmp_path}", f"--json={tmp_path / 'numbers.json'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    entries = {entry["name"]: entry for entry in json.loads((tmp_path / "numbers.json").read_text())}
    assert {name: entry["settings"]["rows"] for name, entry in entries.items()} == {"prepare hm": 60_000, "prepare amazon": 8_200}
    assert all(entry["seconds"] > 0 and entry["peak_bytes"] > 1e7 for entry in entries.values())
    # The raw files are kept where a folder is given; what was prepared from them is not.
    assert sorted(os.listdir(tmp_path)) == ["amazon-8000-200", "hm-60000", "numbers.json"]
    assert "prepare amazon" in done.stdout
    assert "dropped:" in done.stdout
