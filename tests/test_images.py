import numpy as np
import pytest
from PIL import Image

from odmt.errors import InputError
from odmt.features.images import DecodedBatches, decode, find_images, load_batches


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def test_images_are_found_by_item_id(tmp_path):
    for name in ("a.jpg", "b.c.png", "0123.webp", "unrelated.jpg"):
        gradient(4, 4).save(tmp_path / name)
    found = find_images(tmp_path, ["0123", "a", "b.c", "none"])
    assert {item: path and path.name for item, path in found.items()} == {
        "0123": "0123.webp",
        "a": "a.jpg",
        "b.c": "b.c.png",
        "none": None,
    }
    gradient(4, 4).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"'a' has two images.*remove one"):
        find_images(tmp_path, ["a"])


def test_decoding_fills_the_square_whatever_the_aspect(tmp_path):
    gradient(300, 100).save(tmp_path / "wide.png")
    pixels = decode(tmp_path / "wide.png", 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    # Bilinear, over the whole width and height: the gradient is still one, from edge to edge.
    expected = (np.arange(32) + 0.5) / 32 * 255
    np.testing.assert_allclose(pixels[16, :, 0], expected, atol=3)
    np.testing.assert_allclose(pixels[:, 16, 1], expected, atol=3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    image = Image.new("I;16", (8, 8)) if mode == "I;16" else gradient(8, 8).convert(mode)
    image.save(path)
    assert decode(path, 16).shape == (16, 16, 3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_in_order_with_the_bad_ones_black_and_explained(tmp_path, num_workers):
    for number in range(6):
        Image.new("RGB", (8, 8), (number * 40, 0, 0)).save(tmp_path / f"{number}.png")
    whole = (tmp_path / "4.png").read_bytes()
    gradient(64, 64).save(tmp_path / "long.jpg")
    (tmp_path / "1.png").write_bytes((tmp_path / "long.jpg").read_bytes()[:600])  # cut off
    (tmp_path / "2.png").write_text("<html>not found</html>")
    (tmp_path / "4.png").write_bytes(whole[: len(whole) // 2])
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    batches = list(load_batches(DecodedBatches([paths[:3], [*paths[3:], None]], size=4), num_workers, pin_memory=False))
    reds = [pixels[:, 0, 0, 0].tolist() for pixels, _ in batches]
    assert reds == [[0, 0, 0], [120, 0, 200, 0]]
    (_, first), (_, second) = batches
    assert sorted(first) == [1, 2]
    assert first[1].startswith("1.png: OSError: ")
    assert "cannot identify image file" in first[2]
    assert sorted(second) == [1, 3]
    assert second[3] == "no image file"


def test_shrinking_touches_large_jpegs_alone_and_those_little(tmp_path):
    rng = np.random.default_rng(0)
    for name, width in (("small.jpg", 40), ("large.jpg", 400), ("large.png", 400)):
        pixels = np.asarray(gradient(width, width)).astype(int) + rng.integers(0, 9, (width, width, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / name)
        difference = np.abs(decode(tmp_path / name, 32, shrink_jpegs=True).astype(int) - decode(tmp_path / name, 32))
        assert (difference.max() > 0) == (name == "large.jpg")
        assert difference.max() <= 8
