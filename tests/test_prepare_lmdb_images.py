import os
import pickle

import numpy as np
import pytest
from official_images import LMDB_Image, StreamImage, pickled, pixels, write_lmdb
from PIL import Image

from odmt.errors import InputError
from odmt.prepare.lmdb_images import LmdbImages, decode_image


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_bytes_of_any_size(protocol):
    image = pixels(0)
    # Protocol 2 has no bytes; Python 3 writes them as a call, which is refused like every other.
    if protocol == 2:
        with pytest.raises(ValueError, match=r"it asks for _codecs\.encode"):
            decode_image(pickled(LMDB_Image(image, "B1"), protocol))
    else:
        assert np.array_equal(np.asarray(decode_image(pickled(LMDB_Image(image, "B1"), protocol))), image)


def test_floats_of_stream_become_the_pixels_they_were_made_of():
    image = pixels(1, 224, 224)
    # The official pre-processing: to [0, 1], channels first, mean and standard deviation 0.5.
    normalised = (image.transpose(2, 0, 1).astype(np.float32) / 255 - 0.5) / 0.5
    assert np.array_equal(np.asarray(decode_image(pickled(StreamImage(normalised)))), image)


class Hostile:
    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call", [(os.system, "touch {path}"), (eval, "open({path!r}, 'w')"), (os.mkdir, "{path}")], ids=["system", "eval", "mkdir"]
)
def test_a_hostile_pickle_is_refused(tmp_path, call):
    touched = tmp_path / "touched"
    value = pickle.dumps({"image": Hostile(call[0], call[1].format(path=str(touched)))})
    with pytest.raises(ValueError, match="it asks for "):
        decode_image(value)
    assert not touched.exists()
    pickle.loads(value)
    assert touched.exists(), "the test's pickle does harm to those who trust it"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"not a pickle",
        pickle.dumps({"image": b"x"}),
        pickle.dumps(np.zeros(3)),
        pickled(LMDB_Image(pixels(0), "B1"))[:-20],
    ],
)
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match="not a pickled LMDB_Image"):
        decode_image(value)


def test_wrong_lengths_are_refused():
    stored = LMDB_Image(pixels(0), "B1")
    stored.size = (5, 4)
    with pytest.raises(ValueError, match="cannot reshape"):
        decode_image(pickled(stored))
    with pytest.raises(ValueError, match="cannot reshape"):
        decode_image(pickled(StreamImage(np.zeros((3, 8, 8), np.float32))))


@pytest.mark.parametrize("attributes", [{"size": 5}, {"size": (5,)}, {"channels": None}, {"size": (0, 3), "image": b""}])
def test_odd_attributes_are_refused(attributes):
    stored = LMDB_Image(pixels(0), "B1")
    vars(stored).update(attributes)
    with pytest.raises(ValueError, match="not a pickled LMDB_Image"):
        decode_image(pickled(stored))


def test_flat_and_grey_images():
    image = pixels(0, height=1)
    assert np.array_equal(np.asarray(decode_image(pickled(LMDB_Image(image, "B1")))), image)
    grey = pixels(0)[:, :, :1]
    assert np.array_equal(np.asarray(decode_image(pickled(LMDB_Image(grey, "B1")))), np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize("subdir", [False, True])
def test_keys_are_names_or_numbers(tmp_path, subdir):
    stored = {key: LMDB_Image(pixels(n), key.decode()) for n, key in enumerate([b"B000X", b"108775015", b"7"])}
    write_lmdb(tmp_path / "x.lmdb", {key: pickled(image) for key, image in stored.items()}, subdir)
    images = LmdbImages(tmp_path / "x.lmdb", ["B000X", "v0108775015", "v0108775016", "7", "none"])
    assert images.item_ids == ["B000X", "v0108775015", "7"]
    images.place(["v0108775015", "7"], tmp_path / "images")
    assert sorted(os.listdir(tmp_path / "images")) == ["7.png", "v0108775015.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "images" / "v0108775015.png")), pixels(1))


def test_a_bad_value_is_named_with_its_key(tmp_path):
    write_lmdb(tmp_path / "x.lmdb", {b"B1": b"rubbish"})
    images = LmdbImages(tmp_path / "x.lmdb", ["B1"])
    with pytest.raises(InputError, match=r"x.lmdb, key b'B1': not a pickled LMDB_Image"):
        images.place(["B1"], tmp_path / "images")


@pytest.mark.parametrize("subdir", [False, True])
def test_a_file_cut_off_is_refused(tmp_path, subdir):
    path = tmp_path / "x.lmdb"
    write_lmdb(path, {b"B1": pickled(LMDB_Image(pixels(0, 50, 50), "B1"))}, subdir)
    file = path / "data.mdb" if subdir else path
    file.write_bytes(file.read_bytes()[:-4096])
    with pytest.raises(InputError, match=f"{file}: the last 4,096 bytes are missing"):
        LmdbImages(path, ["B1"])


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.lmdb").write_bytes(b"x" * 10000)
    with pytest.raises(InputError, match="not an LMDB file"):
        LmdbImages(tmp_path / "x.lmdb", [])
