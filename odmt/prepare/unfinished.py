"""Datasets whose pictures are still to be fetched: all but the pictures is kept until `finish`."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from odmt.errors import InputError
from odmt.features.dataset import RECORD, check_recorded, find_dataset, read_record
from odmt.features.item_table import check_table
from odmt.files import reading
from odmt.prepare.histories import read_histories
from odmt.prepare.item_tables import read_tab_items
from odmt.prepare.layout import Cut, Dataset
from odmt.prepare.new_folder import writing
from odmt.prepare.pictures import find_pictures


def write_unfinished(folder: Path, dataset: Dataset, urls: Mapping[str, Sequence[str]], cut: Cut, source: Mapping):
    """Write what `finish` needs and image_urls.tsv: item<TAB>url<TAB>url ..., the best one first.

    Args:
        folder: the dataset's folder, not complete yet.
        dataset: uncut histories of the users that may be kept, and their items.
        urls: at least those of the dataset's items.
        cut: what will be kept of a user.
        source: from what the dataset is made, for its record.
    """
    rest = folder / "unfinished"
    rest.mkdir()
    dataset.write(rest, source)
    (rest / "cut.json").write_text(json.dumps(dataclasses.asdict(cut)))
    lines = ("\t".join([item, *urls[item]]) + "\n" for item in dataset.item_ids)
    (folder / "image_urls.tsv").write_text("".join(lines), encoding="utf-8")


def finish(dataset: Path):
    """Finish a dataset whose images have been fetched: drop items without one, then cut as its source was told to.

    Can be done again after more images have come; the features of items that were kept before stay valid.

    Args:
        dataset: the dataset's folder, data/NAME, or its name, with images/.
    """
    folder = find_dataset(dataset)
    rest = folder / "unfinished"
    if not rest.is_dir():
        raise InputError(f"{folder}: nothing to finish here; only `prepare.py amazon` leaves a dataset without its images")
    _check_unedited(folder)
    items = read_tab_items(rest / "items.tsv")
    for name in ("items.tsv", "behaviours.tsv"):
        check_table(rest / name)
    pictures = find_pictures(folder / "images", items["item"].to_list())
    finished = Dataset(read_histories(rest / "behaviours.tsv"), items, pictures, _read_cut(rest / "cut.json"))
    with writing(folder):
        finished.write(folder, (read_record(rest) or {}).get("source", {"command": "amazon"}))
    finished.report(folder.name)


def _read_cut(path: Path) -> Cut:
    with reading(path):
        content = path.read_bytes()
    try:
        return Cut(**json.loads(content))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}); run `prepare.py amazon` again") from None


def _check_unedited(folder: Path):
    """Refuse to write over tables that somebody has edited since they were written."""
    edited = bool((read_record(folder) or {}).get("accepted"))
    for name in ("items.tsv", "behaviours.tsv"):
        try:
            check_recorded(folder / name) if (folder / name).exists() else None
        except InputError:
            edited = True
        if edited and (folder / name).exists():
            raise InputError(
                f"{folder / name}: edited since it was finished, and finishing again would write over it; move the tables and "
                f"{RECORD} away first"
            )
