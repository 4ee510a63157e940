"""Amazon (Arts, Office, any category): reviews, ratings alone and metadata of 2014, 2018 and 2023."""

import sys
from pathlib import Path
from typing import Literal

import polars as pl

from odmt.errors import InputError
from odmt.prepare.amazon_metadata import read_metadata
from odmt.prepare.amazon_reviews import read_reviews
from odmt.prepare.histories import histories_by_time
from odmt.prepare.layout import Cut, Dataset, source_of
from odmt.prepare.new_folder import new_folder
from odmt.prepare.unfinished import write_unfinished


def amazon(
    reviews: Path,
    metadata: Path,
    out: Path,
    duplicates: Literal["all", "first"] = "all",
    min_length: int = 5,
    last: int = 15,
    skip_bad_lines: int = 0,
    overwrite: bool = False,
):
    """Prepare an Amazon category up to its images: next come fetch_images.py and `prepare.py finish`.

    Reviews of one second keep the order of the file.

    Args:
        reviews: CATEGORY.json.gz (2014, 2018) or CATEGORY.jsonl.gz (2023); or ratings alone, a CSV file with a header (2023) or
            without: user,item,rating,time (2014) or item,user,rating,time (2018). Which it is, is seen from its first lines.
        metadata: meta_CATEGORY.json.gz (2014, whose lines are Python dicts, and 2018) or meta_CATEGORY.jsonl.gz (2023).
        out: the dataset's folder, data/NAME.
        duplicates: keep `all` reviews that a user wrote on one item, or the `first`.
        min_length: users with fewer interactions are dropped.
        last: so many of a user's newest interactions are kept: max_seq_len + 3.
        skip_bad_lines: leave out up to so many lines of each file that cannot be read.
        overwrite: replace the dataset that is there, with its images and features.
    """
    source = source_of("amazon", locals())
    cut = Cut(min_length, last)
    with new_folder(out, overwrite) as folder:
        histories = histories_by_time(read_reviews(reviews, skip_bad_lines))
        if duplicates == "first":
            once = histories.with_columns(pl.col("items").list.unique(maintain_order=True))
            repeated = int(histories["items"].list.len().sum()) - int(once["items"].list.len().sum())
            print(f"{repeated:,} repeated reviews of a user on an item dropped")
            histories = once
        active = histories.filter(pl.col("items").list.len() >= min_length)
        print(f"{len(active):,} of {len(histories):,} users have {min_length} reviews")
        if active.is_empty():
            raise InputError(f"{reviews}: no user has {min_length} reviews; is it the whole file, and --min-length right?")
        items, urls = read_metadata(metadata, active["items"].explode().unique(), skip_bad_lines)
        dataset = Dataset(active, items, urls, Cut(min_length, last=sys.maxsize))
        write_unfinished(folder, dataset, urls, cut, source)
    dataset.report(f"{Path(out).name}, uncut")
    print(f"next: python scripts/fetch_images.py --dataset {out}, then python scripts/prepare.py finish --dataset {out}")
