"""Feature extraction: images decoded and encoded a second, and how long the encoder waits for decoded images."""

import itertools
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from tqdm import tqdm
from transformers import CLIPVisionConfig, CLIPVisionModel

from odmt.bench.measure import timed
from odmt.bench.results import Measurement, print_table, write_json
from odmt.distributed import choose_device
from odmt.features.decoding import Batch
from odmt.features.encoders import ImageEncoder
from odmt.features.extraction import fill_store
from odmt.features.modalities import ImageModality

DISTINCT_IMAGES = 256


class WatchedImages(ImageModality):
    """Images that note how long the encoder waited for them.

    Attributes:
        waited: seconds.
    """

    waited: float = 0.0

    def batches(self, batches: list[list[str]]) -> Iterator[Batch]:
        """Yield as `ImageModality` does."""
        decoded = super().batches(batches)
        for _ in batches:
            started = time.perf_counter()
            batch = next(decoded)
            self.waited += time.perf_counter() - started
            yield batch


def features(
    num_images: int = 128,
    side: int = 500,
    num_workers: int = 2,
    batch_size: int = 64,
    shrink_jpegs: bool = False,
    repeats: int = 3,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    json: Path | None = None,
):
    """Measure the extraction of image features with a random ViT-B/32: its two halves alone, then the whole.

    Args:
        num_images: JPEGs that are decoded and encoded; 256 of them are drawn, the others are links to these.
        side: width and height of the JPEGs in pixels.
        num_workers: processes that decode.
        batch_size: images that are encoded together.
        shrink_jpegs: decode large JPEGs at a fraction of their size.
        repeats: of each, in turn.
        device: where the encoder computes.
        json: file for the numbers.
    """
    where = choose_device(device)
    settings = {
        "num_images": num_images,
        "side": side,
        "num_workers": num_workers,
        "batch_size": batch_size,
        "shrink_jpegs": shrink_jpegs,
        "repeats": repeats,
        "device": device,
    }
    parts = ("decoding alone", "encoding alone", "decoding, encoding and storing", "of which waiting for images")
    measurements = [Measurement(f"features, {part}", settings, [], work={"images": num_images}) for part in parts]
    measurements[-1].work = {}
    decoding, encoding, extraction, waiting = (measurement.seconds for measurement in measurements)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        CLIPVisionModel(CLIPVisionConfig()).save_pretrained(root / "clip")
        encoder = ImageEncoder(str(root / "clip"), where)
        item_ids = draw_images(root / "images", num_images, side)
        batches = [item_ids[start : start + batch_size] for start in range(0, num_images, batch_size)]
        images = WatchedImages(root / "images", item_ids, encoder, num_workers, shrink_jpegs)
        pixels, _ = next(images.batches(batches[:1]))
        encoder.encode(pixels)  # warm up
        for repeat in range(repeats):
            decoding.append(timed(lambda: list(images.batches(batches)), where))
            encoding.append(timed(lambda: [encoder.encode(pixels[: len(batch)]) for batch in batches], where))
            images.waited = 0.0
            store = root / f"store {repeat}"
            extraction.append(timed(partial(fill_store, store, images, item_ids, batch_size), where))
            waiting.append(images.waited)
    print_table([row for measurement in measurements for row in measurement.rows()])
    print(f"share of the whole that the encoder waits for images: {np.median(np.divide(waiting, extraction)):.1%}")
    write_json(measurements, json)


def draw_images(folder: Path, count: int, side: int) -> list[str]:
    """Write JPEGs with shapes and grain; returns the item ids."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    item_ids = [f"item{number}" for number in range(count)]
    drawn = item_ids[:DISTINCT_IMAGES]
    for item_id in tqdm(drawn, "drawing images", unit="image"):
        shapes = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (side, side, 1))
        Image.fromarray((np.asarray(shapes) + grain).clip(0, 255).astype(np.uint8)).save(folder / f"{item_id}.jpg", quality=90)
    for item_id, source in zip(item_ids[len(drawn) :], itertools.cycle(drawn)):
        (folder / f"{item_id}.jpg").symlink_to(f"{source}.jpg")
    return item_ids
