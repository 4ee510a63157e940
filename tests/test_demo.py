"""The demo's data: the same every time, skewed, partly cold, and with the attributes in texts and images; then the whole demo."""

import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from odmt.demo import dataset as generator
from odmt.demo.dataset import SHADES, Catalogue, add_labels, histories, make_demo
from odmt.demo.drawings import CATEGORIES, PATTERNS, draw_product, silhouette
from odmt.demo.run import demo
from odmt.errors import InputError
from odmt.features.encoders import ImageEncoder, TextEncoder
from odmt.features.item_table import read_items
from odmt.features.labels import read_labels
from odmt.sequential.interactions import Interactions
from odmt.training_curve import draw_training_curve

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    make_demo(folder)
    return folder


@pytest.fixture(scope="module")
def interactions(folder) -> Interactions:
    return Interactions.load(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_is_the_same_every_time(tmp_path):
    torch.manual_seed(5)  # as whatever ran before may have left it
    make_demo(tmp_path / "one", num_users=60, num_items=40)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    make_demo(tmp_path / "two", num_users=60, num_items=40)
    assert torch.equal(torch.get_rng_state(), state)
    one = files(tmp_path / "one")
    assert len(one) == 40 + 3 + 2 + 3  # images, tables, the CLIP, the BERT with its words
    assert one == files(tmp_path / "two")


def test_sizes(folder, interactions):
    assert interactions.num_users == 2000
    assert 780 <= interactions.num_items <= 800
    assert len(list((folder / "images").glob("*.png"))) == 800
    lengths = np.diff(interactions.offsets)
    assert lengths.min() == 5
    assert lengths.max() == 15
    assert 9 < lengths.mean() < 12


def test_nobody_buys_an_item_twice(interactions):
    for start, end in zip(interactions.offsets, interactions.offsets[1:]):
        window = interactions.items[start:end]
        assert len(np.unique(window)) == len(window)


def test_popularity_is_skewed_and_some_targets_are_cold(interactions):
    counts = np.sort(interactions.train_counts()[1:])[::-1]
    assert counts[:80].sum() > 0.25 * counts.sum()  # a tenth of the items
    cold = interactions.train_counts()[interactions.targets("test")] == 0
    assert 0.05 < cold.mean() < 0.2


def test_new_arrivals_stand_only_among_the_latest_interactions():
    rng = np.random.default_rng(0)
    items = Catalogue.draw(rng, 300)
    assert items.cold.sum() == 24
    rows = list(histories(rng, items, 400))
    assert not items.cold[[item for row in rows for item in row[:-2]]].any()
    assert items.cold[[item for row in rows for item in row[-2:]]].any()


def test_the_next_item_follows_tastes_and_the_last_item():
    rng = np.random.default_rng(0)
    items = Catalogue.draw(rng, 800)
    rows = list(histories(rng, items, 500))
    before, after = np.array([pair for row in rows for pair in pairwise(row)]).T
    along = (items.categories[after] - items.categories[before]) % len(CATEGORIES)
    assert (along == 1).mean() > 3 / len(CATEGORIES)  # the next category of the ring
    assert (along == 9).mean() < 1 / len(CATEGORIES)  # not the one before
    first, later = np.array([(row[0], row[-1]) for row in rows]).T
    assert (items.families[first] == items.families[later]).mean() > 2 / len(SHADES)
    assert (items.patterns[first] == items.patterns[later]).mean() > 1.5 / len(PATTERNS)


def test_texts_carry_the_attributes():
    items = Catalogue.draw(np.random.default_rng(0), 800)
    titles = set()
    for item in range(len(items)):
        title, brand, aisle, description = items.fields(item)
        category, family, shade, pattern, its_brand = items.names(item)
        assert title.lower() == f"{pattern} {category} in {shade}"
        assert brand == its_brand
        assert category in aisle
        assert re.match(f"an? {family} {category} for ", description)
        titles.add(title)
    assert len(titles) == 800


@pytest.mark.parametrize("category", CATEGORIES)
def test_images_carry_the_attributes(category):
    red, blue, white = (205, 45, 45), (45, 90, 200), (255, 255, 255)
    plain = pixels(category, "plain", red)
    body = np.asarray(silhouette(category).body.resize((128, 128), Image.Resampling.BOX)) == 255
    assert 0.1 < body.mean() < 0.6
    # Colour: red is what the body shows most of, and nowhere so in the blue one.
    assert (plain[body].argmax(-1) == 0).all()
    assert (pixels(category, "plain", blue)[body].argmax(-1) == 2).all()
    # Pattern: each is another picture inside the body.
    drawn = [plain, *(pixels(category, pattern, red) for pattern in PATTERNS[1:])]
    for i, one in enumerate(drawn):
        assert all(np.abs(one[body] - other[body]).mean() > 5 for other in drawn[:i])
    # Shape and backdrop: the corner is the backdrop.
    assert tuple(plain[0, 0]) == white


def pixels(category: str, pattern: str, colour: tuple[int, int, int]) -> np.ndarray:
    return np.asarray(draw_product(category, pattern, colour, (255, 255, 255))).astype(int)


def test_an_items_image_is_the_drawing_of_its_attributes(folder):
    ids, texts = read_items(folder / "items.tsv")
    items = Catalogue.draw(np.random.default_rng(generator.SEED), 800)
    for item in (0, 399, 799):
        assert texts[item] == " ".join(items.fields(item)).lower()
        with Image.open(folder / "images" / f"{ids[item]}.png") as image:
            assert np.array_equal(np.asarray(image), np.asarray(items.picture(item)))


def test_the_checkpoints_are_read_like_real_ones_and_know_every_word(folder):
    _, texts = read_items(folder / "items.tsv")
    text = TextEncoder(str(folder / "encoders" / "bert"), 30, torch.device("cpu"))
    assert text.tokenizer.unk_token_id not in {token for line in texts for token in text.tokenizer(line)["input_ids"]}
    lengths = {len(text.tokenizer(line)["input_ids"]) for line in texts}
    assert max(lengths) <= 30
    one, _ = text.encode(texts[:2])
    assert one.shape == (len(texts[0].split()) + 2, text.header.width)
    image = ImageEncoder(str(folder / "encoders" / "clip"), torch.device("cpu"))
    assert image.header.max_tokens == 17
    assert image.header.width == text.header.width


def test_the_whole_demo_runs_and_starts_over_from_the_run_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("odmt.training_curve.draw_training_curve", draw_training_curve)  # no empty picture here
    monkeypatch.setattr("odmt.demo.run.make_demo", lambda folder: make_demo(folder, num_users=120, num_items=60))
    config = {
        "data": {"root": str(tmp_path / "data")},
        "runs": str(tmp_path / "runs"),
        "model": {"dim": 16},
        "train": {"epochs": 2},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    demo(config=str(path))
    first = capsys.readouterr().out
    assert "drawing and writing" in first
    rows = {cells[1].strip() for cells in (line.split("|") for line in first.splitlines()) if len(cells) > 2}
    assert rows >= {"fused", "id", "text", "image", "most popular"}
    run = tmp_path / "runs" / "demo" / "odmt"
    assert Image.open(run / "training_curve.png").size[0] > 500
    features = files(tmp_path / "data")
    demo(config=str(path))
    second = capsys.readouterr().out
    assert "again" in second
    assert "60 items; 0 were not there yet" in second
    assert table(second) == table(first)
    assert files(tmp_path / "data").keys() == features.keys()


def test_categories_are_those_of_the_drawings(folder):
    ids, texts = read_items(folder / "items.tsv")
    labels = read_labels(folder / "labels.tsv", ids)
    assert sorted(labels.names) == sorted(CATEGORIES)
    assert all(labels.names[number] in text for number, text in zip(labels.numbers, texts))
    written = (folder / "labels.tsv").read_text()
    (folder / "labels.tsv").unlink()
    add_labels(folder)  # as to a demo that an earlier version made
    assert (folder / "labels.tsv").read_text() == written


def test_a_model_of_each_family_on_the_same_held_out_items(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("odmt.demo.run.make_demo", lambda folder: make_demo(folder, num_users=120, num_items=60))
    shutil.copytree(CONFIGS, tmp_path / "configs", ignore=shutil.ignore_patterns("*.png"))
    for path in (tmp_path / "configs").glob("demo*.yaml"):
        settings = yaml.safe_load(path.read_text())
        settings["model"]["dim"], settings["train"]["epochs"] = 16, 2
        path.write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    demo("all")
    out = capsys.readouterr().out
    assert "the best by validation recall@10" in out
    assert "the best by validation recall@20" in out
    assert table(out).count(next(line for line in table(out) if "most popular" in line)) == 2, "the same items are held out"
    with pytest.raises(InputError, match=r"family: 'none' is none of sequential, graph"):
        demo("none")


def table(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("|")]
