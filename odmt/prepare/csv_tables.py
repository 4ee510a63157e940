"""A dataset from one's own CSV files and a folder of images."""

from pathlib import Path

from odmt.prepare.histories import histories_by_time, read_events
from odmt.prepare.item_tables import read_items
from odmt.prepare.layout import Cut, Dataset, new_folder
from odmt.prepare.pictures import find_pictures, place_pictures


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
    min_length: int = 5,
    last: int = 15,
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
        list_separator: character within text columns that is read as a blank, e.g. | in Drama|Comedy.
        min_length: users with fewer interactions are dropped.
        last: so many of a user's newest interactions are kept: max_seq_len + 3.
        timestamp_format: of dates written in another way, in the letters of strptime, e.g. '%d.%m.%y %H:%M'.
        skip_bad_lines: leave out up to so many lines of the interaction table that cannot be read.
        overwrite: replace the dataset that is there, with its images and features.
    """
    cut = Cut(min_length, last)
    with new_folder(out, overwrite) as folder:
        pictures = find_pictures(images) if images else None
        fields = text.split(",") if text else None
        table = read_items(items, item, fields, list_separator)
        histories = histories_by_time(read_events(interactions, user, item, timestamp, skip_bad_lines, timestamp_format))
        dataset = Dataset(histories, table, pictures, cut)
        if pictures:
            place_pictures(pictures, dataset.item_ids, folder / "images")
        dataset.write(folder)
    dataset.report(Path(out).name)
