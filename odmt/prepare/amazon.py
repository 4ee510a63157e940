"""Amazon (Arts, Office, any category): reviews and metadata of 2018, its ratings-only form, and of 2023."""

import html
import json
import re
import sys
from pathlib import Path
from typing import Literal

import polars as pl

from odmt.errors import InputError
from odmt.prepare.histories import histories_by_time
from odmt.prepare.layout import Cut, Dataset, source_of, tidy
from odmt.prepare.new_folder import new_folder
from odmt.prepare.raw_lines import RawLines
from odmt.prepare.raw_tables import read_csv, read_json_lines
from odmt.prepare.unfinished import write_unfinished

# The generations' names of item, the text of the paper (title, brand, category, description) and the lists of image URLs.
METADATA = {
    2018: ("asin", ["title", "brand", "category", "description"], ["imageURLHighRes", "imageURL"]),
    2023: ("parent_asin", ["title", "store", "categories", "description"], ["images"]),
}
SCRIPT = re.compile(r"<(script|style)\b.*?(</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>]*>", re.DOTALL)
# Of pages whose script was taken for the title.
POLLUTION = r"getTime|aPageStart|P\.when\(|function\s*\(|(?i)<script"


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
        reviews: CATEGORY.json.gz (2018), CATEGORY.csv of item,user,rating,time without a header (2018, ratings only), or
            CATEGORY.jsonl.gz (2023); recognised by the first line, gzipped or not.
        metadata: meta_CATEGORY.json.gz (2018) or meta_CATEGORY.jsonl.gz (2023).
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
        histories = histories_by_time(_read_reviews(reviews, skip_bad_lines))
        if duplicates == "first":
            once = histories.with_columns(pl.col("items").list.unique(maintain_order=True))
            repeated = histories["items"].list.len().sum() - once["items"].list.len().sum()
            print(f"{repeated:,} repeated reviews of a user on an item dropped")
            histories = once
        active = histories.filter(pl.col("items").list.len() >= min_length)
        print(f"{len(active):,} of {len(histories):,} users have {min_length} reviews")
        if active.is_empty():
            raise InputError(f"{reviews}: no user has {min_length} reviews; is it the whole file, and --min-length right?")
        items, urls = _read_metadata(metadata, active["items"].explode().unique(), skip_bad_lines)
        dataset = Dataset(active, items, urls, Cut(min_length, last=sys.maxsize))
        write_unfinished(folder, dataset, urls, cut, source)
    dataset.report(f"{Path(out).name}, uncut")
    print(f"next: python scripts/fetch_images.py --dataset {out}, then python scripts/prepare.py finish --dataset {out}")


def clean_html(text: str) -> str:
    """Take out tags, scripts and styles, and resolve entities, however often they are escaped."""
    while "<" in text or "&" in text:
        plain = html.unescape(TAG.sub(" ", SCRIPT.sub(" ", text)))
        if plain == text:
            break
        text = plain
    return tidy(text)


def _read_reviews(path: Path, skip_bad_lines: int) -> pl.DataFrame:
    first = RawLines(path).head()[0]
    if not first.lstrip().startswith("{"):
        time = pl.col("time").str.strip_chars().cast(pl.Int64, strict=False)
        columns = ["item", "user", "rating", "time"]
        return pl.concat(read_csv(path, [pl.col("user"), pl.col("item"), time], columns, skip_bad_lines))
    names = {2018: ("reviewerID", "asin", "unixReviewTime"), 2023: ("user_id", "parent_asin", "timestamp")}
    user, item, time = names[2018 if '"reviewerID"' in first else 2023]
    schema = {user: pl.String, item: pl.String, time: pl.Int64}
    table = pl.concat(read_json_lines(path, schema, skip_bad_lines=skip_bad_lines))
    return table.select(user=user, item=item, time=time)


def _read_metadata(path: Path, occurring: pl.Series, skip_bad_lines: int) -> tuple[pl.DataFrame, dict[str, list[str]]]:
    """Read titles, brands, categories, descriptions and image URLs of the items that occur."""
    generation = 2023 if '"parent_asin"' in RawLines(path).head()[0] else 2018
    item, fields, images = METADATA[generation]
    schema = dict.fromkeys([item, *fields, *images], pl.String)
    tables = read_json_lines(path, schema, [*fields, *images], skip_bad_lines)
    wanted = occurring.to_frame(item)
    table = pl.concat([table.join(wanted, on=item, how="semi", maintain_order="left") for table in tables])
    if table.is_empty():
        raise InputError(
            f"{path}: none of {len(occurring)} items of the reviews is in it; is it the metadata of the same category?"
        )
    first = table.unique(item, keep="first", maintain_order=True)
    polluted = first["title"].str.contains(POLLUTION).fill_null(False)
    described = first.with_columns(
        pl.col(fields[:2]).fill_null("").map_elements(clean_html, pl.String),
        pl.col(fields[2:]).map_elements(lambda value: clean_html(" ".join(_texts(value))), pl.String, skip_nulls=False),
    )
    untitled = (described["title"] == "") & ~polluted
    print(
        f"metadata of {len(first):,} of {len(occurring):,} items; {len(table) - len(first):,} repeated lines, "
        f"{polluted.sum():,} items with a script for a title and {untitled.sum():,} with an empty one dropped"
    )
    # Without a title an item counts as one without text, whatever else is known of it.
    described = described.with_columns(pl.when(polluted | untitled).then(pl.lit("")).otherwise(pl.col(fields)).name.keep())
    urls = {row[item]: links for row in described.select(item, *images).to_dicts() if (links := _links(row, images))}
    return described.select(pl.col(item).alias("item"), *fields), urls


def _list(value: str | None) -> list:
    """What a key holds that is read as a text: a list, of which it is the JSON, a text or nothing."""
    try:
        return json.loads(value) if value and value.startswith("[") else [value] if value else []
    except json.JSONDecodeError:
        return [value]


def _texts(value: str | None) -> list[str]:
    return [text for text in _list(value) if isinstance(text, str)]


def _links(row: dict[str, str | None], images: list[str]) -> list[str]:
    """URLs of an item's first picture, the best one first.

    Choice: the paper does not say which picture it takes. The medium size of 2023 is larger than what the encoder sees.
    """
    if len(images) == 2:  # 2018: high resolution and thumbnail
        links = [link for size in images for link in _list(row[size])[:1]]
    else:
        pictures = [picture for picture in _list(row["images"]) if isinstance(picture, dict)]
        main = [picture for picture in pictures if picture.get("variant") == "MAIN"] or pictures
        links = [main[0].get(size) for size in ("large", "hi_res", "thumb")] if main else []
    return [link for link in links if isinstance(link, str) and re.fullmatch(r"https?://\S+", link)]
