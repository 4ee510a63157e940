"""Pages stand alone, escape what they show, and work in a real browser: clicks, keys, a phone's width, no error in the console."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import needs_browser, visit
from graph_dataset import write_pairs
from PIL import Image
from ring_dataset import write_ring

from odmt.config_files import load_config
from odmt.pages.rendering import write_page
from odmt.recommend import load_run
from odmt.recommend_page import write_recommendations
from odmt.train import train

ROOT = Path(__file__).parents[1]
EVIL = "<script>alert(1)</script> & \"quotes\" 'too' </style>{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run on a ring whose items have pictures, one of them broken, and one a text that would like to be a script."""
    root = tmp_path_factory.mktemp("pages")
    dataset = write_ring(root / "ring", 20, 8)
    for item in range(1, 20):
        Image.new("RGB", (300, 200), (10 * item, 90, 200)).save(dataset / "images" / f"{item}.png")
    (dataset / "images/20.png").write_bytes(b"no picture")
    items = (dataset / "items.tsv").read_text().splitlines()
    items[2] = f"3\t{EVIL}"
    (dataset / "items.tsv").write_text("\n".join(items) + "\n")
    places = [f"data.root={root}", "data.dataset=ring", f"runs={root / 'runs'}", "train.device=cpu"]
    config = load_config(
        [*places, "model.dim=8", "model.num_layers=1", "data.max_seq_len=5", "train.epochs=2", "train.batch_size=8"]
    )
    train(config)
    return config.folder


@pytest.fixture(scope="module")
def page(run_folder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_recommendations(load_run(run_folder), path, "all", ["3", "5"], 5, False)
    return path


def test_a_page_needs_nothing_but_itself(page):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", text)
    assert not re.findall(r"url\((?!data:)", text)
    assert "http://" not in text
    assert "https://" not in text
    assert len(re.findall(r"\.i\d+ \{ background-image: url\(data:image/webp;base64,", text)) == 19, (
        "a picture each, but the broken one"
    )


def test_texts_are_escaped(page):
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "{{ 7 * 7 }}" in text


def test_all_that_was_had_and_recommended_stands_in_the_page(page, run_folder):
    text = page.read_text(encoding="utf-8")
    run = load_run(run_folder)
    assert text.count('<section class="block" id="u') == 20
    for source in run.sources:
        assert f"<h4>{source}</h4>" in text
    for modality in ("text", "image"):
        assert f"<h4>raw {modality} features</h4>" in text
    table = run.recommend("all", 5)
    targets = {f"user{start}": str((start + 7) % 20 + 1) for start in range(20)}
    scores = set(re.findall(r'<span class="score">(.*?)</span>', text))
    assert {f"{score:#.4g}" for score in table["score"]} <= scores, "four significant digits"
    hits = (table["item"] == table["user"].map(targets)).sum()
    hits += sum(
        (of["item"] == of["user"].map(targets)).sum() for of in (run.recommend("all", 5, s) for s in ("id", "text", "image"))
    )
    assert text.count("✓ hit") == hits
    ranks = run.test_ranks()
    for user, number in zip(run.user_ids, range(20)):
        places = "; ".join(f"{ranks[source][number]:g} by {source}" for source in run.sources)
        assert f'{user} <span class="note">held out: rank {places}</span>' in text


def test_the_page_of_a_graph_model_says_what_its_data_are(tmp_path):
    ring = write_ring(tmp_path / "ring", 20, 8)
    ann, *others = (ring / "behaviours.tsv").read_text().splitlines()
    (ring / "behaviours.tsv").write_text("\n".join([f"{ann.rsplit(' ', 1)[0]} 3", *others]) + "\n")
    write_pairs(tmp_path / "pairs")
    texts = {}
    for dataset in ("ring", "pairs"):
        places = [f"data.root={tmp_path}", f"data.dataset={dataset}", f"runs={tmp_path / 'runs'}", "train.device=cpu"]
        config = load_config([*places, "family=graph", "model.host=bprmf", "model.dim=8", "train.epochs=1"])
        train(config)
        write_recommendations(load_run(config.folder), tmp_path / "page.html", "all", [], 5, False)
        texts[dataset] = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert texts["ring"].count("<h4>history, oldest first</h4>") == 20
    assert texts["ring"].count("held out: rank ") == 19
    assert 'user0 <span class="note">held out: in the history already, so not ranked</span>' in " ".join(texts["ring"].split())
    assert texts["pairs"].count("<h4>history</h4>") == 20, "its splits have no order"
    assert "oldest first" not in texts["pairs"]
    assert "in the history already" not in texts["pairs"]


def test_an_item_that_some_models_mask_has_ranks_by_the_others(tmp_path):
    person = {"name": "ann", "ranks": {"long": [None], "short": [3.5]}, "history": [], "held_out": [], "lists": {}, "ordered": True}
    group = {"said": "whom both know", "people": [person]}
    write_page(tmp_path / "page.html", "comparison.html", title="two", about="", tables={}, groups=[group])
    said = "held out: rank none (in the history already) by long; 3.5 by short</span>"
    assert said in (tmp_path / "page.html").read_text(encoding="utf-8")


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)], ids=["light", "dark", "phone"])
def test_a_browser_shows_it(page, tmp_path, width, dark):
    seen = {}

    async def act(tab):
        seen["colour"] = await tab.run("getComputedStyle(document.body).backgroundColor")
        await tab.screenshot(tmp_path / "page.png")
        seen["held_out"] = await tab.run("document.querySelector('#u2 .held').getBoundingClientRect().right")
        seen["latest"] = await tab.run(
            "(s => s.scrollWidth - s.clientWidth - s.scrollLeft)(document.querySelector('#u2 .past > .strip'))"
        )
        seen["sources"] = await tab.run("document.querySelector('.near').childElementCount")
        seen["cut"] = await tab.run("(s => s.scrollWidth - s.clientWidth)(document.querySelector('.near'))")
        await tab.click("#u2 .card")
        seen["open"] = await tab.run("document.querySelector('#item').open")
        seen["picture"] = await tab.run("getComputedStyle(document.querySelector('#item .thumb')).backgroundImage.slice(0, 20)")
        await tab.press("Escape")
        seen["closed"] = not await tab.run("document.querySelector('#item').open")
        await tab.press("j")
        await tab.press("j")
        seen["focused"] = await tab.run("document.activeElement.id")
        await tab.click("#theme")
        await tab.click("#theme")
        seen["dark"] = await tab.run("getComputedStyle(document.body).backgroundColor")
        seen["width"] = await tab.run("document.documentElement.scrollWidth")
        seen["alerts"] = await tab.run("document.querySelectorAll('main script').length")

    tab = visit(page, tmp_path / "profile", act, width, dark)
    assert tab.errors == []
    assert seen["colour"] == ("rgb(20, 23, 27)" if dark else "rgb(251, 250, 248)")
    assert seen["open"]
    assert seen["closed"]
    assert seen["picture"].startswith('url("data:image/webp')
    assert seen["focused"] == "u2"
    assert seen["dark"] == "rgb(20, 23, 27)"
    assert seen["width"] <= width, "nothing sticks out"
    assert seen["held_out"] <= width, "what was held out is in view"
    assert seen["latest"] <= 1, "and so is the latest that the user had"
    assert seen["sources"] == 6
    assert width < 600 or seen["cut"] <= 0, "all sources' neighbours, too"
    assert seen["alerts"] == 0
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size[0] == width
        assert np.asarray(picture.convert("L")).std() > 5, "something is to be seen"


def test_the_command_writes_a_page(run_folder, tmp_path):
    call = [sys.executable, str(ROOT / "scripts/recommend.py"), str(run_folder), "--page"]
    done = subprocess.run(
        [*call, str(tmp_path / "page.html"), "--users", "user1,user2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count('<section class="block" id="u') == 2
    done = subprocess.run([*call, str(tmp_path / "page.pdf")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown ending '.pdf'; take one of .html, .htm" in done.stderr
