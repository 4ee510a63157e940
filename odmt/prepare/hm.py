"""H&M: the files of Kaggle's "H&M Personalized Fashion Recommendations"."""

import random
from pathlib import Path

import polars as pl
from jsonargparse.typing import PositiveInt

from odmt.errors import InputError
from odmt.prepare.histories import histories_by_time
from odmt.prepare.item_tables import read_items
from odmt.prepare.layout import HAS_TEXT, Cut, Dataset, source_of
from odmt.prepare.names import unmatched
from odmt.prepare.new_folder import new_folder
from odmt.prepare.pictures import find_pictures, place_pictures
from odmt.prepare.raw_tables import read_csv

LOOKED_AT = 10_000  # purchases, to say what they call articles where none is known
# The text of an item in the paper.
FIELDS = ["prod_name", "product_type_name", "product_group_name", "graphical_appearance_name", "colour_group_name"]


def hm(
    transactions: Path,
    articles: Path,
    images: Path,
    out: Path = Path("data/hm"),
    users: PositiveInt = 50_000,
    seed: int = 1,
    min_length: int = 5,
    last: int = 15,
    skip_bad_lines: int = 0,
    overwrite: bool = False,
):
    """Prepare H&M with users drawn at random.

    Users are drawn among those with enough interactions after items without text or image are dropped. The authors' own draw is
    not public. Purchases of one day keep the order of the file.

    Args:
        transactions: transactions_train.csv.
        articles: articles.csv.
        images: folder images/ with 0xx/0xxxxxxxxx.jpg, which are hard-linked or, across file systems, copied.
        out: the dataset's folder.
        users: how many users are drawn.
        seed: of the draw.
        min_length: users with fewer interactions are dropped.
        last: so many of a user's newest interactions are kept: max_seq_len + 3.
        skip_bad_lines: leave out up to so many transactions that cannot be read.
        overwrite: replace the dataset that is there, with its images and features.
    """
    source = source_of("hm", locals())
    cut = Cut(min_length, last)
    with new_folder(out, overwrite) as folder:
        items = read_items(articles, "article_id", FIELDS)
        pictures = find_pictures(images, items["item"].to_list(), "*/*")
        usable = items.filter(HAS_TEXT, pl.col("item").is_in(list(pictures)))
        drawn = _draw(transactions, usable, min_length, users, seed, skip_bad_lines)
        dataset = Dataset(_histories(transactions, drawn, skip_bad_lines), items, pictures, cut)
        place_pictures(pictures, dataset.item_ids, folder / "images")
        dataset.write(folder, source)
    dataset.report(Path(out).name)


def _draw(path: Path, items: pl.DataFrame, min_length: int, users: int, seed: int, skip_bad_lines: int) -> pl.DataFrame:
    """Draw users among those with `min_length` purchases of usable items; returns hashes of their names.

    Hashes, since 31 million names of 64 characters do not fit into memory. That two of a million and a half customers share one
    has a probability below 1e-6.
    """
    columns = [pl.col("customer_id").alias("user"), pl.col("article_id").alias("item")]
    tables = read_csv(path, columns, skip_bad_lines=skip_bad_lines)
    usable = pl.col("item").is_in(items["item"].implode())
    hashes: list[pl.DataFrame] = []
    bought: set[str] = set()
    for table in tables:
        hashes.append(table.filter(usable).select(pl.col("user").hash()))
        bought = bought or set(table["item"].head(LOOKED_AT))
    counts = pl.concat(hashes).group_by("user", maintain_order=True).len()
    active = counts.filter(pl.col("len") >= min_length)["user"]
    print(f"{len(active):,} of {len(counts):,} customers have {min_length} purchases of items with text and image")
    if active.is_empty():
        example = _example(items["item"], bought) if counts.is_empty() else ""
        raise InputError(
            f"{path}: no customer has {min_length} purchases of the {len(items):,} articles with text and image; are --articles "
            f"and --images those of this file, and --min-length right?{example}"
        )
    chosen = random.Random(seed).sample(range(len(active)), min(users, len(active)))
    return active.gather(chosen).to_frame()


def _example(items: pl.Series, bought: set[str]) -> str:
    return f" None of them was bought: {unmatched(items, bought, 'the file')}" if len(items) else ""


def _histories(path: Path, drawn: pl.DataFrame, skip_bad_lines: int) -> pl.DataFrame:
    columns = [
        pl.col("t_dat").str.to_date("%Y-%m-%d", strict=False).alias("time"),
        pl.col("customer_id").alias("user"),
        pl.col("article_id").alias("item"),
    ]
    events = []
    for table in read_csv(path, columns, skip_bad_lines=skip_bad_lines):
        chosen = table.filter(pl.col("user").hash().is_in(drawn["user"].implode()))
        # A copy: the few rows chosen would hold on to the memory of the whole block.
        events.append(pl.DataFrame(chosen.to_dict(as_series=False), schema=table.schema))
    return histories_by_time(pl.concat(events))
