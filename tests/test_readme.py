"""What the README shows runs as it stands."""

import re
import shutil
from pathlib import Path

import pytest
from ring_dataset import write_ring

from odmt.checkpoint import load_tensors
from odmt.config_files import load_config
from odmt.demo.dataset import ITEM_NAME, USER_NAME
from odmt.train import train

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the one Python example with a word in it, in a folder with a dataset named demo; returns its names."""

    def run(word: str) -> dict:
        blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
        (code,) = (block for block in blocks if word in block)
        names: dict = {}
        exec(compile(code, str(README), "exec"), names)
        return names

    monkeypatch.chdir(tmp_path)
    return run


def test_what_a_run_recommends(run, capsys):
    write_ring(Path("data/demo"), 40, 12, names=(USER_NAME, ITEM_NAME))
    train(load_config(["data.dataset=demo", "model.dim=8", "train.epochs=1", "train.batch_size=20"]))
    capsys.readouterr()
    items, users = run("load_run")["vectors"]
    assert "neighbour" in capsys.readouterr().out
    # The same ranks as in the test.
    ranks = load_tensors(Path("runs/demo/odmt/ranks.safetensors"))[0]["test/fused"]
    for user, rank in enumerate(ranks.tolist()):
        scores = items @ users[user]
        seen = [(user + step) % 40 for step in range(11)]
        scores[seen] = float("-inf")
        assert (scores > scores[(user + 11) % 40] + 1e-6).sum() < rank


def test_both_tables_of_the_demo_have_the_same_held_out_items():
    first, second = re.findall(r"^\| most popular .*$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert first == second


def test_the_part_of_your_own(run):
    write_ring(Path("data/demo"), 40, 15)
    shutil.copytree(README.parent / "configs", "configs", ignore=shutil.ignore_patterns("*.png"))
    names = run("MeanTower")
    assert set(names["result"]["test"]) >= {f"{source}/recall@10" for source in ("fused", "id", "text", "image")}
    assert names["result"]["test"]["fused/recall@10"] > 0.9, "learnt by heart"
    Path("runs/demo/mean_tower/result.json").unlink()  # as if it had been stopped before the test
    again = train(load_config(["configs/demo.yaml", "name=mean_tower"]), resume=True, build=names["build"])
    assert again == names["result"]
