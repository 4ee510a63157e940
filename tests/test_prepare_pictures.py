import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odmt.errors import InputError
from odmt.prepare.csv_tables import csv
from odmt.prepare.pictures import find_pictures, place_pictures


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def draw(path: Path, seed: int = 0, side: int = 16) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(path)
    return path


def test_of_several_files_the_first_that_can_be_decoded_is_taken(folder, capsys):
    whole = draw(folder / "i0.jpg", 0)
    (folder / "i0.bmp").write_bytes(draw(folder / "x.bmp", 1).read_bytes()[:60])
    draw(folder / "i1.jpg", 2)
    draw(folder / "i1.png", 3)
    (folder / "i2.bmp").write_bytes(b"no image")
    (folder / "i2.jpg").write_bytes(b"none either")
    pictures = find_pictures(folder, ["i0", "i1", "i2"])
    assert {name: pictures[name].name for name in ("i0", "i1", "i2")} == {"i0": whole.name, "i1": "i1.jpg", "i2": "i2.bmp"}
    out = capsys.readouterr().out
    assert "3 items have several images; the first that can be decoded is taken: i0.jpg and not i0.bmp, for one" in out


def test_what_is_no_image_by_its_name_is_none(folder):
    draw(folder / "i0.png")
    for name in ("i1.json", "i2.txt", "i3.pdf", "i4.eps", "i5"):
        (folder / name).write_text("x")
    assert list(find_pictures(folder, [f"i{n}" for n in range(6)])) == ["i0"]


def test_placeholders_and_giants_count_as_missing(folder, capsys):
    draw(folder / "i0.png")
    for n in (1, 2):
        Image.new("L", (1, 1)).save(folder / f"i{n}.gif")
    Image.new("1", (8000, 8000)).save(folder / "i3.png")
    os.mkfifo(folder / "i4.jpg")
    (folder / "i5.jpg").symlink_to("i5.jpg")
    assert list(find_pictures(folder, [f"i{n}" for n in range(6)])) == ["i0"]
    assert "5 images count as missing, i1.gif for one: a placeholder of 1 x 1 pixels" in capsys.readouterr().out


def test_a_picture_that_many_items_share_is_said(folder, capsys):
    for n in range(6):
        draw(folder / f"i{n}.png", seed=max(0, n - 3))
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "i6.bmp")
    Image.fromarray(np.ones((16, 16, 3), np.uint8)).save(folder / "i7.bmp")  # of the same size in bytes
    assert len(find_pictures(folder, [f"i{n}" for n in range(8)])) == 8
    assert "4 items share their picture with another; one picture, that of i0, stands for 4 items" in capsys.readouterr().out
    find_pictures(folder, ["i3", "i4", "i5", "i6", "i7"])
    assert capsys.readouterr().out == ""


def test_links_are_copied_and_only_to_images(folder, tmp_path, capsys):
    secret = tmp_path / "passwd.jpg"
    secret.write_text("root:x:0:0\n")
    elsewhere = draw(tmp_path / "elsewhere.png", 1)
    draw(folder / "i0.png")
    (folder / "i1.png").symlink_to(elsewhere)
    (folder / "i2.jpg").symlink_to(secret)
    pictures = find_pictures(folder, ["i0", "i1", "i2"])
    place_pictures(pictures, pictures, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["i0.png", "i1.png"]
    assert os.path.samefile(folder / "i0.png", tmp_path / "out" / "i0.png")
    assert not os.path.samefile(elsewhere, tmp_path / "out" / "i1.png")
    assert (tmp_path / "out" / "i1.png").read_bytes() == elsewhere.read_bytes()
    assert "1 images count as missing, i2.jpg for one: a symbolic link to what is no image" in capsys.readouterr().out


def test_images_without_the_leading_zero_are_named(folder, tmp_path):
    items = [f"01087750{n}" for n in range(10, 16)]
    for item in items:
        draw(folder / f"{item[1:]}.jpg", seed=int(item))
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + "".join(f"u,{item},{n}\n" for n, item in enumerate(items)))
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{item},thing\n" for item in items))
    match = r"none of the 6 items .* has an image: '0108775010' for one; the images' folder has '108775010', which differs"
    with pytest.raises(InputError, match=match):
        csv(tmp_path / "events.csv", tmp_path / "items.csv", tmp_path / "out", images=folder)
