"""What the README shows runs as it stands."""

import re
from pathlib import Path

import torch
from ring_dataset import write_ring

README = Path(__file__).parents[1] / "README.md"


def test_the_part_of_your_own(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert "data/demo" in code
    write_ring(tmp_path / "data" / "demo", 1280, 15, ())
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, str(README), "exec"), names)
    assert names["step"] == 9
    assert set(names["losses"]) == {"loss", "ce_first", "ce_second"}
    assert torch.isfinite(names["losses"]["loss"])
    assert all(parameter.grad is not None for parameter in names["model"].parameters())
