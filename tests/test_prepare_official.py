import os

import numpy as np
import pytest
from official_images import LMDB_Image, StreamImage, pickled, pixels, write_lmdb
from PIL import Image

from odmt.errors import InputError
from odmt.prepare.official import official
from odmt.sequential.interactions import Interactions


def read(out):
    dataset = Interactions.load(out)
    names = [dataset.item_ids[n - 1] for n in dataset.items]
    return dataset, {user: names[start:end] for user, start, end in zip(dataset.user_ids, dataset.offsets, dataset.offsets[1:])}


def test_arts_with_a_folder_of_images(tmp_path, capsys):
    behaviours, text = tmp_path / "Arts_Crafts_and_Sewing_user_behaviours.tsv", tmp_path / "Arts_Crafts_and_Sewing_text.tsv"
    behaviours.write_text("A1\tB3 B1 B2 B4 B1\nA2\tB1 B2 B3 B4 B5 B1\nA3\tB1 B2 B3 B4\n")
    # Lines of unequal length, a quote, no text but blanks.
    text.write_text('B2\tGlue "x"\tElmer\tArts\nB1\tYarn\nB4\tPaint\t\tArts\tred\nB3\tPaper\tX\nB5\t \t\n\nB6\tnever\n\n')
    (tmp_path / "images").mkdir()
    for item in ("B1", "B2", "B3", "B4", "B5"):
        Image.fromarray(pixels(0, 16, 16)).save(tmp_path / "images" / f"{item}.jpg")
    official(behaviours, text, tmp_path / "images", tmp_path / "arts")
    dataset, users = read(tmp_path / "arts")
    assert users == {"A1": ["B3", "B1", "B2", "B4", "B1"], "A2": ["B1", "B2", "B3", "B4", "B1"]}
    assert dataset.item_ids == ["B2", "B1", "B4", "B3"]
    assert [text.split() for text in dataset.texts] == [
        ["glue", '"x"', "elmer", "arts"],
        ["yarn"],
        ["paint", "arts", "red"],
        ["paper", "x"],
    ]
    assert sorted(os.listdir(tmp_path / "arts" / "images")) == ["B1.jpg", "B2.jpg", "B3.jpg", "B4.jpg"]
    assert "paper, Table 1" in capsys.readouterr().out


def test_hm_with_numbers_for_keys(tmp_path):
    items = [f"v0{108775015 + n}" for n in range(6)]
    (tmp_path / "hm_pick_users_5W.tsv").write_text(f"u1\t{' '.join(items)} \nu2\t{' '.join(reversed(items))}\n")
    (tmp_path / "hm_pick_items_5W.tsv").write_text("".join(f"{item}\tStrap top {n}\n" for n, item in enumerate(items)))
    values = {str(108775015 + n).encode(): pickled(LMDB_Image(pixels(n), str(n))) for n in range(5)}
    write_lmdb(tmp_path / "hm_image_20W.lmdb", values)
    official(*(tmp_path / name for name in ("hm_pick_users_5W.tsv", "hm_pick_items_5W.tsv", "hm_image_20W.lmdb", "hm")))
    _, users = read(tmp_path / "hm")
    assert users == {"u1": items[:5], "u2": items[4::-1]}
    assert np.array_equal(np.asarray(Image.open(tmp_path / "hm" / "images" / f"{items[3]}.png")), pixels(3))


def test_stream_with_normalised_floats(tmp_path):
    (tmp_path / "10wu_ks_pairs.tsv").write_text("1\t10 11 12 13 14\n2\t14 13 12 11 10\n")
    (tmp_path / "10wu_ks_title.csv").write_text('10,猫, "狗", 鱼\n11,"quoted"\n12,c\n13,d\n14,e\n', encoding="utf-8")
    images = {n: pixels(n, 224, 224) for n in range(10, 15)}
    normalised = {n: (image.transpose(2, 0, 1).astype(np.float32) / 255 - 0.5) / 0.5 for n, image in images.items()}
    write_lmdb(tmp_path / "10wu_ks_cover.lmdb", {str(n).encode(): pickled(StreamImage(array)) for n, array in normalised.items()})
    official(*(tmp_path / name for name in ("10wu_ks_pairs.tsv", "10wu_ks_title.csv", "10wu_ks_cover.lmdb", "stream")))
    dataset, users = read(tmp_path / "stream")
    assert users == {"1": ["10", "11", "12", "13", "14"], "2": ["14", "13", "12", "11", "10"]}
    assert dataset.texts[:2] == ['猫, "狗", 鱼', '"quoted"']
    assert np.array_equal(np.asarray(Image.open(tmp_path / "stream" / "images" / "12.png")), images[12])


def test_nothing_is_left_behind_by_a_bad_image(tmp_path):
    (tmp_path / "users.tsv").write_text("u\ta b c d e\n")
    (tmp_path / "text.tsv").write_text("".join(f"{item}\ttext\n" for item in "abcde"))
    write_lmdb(tmp_path / "x.lmdb", {item.encode(): b"rubbish" for item in "abcde"})
    with pytest.raises(InputError, match=r"x.lmdb, key b'a': not a pickled LMDB_Image"):
        official(tmp_path / "users.tsv", tmp_path / "text.tsv", tmp_path / "x.lmdb", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["text.tsv", "users.tsv", "x.lmdb", "x.lmdb-lock"]
