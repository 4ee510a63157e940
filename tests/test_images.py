import io
import os
import struct
import time

import numpy as np
import pytest
from PIL import Image

from odmt.errors import InputError
from odmt.features.decoding import DecodedBatches, decode, load_batches
from odmt.features.images import content_hash, describe_shared, find_images, is_plain, open_image, to_rgb


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


RAMP = np.linspace(0, 1, 64)[None].repeat(48, 0)  # black to white


def bytes_of(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def ramp_image(dtype: str, white: float) -> Image.Image:
    return Image.fromarray(np.rint(RAMP * white).astype(dtype) if white > 1 else RAMP.astype(dtype))


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a.png", ramp_image("<u2", 65535)),
        ("a.tif", ramp_image("<u2", 65535)),
        ("a.pgm", ramp_image("<u2", 65535)),
        ("a.jp2", ramp_image("<u2", 65535)),
        ("b.tif", Image.frombytes("I;16B", (64, 48), np.rint(RAMP * 65535).astype(">u2").tobytes())),
        ("a.tiff", ramp_image("<f4", 1)),
        ("a.pfm", ramp_image("<f4", 1)),
    ],
)
def test_deep_images_are_scaled_by_their_range(tmp_path, name, image):
    Image.fromarray(np.rint(RAMP * 255).astype(np.uint8)).save(tmp_path / "8bit.png")
    image.save(tmp_path / name)
    np.testing.assert_allclose(decode(tmp_path / name, 32).astype(int), decode(tmp_path / "8bit.png", 32), atol=1)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (ramp_image("<i4", 2**31 - 1), "32 bits, of which nobody knows what is white"),
        (ramp_image("<f4", 255), "not between 0 and 1, so nobody knows"),
        (Image.fromarray(-RAMP.astype("<f4")), "not between 0 and 1"),
        (Image.fromarray(np.where(RAMP > 0.5, np.nan, RAMP).astype("<f4")), "not between 0 and 1"),
    ],
)
def test_numbers_of_which_nobody_knows_the_white_are_bad(tmp_path, image, reason):
    image.save(tmp_path / "a.tif")
    ((_, bad),) = load_batches(DecodedBatches([[tmp_path / "a.tif"]], 8), 0, pin_memory=False)
    assert reason in bad[0]


def test_what_is_transparent_is_laid_on_white(tmp_path):
    colours = np.full((16, 16, 4), (200, 0, 0, 255), np.uint8)
    colours[:, :8] = (0, 0, 0, 0)  # black, seen by nobody
    colours[:, 12:, 3] = 51  # a fifth
    expected = {2: [255, 255, 255], 9: [200, 0, 0], 14: [244, 204, 204]}
    image = Image.fromarray(colours)
    image.save(tmp_path / "rgba.png")
    image.save(tmp_path / "a.webp", lossless=True, exact=True)
    for name in ("rgba.png", "a.webp"):
        pixels = decode(tmp_path / name, 16)
        assert {column: pixels[8, column].tolist() for column in expected} == expected
    grey = Image.fromarray(np.stack([np.zeros((16, 16), np.uint8), colours[..., 3]], 2))
    palette = Image.new("P", (16, 16))
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.paste(1, (8, 0, 16, 16))
    deep = Image.fromarray(np.where(np.arange(16) < 8, 7, 0)[None].repeat(16, 0).astype("<u2"))
    cases = {
        "grey": (bytes_of(grey), 0),
        "palette": (bytes_of(palette, transparency=0), [200, 0, 0]),
        "gif": (bytes_of(palette, "GIF", transparency=0), [200, 0, 0]),
        "one grey": (bytes_of(Image.fromarray(colours[..., 0]), transparency=0), 200),
        "deep": (bytes_of(deep, transparency=7), 0),
    }
    for content, opaque in cases.values():
        with open_image(content) as opened:
            assert not is_plain(opened)
            pixels = np.asarray(to_rgb(opened))
        assert (pixels[:, :8] == 255).all()
        assert (pixels[:, 8:12] == opaque).all()


def test_ordinary_images_are_what_pillow_makes_of_them(tmp_path):
    image = gradient(100, 60)
    opaque = image.convert("RGBA")
    for name, stored in (("a.png", image), ("a.jpg", image), ("grey.png", image.convert("L")), ("opaque.png", opaque)):
        stored.save(tmp_path / name)
        with Image.open(tmp_path / name) as plain:
            expected = np.asarray(plain.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(decode(tmp_path / name, 32), expected)


def test_a_rotation_that_exif_asks_for_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient(64, 32).save(tmp_path / "a.png", exif=exif)
    gradient(64, 32).save(tmp_path / "b.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 16), decode(tmp_path / "b.png", 16))


def jpeg_with_metadata(num_bytes: int, marker: bytes = b"\xe1") -> bytes:
    content = bytes_of(gradient(32, 32), "JPEG")
    segment = b"\xff" + marker + struct.pack(">H", 65535) + b"Exif\0\0" + bytes(65533 - 6)
    return content[:2] + segment * (num_bytes // len(segment)) + content[2:]


def gif_with_comment(num_bytes: int) -> bytes:
    content = bytes_of(gradient(32, 32).convert("P"), "GIF", comment=b"x")
    at = content.index(b"\x21\xfe") + 2
    return content[:at] + (b"\xff" + b"x" * 255) * (num_bytes // 256) + content[at:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bytes_of(Image.new("RGB", (1, 1)), "GIF"), "placeholder of 1 x 1"),
        (bytes_of(Image.new("RGB", (300, 2))), "placeholder of 300 x 2"),
        (bytes_of(Image.new("1", (8000, 7000))), "8000 x 7000 pixels, more than the 50 million"),
        (bytes_of(Image.new("L", (10_001, 5000)), "TIFF", compression="tiff_lzw"), "10001 x 5000 pixels"),
        (bytes_of(Image.new("1", (15_000, 13_000))), "pixels"),
        (jpeg_with_metadata(42_000_000), "more than 4 MB of metadata"),
        (jpeg_with_metadata(5_000_000, b"\xfe"), "more than 4 MB of metadata"),
        (gif_with_comment(30_000_000), "more than 4 MB of metadata"),
    ],
)
def test_what_the_header_tells_is_refused_before_decoding(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    begin = time.process_time()
    ((_, bad),) = load_batches(DecodedBatches([[tmp_path / "a.jpg"]], 8), 0, pin_memory=False)
    assert reason in bad[0]
    assert time.process_time() - begin < 2


def test_large_files_with_little_metadata_are_decoded():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), np.uint8))
    for image_format in ("PNG", "BMP", "TIFF", "WEBP"):
        content = bytes_of(noise, image_format, **({"lossless": True} if image_format == "WEBP" else {}))
        assert len(content) > 4_000_000
        with open_image(content) as image:
            np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(noise))
    for content in (jpeg_with_metadata(3_000_000), gif_with_comment(3_000_000)):
        with open_image(content) as image:
            assert to_rgb(image).size == (32, 32)


def test_what_is_no_file_is_bad_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a.jpg").symlink_to("fifo")
    (tmp_path / "b.jpg").symlink_to("b.jpg")
    (tmp_path / "c.jpg").mkdir()
    (tmp_path / "d.jpg").symlink_to("/dev/zero")
    paths = [tmp_path / f"{name}.jpg" for name in "abcd"]
    ((_, bad),) = load_batches(DecodedBatches([paths], 8), 1, pin_memory=False)
    assert [reason.partition(": ")[2] for reason in bad.values()] == [
        "ValueError: not a file",
        f"OSError: [Errno 40] Too many levels of symbolic links: '{tmp_path}/b.jpg'",
        "ValueError: not a file",
        "ValueError: not a file",
    ]


def test_files_of_other_kinds_are_no_images_of_items(tmp_path):
    for name in ("a.json", "a.jpg.partial", "a.txt", "b.JPG", "c", "d.c.webp"):
        (tmp_path / name).touch()
    found = find_images(tmp_path, ["a", "b", "c", "d.c"])
    assert {item: path and path.name for item, path in found.items()} == {"a": None, "b": "b.JPG", "c": "c", "d.c": "d.c.webp"}
    (tmp_path / "a.jpeg").touch()
    assert find_images(tmp_path, ["a"])["a"].name == "a.jpeg"


def test_a_folder_that_cannot_be_read(tmp_path):
    (tmp_path / "images").symlink_to("images")
    with pytest.raises(InputError, match="images: cannot be read"):
        find_images(tmp_path / "images", ["a"])


def test_shared_pictures_are_counted(tmp_path):
    for number in range(6):
        (tmp_path / f"i{number}.png").write_bytes(b"dot" if number < 3 else b"two" if number < 5 else b"own")
    hashes = {path.stem: content_hash(path) for path in sorted(tmp_path.iterdir())}
    assert describe_shared(hashes) == "5 items share their picture with another; one picture, that of i0, stands for 3 items"
    assert describe_shared({"i0": "a", "i1": "b"}) is None
