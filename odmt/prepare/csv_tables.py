"""A dataset from one's own CSV files and a folder of images."""

import sys
from pathlib import Path
from typing import Literal

from odmt.errors import InputError
from odmt.prepare.histories import histories_by_time, histories_of_pairs, read_events
from odmt.prepare.item_tables import read_items, read_labels
from odmt.prepare.layout import Cut, Dataset, source_of
from odmt.prepare.new_folder import new_folder
from odmt.prepare.pictures import find_pictures, place_pictures
from odmt.prepare.splits import random_split
from odmt.prepare.table1 import print_sgfd_table1


def csv(
    interactions: Path,
    items: Path,
    out: Path,
    images: Path | None = None,
    user: str = "user_id",
    item: str = "item_id",
    timestamp: str = "timestamp",
    text: str | None = None,
    list_separator: str | None = None,
    label_column: str | None = None,
    split: Literal["time", "random"] = "time",
    test_share: float = 0.3,
    valid_share: float = 0.1,
    seed: int = 1,
    min_length: int = 5,
    last: int | None = None,
    timestamp_format: str | None = None,
    skip_bad_lines: int = 0,
    overwrite: bool = False,
):
    """Prepare a dataset from an interaction table, an item table and a folder of images.

    Both tables are CSV files with a header, or by their suffix .tsv (tabs), .jsonl (an object a line, or an array) or .parquet,
    any of them also with .gz or .zst.

    Args:
        interactions: table of an interaction a row.
        items: table of an item a row.
        out: the dataset's folder, data/NAME.
        images: folder of files ITEM_ID.SUFFIX, which are hard-linked or, across file systems, copied; without, a dataset of IDs
            and texts.
        user: column of the interaction table.
        item: column of both tables.
        timestamp: column of the interaction table: numbers, or dates in one of the usual ways. Equal times keep the file's order.
        text: columns of the item table that make the text, separated by commas; without, all with a name but the item's.
        list_separator: character within text columns that is read as a blank, e.g. | in Drama|Comedy; in --label-column
            it ends the first value of a list.
        label_column: column of the item table with their categories, for models that learn from them; of a list (as JSON or
            Python write it, or with --list-separator) the first value.
        split: `time` keeps each user's items in time order, and models hold out the last two; `random` makes a dataset for graph
            models, which know no order, and needs no timestamps: of each user --test-share of the items are held out, then
            --valid-share of the rest, one at least where there are two. A repeated item counts once.
        test_share: of each user's items, with --split random.
        valid_share: of each user's other items, with --split random; 0 for none.
        seed: of the random split.
        min_length: users with fewer interactions are dropped.
        last: so many of a user's newest interactions are kept: max_seq_len + 3, 15 by default; all with --split random.
        timestamp_format: of dates written in another way, in the letters of strptime, e.g. '%d.%m.%y %H:%M'.
        skip_bad_lines: leave out up to so many lines of the interaction table that cannot be read.
        overwrite: replace the dataset that is there, with its images and features.
    """
    source = source_of("csv", locals())
    if split == "random" and last is not None:
        raise InputError("--last keeps the newest interactions, and --split random knows no order; leave one of the two out")
    cut = Cut(min_length, sys.maxsize if split == "random" else 15 if last is None else last)
    with new_folder(out, overwrite) as folder:
        fields = text.split(",") if text else None
        table = read_items(items, item, fields, list_separator)
        pictures = find_pictures(images, table["item"].to_list()) if images else None
        labels = read_labels(items, item, label_column, list_separator) if label_column else None
        if label_column and (fields is None or label_column in fields):
            print(f"{label_column} is text and category: teachers of categories read it in the text; --text leaves it out")
        times = None if split == "random" else timestamp
        events = read_events(interactions, user, item, times, skip_bad_lines, timestamp_format)
        dataset = Dataset(histories_by_time(events) if times else histories_of_pairs(events), table, pictures, cut, labels)
        if pictures:
            place_pictures(pictures, dataset.item_ids, folder / "images")
        if split == "time":
            dataset.write(folder, source)
        else:
            pairs = random_split(dataset, test_share, valid_share, seed)
            pairs.write(folder, source, dataset.dropped)
    if split == "time":
        return dataset.report(Path(out).name)
    dataset.report_dropped()
    print_sgfd_table1(Path(out).name, pairs.counts())
