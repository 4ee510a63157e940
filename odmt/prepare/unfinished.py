"""Datasets whose pictures are still to be fetched: all but the pictures is kept until `finish`."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from odmt.errors import InputError
from odmt.prepare.histories import read_histories
from odmt.prepare.item_tables import read_tab_items
from odmt.prepare.layout import Cut, Dataset, writing
from odmt.prepare.pictures import find_pictures


def write_unfinished(folder: Path, dataset: Dataset, urls: Mapping[str, Sequence[str]], cut: Cut):
    """Write what `finish` needs and image_urls.tsv: item<TAB>url<TAB>url ..., the best one first.

    Args:
        folder: the dataset's folder, not complete yet.
        dataset: uncut histories of the users that may be kept, and their items.
        urls: at least those of the dataset's items.
        cut: what will be kept of a user.
    """
    rest = folder / "unfinished"
    rest.mkdir()
    dataset.write(rest)
    (rest / "cut.json").write_text(json.dumps(dataclasses.asdict(cut)))
    lines = ("\t".join([item, *urls[item]]) + "\n" for item in dataset.item_ids)
    (folder / "image_urls.tsv").write_text("".join(lines), encoding="utf-8")


def finish(dataset: Path):
    """Finish a dataset whose images have been fetched: drop items without one, then cut as its source was told to.

    Can be done again after more images have come; the features of items that were kept before stay valid.

    Args:
        dataset: the dataset's folder, data/NAME, with images/.
    """
    folder = Path(dataset)
    rest = folder / "unfinished"
    if not rest.is_dir():
        raise InputError(f"{folder}: nothing to finish here; only `prepare.py amazon` leaves a dataset without its images")
    pictures = find_pictures(folder / "images")
    cut = Cut(**json.loads((rest / "cut.json").read_text()))
    finished = Dataset(read_histories(rest / "behaviours.tsv"), read_tab_items(rest / "items.tsv"), pictures, cut)
    with writing(folder):
        finished.write(folder)
    finished.report(folder.name)
