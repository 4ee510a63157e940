import json
import os

from odmt.bench.prepare import prepare


def test_both_are_measured_on_small_files(tmp_path, capfd):
    prepare(transactions=60_000, reviews=8_000, metadata=200, folder=tmp_path, json=tmp_path / "numbers.json")
    entries = {entry["name"]: entry for entry in json.loads((tmp_path / "numbers.json").read_text())}
    assert {name: entry["settings"]["rows"] for name, entry in entries.items()} == {"prepare hm": 60_000, "prepare amazon": 8_200}
    assert all(entry["seconds"] > 0 and entry["peak_bytes"] > 1e7 for entry in entries.values())
    # The raw files are kept where a folder is given; what was prepared from them is not.
    assert sorted(os.listdir(tmp_path)) == ["amazon-8000-200", "hm-60000", "numbers.json"]
    out = capfd.readouterr().out
    assert "prepare amazon" in out
    assert "dropped:" in out
