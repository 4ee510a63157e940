import numpy as np
import pytest
from PIL import Image

from odmt.errors import InputError
from odmt.features.header import Header, Record
from odmt.features.inspection import inspect_features, nearest
from odmt.features.writer import FeatureWriter, write_lists

COLOURS = {"r1": (250, 0, 0), "r2": (240, 9, 0), "b1": (0, 0, 250), "b2": (9, 0, 240)}
WIDTH = 3


def write_store(dataset, modality: str, features: dict[str, np.ndarray], dropped: tuple[str, ...] = ()):
    folder = dataset / "features" / modality
    with FeatureWriter(folder, Header(modality, "small/encoder", "abc", "last", WIDTH, 2, "as it is")) as writer:
        records = {item: Record("1") for item in features} | {item: Record("1", "drop", "no image file") for item in dropped}
        writer.add(features, records)
    write_lists(folder, records)


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "images").mkdir()
    names = [*COLOURS, "gone"]
    (tmp_path / "items.tsv").write_text("".join(f"{name}\tcosts $5, not $6_^ 红色 {name}\n" for name in names))
    for name, colour in COLOURS.items():
        Image.new("RGB", (30, 40), colour).save(tmp_path / "images" / f"{name}.png")
    noise = np.array([99, 99, 99])  # the second token: never looked at
    write_store(tmp_path, "image", {name: np.array([colour, noise]) for name, colour in COLOURS.items()}, ("gone",))
    write_store(tmp_path, "text", {name: np.ones((1, WIDTH)) * n + np.eye(WIDTH)[n % 2] for n, name in enumerate(names)})
    return tmp_path


def test_nearest_is_by_centred_cosine_without_the_item_itself():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 6)).astype(np.float16) + np.float16(5)
    rows = {2 * n: vector for n, vector in enumerate(vectors)}  # every other item has no features
    shown = np.array([8, 20])
    centred = vectors.astype(np.float64) - vectors.astype(np.float64).mean(0)
    for item, found in zip(shown, nearest(rows, shown, 3)[0]):
        query = centred[item // 2]
        cosines = {2 * n: query @ row / np.linalg.norm(query) / np.linalg.norm(row) for n, row in enumerate(centred)}
        del cosines[item]
        assert found.tolist() == sorted(cosines, key=cosines.get, reverse=True)[:3]


def test_neighbours_look_alike(dataset):
    rows = dict(enumerate(np.array(list(COLOURS.values()), np.float16)))
    assert nearest(rows, np.array([0, 1, 2, 3]), 1)[0][:, 0].tolist() == [1, 0, 3, 2]


def test_stores_are_described_and_drawn(dataset, capsys):
    inspect_features(dataset, num_items=3, num_neighbours=2)
    image, text, end = [" ".join(part.split()) for part in capsys.readouterr().out.split("\n\n")]
    assert "encoder small/encoder" in image
    assert "items 4; of the 5 in items.tsv 1 have no features" in image
    assert "tokens 8; an item has 2 to 2, 2.0 on average" in image
    assert "dropped.tsv 1 items" in image
    assert "items 5; of the 5 in items.tsv 0 have no features" in text
    assert "dropped.tsv" not in text
    assert end.startswith(f"contact sheet: {dataset / 'contact_sheet.png'}")
    with Image.open(dataset / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG"
        pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    for colour in COLOURS.values():  # 3 rows of an item and its neighbours show them all
        assert (np.abs(pixels.astype(int) - colour).max(1) < 8).any()


def test_text_alone_and_broken_images_are_drawn(dataset, tmp_path):
    (dataset / "images" / "r1.png").write_text("broken")
    inspect_features(dataset, tmp_path / "broken.png")
    (dataset / "features" / "image").rename(tmp_path / "image_features")
    (dataset / "images").rename(tmp_path / "elsewhere")
    inspect_features(dataset, tmp_path / "text.png", num_neighbours=10)
    assert (tmp_path / "broken.png").stat().st_size > (tmp_path / "text.png").stat().st_size > 0


def test_a_sheet_that_cannot_be_written(dataset, tmp_path):
    for missing in (tmp_path / "nowhere", tmp_path / "items.tsv"):
        with pytest.raises(InputError, match=r"x.png: cannot be written .*--out"):
            inspect_features(dataset, missing / "x.png")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"folder: cannot be written"):
        inspect_features(dataset, tmp_path / "folder")
    assert not (tmp_path / "folder.partial").exists()
    inspect_features(dataset, tmp_path / "no_suffix")
    assert Image.open(tmp_path / "no_suffix").format == "PNG"


def test_without_features(dataset, tmp_path):
    (dataset / "features").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"no features; make them with.*extract_features"):
        inspect_features(dataset)
