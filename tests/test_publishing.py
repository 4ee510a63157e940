"""A published run is read back as it was, and its card says what it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from checkpoints import write_clip
from ring_dataset import write_ring

from odmt.config_files import load_config
from odmt.errors import InputError
from odmt.publishing import publish
from odmt.recommend import load_run
from odmt.train import train

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "settings",
    [["model.item_encoder=dnn", "train.batch_size=8"], ["family=graph", "model.host=lightgcn"]],
    ids=["sequential", "graph"],
)
def test_a_published_run_recommends_the_same(settings, tmp_path):
    write_ring(tmp_path / "data/ring", 20, 8)
    places = [f"data.root={tmp_path / 'data'}", "data.dataset=ring", f"runs={tmp_path / 'runs'}", "train.device=cpu", "name=first"]
    config = load_config([*places, *settings, "model.dim=8", "train.epochs=1"])
    result = train(config)
    run = config.folder.rename(config.folder.with_name("mine"))
    out = tmp_path / "published"
    call = [sys.executable, str(ROOT / "scripts/publish.py"), str(run), "--out", str(out), "--license", "mit"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {"README.md", "config.json", "config.yaml", "model.safetensors", "result.json"}
    with pytest.raises(InputError, match="name the folder of the datasets"):
        load_run(out)
    assert load_run(out, data_root=tmp_path / "data").recommend("all", 5).equals(load_run(run).recommend("all", 5))
    _, head, text = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "mit"
    assert f"{result['test']['fused/recall@10']:.4f}" in text
    assert "| users" in text
    assert "Seed 1" in text
    assert text.startswith("\n# mine on ring"), "as the folder is called now"
    assert json.loads((out / "config.json").read_text())["name"] == load_run(run).task.config.name == "mine"
    assert str(tmp_path) not in text.partition("Frozen")[0] + (out / "config.json").read_text(), "nothing of this machine's folders"
    assert json.loads((out / "config.json").read_text())["model"]["dim"] == 8
    encoder = write_clip(tmp_path / "encoder")
    before = sorted(path.name for path in encoder.iterdir())
    with pytest.raises(InputError, match=r"encoder: has no README.md, so this command has not made it"):
        publish(run, encoder)
    assert sorted(path.name for path in encoder.iterdir()) == before
    (run / "result.json").unlink()
    with pytest.raises(InputError, match="the run is not finished"):
        publish(run, out)
