"""The official release of the ODMT authors, and files in its form."""

from pathlib import Path

from odmt.prepare.histories import read_histories
from odmt.prepare.item_tables import read_tab_items
from odmt.prepare.layout import Cut, Dataset, source_of
from odmt.prepare.lmdb_images import LmdbImages
from odmt.prepare.microlens import read_titles
from odmt.prepare.new_folder import new_folder
from odmt.prepare.pictures import find_pictures, place_pictures
from odmt.prepare.raw_files import suffix


def official(
    behaviours: Path,
    items: Path,
    images: Path,
    out: Path,
    min_length: int = 5,
    last: int = 15,
    skip_bad_lines: int = 0,
    overwrite: bool = False,
):
    """Prepare a dataset from the files of the official release.

    Args:
        behaviours: *_user_behaviours.tsv (Arts, Office), hm_pick_users_5W.tsv or 10wu_ks_pairs.tsv.
        items: *_text.tsv, hm_pick_items_5W.tsv or 10wu_ks_title.csv.
        images: a folder of ITEM.jpg, which are hard-linked or, across file systems, copied; or *_image.lmdb,
            hm_image_20W.lmdb or 10wu_ks_cover.lmdb, whose images are written as PNG.
        out: the dataset's folder, data/NAME.
        min_length: users with fewer interactions are dropped.
        last: so many of a user's newest interactions are kept: max_seq_len + 3.
        skip_bad_lines: leave out up to so many lines of the behaviours that cannot be read.
        overwrite: replace the dataset that is there, with its images and features.
    """
    source = source_of("official", locals())
    cut = Cut(min_length, last)
    with new_folder(out, overwrite) as folder:
        # As the official reader has it: in Stream's file the title is all that follows the first comma, quotes too.
        table = read_titles(items, quoted=False) if suffix(items) == ".csv" else read_tab_items(items)
        histories = read_histories(behaviours, skip_bad_lines)
        if _is_lmdb(Path(images)):
            stored = LmdbImages(images, table["item"])
            dataset = Dataset(histories, table, stored.item_ids, cut)
            stored.place(dataset.item_ids, folder / "images")
        else:
            pictures = find_pictures(images, table["item"].to_list())
            dataset = Dataset(histories, table, pictures, cut)
            place_pictures(pictures, dataset.item_ids, folder / "images")
        dataset.write(folder, source)
    dataset.report(Path(out).name)


def _is_lmdb(path: Path) -> bool:
    return path.is_file() or (path / "data.mdb").exists()
