"""Amazon's metadata of 2014, 2018 and 2023: titles, brands, categories, descriptions and image URLs of products."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from odmt.errors import InputError
from odmt.prepare.layout import tidy
from odmt.prepare.names import unmatched
from odmt.prepare.raw_json import first_objects
from odmt.prepare.raw_tables import read_json_lines


class Keys(NamedTuple):
    """What a generation calls the item, the text of the paper (title, brand, category, description) and the image URLs."""

    item: str
    texts: list[str]
    images: list[str]


GENERATIONS = {
    "2014": Keys("asin", ["title", "brand", "categories", "description"], ["imUrl"]),
    "2018": Keys("asin", ["title", "brand", "category", "description"], ["imageURLHighRes", "imageURL"]),
    "2023": Keys("parent_asin", ["title", "store", "categories", "description"], ["images"]),
}
SCRIPT = re.compile(r"<(script|style)\b.*?(</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>]*>", re.DOTALL)
# Of pages whose script was taken for the title.
POLLUTION = r"getTime|aPageStart|P\.when\(|function\s*\(|(?i)<script"


def read_metadata(path: Path, occurring: pl.Series, skip_bad_lines: int) -> tuple[pl.DataFrame, dict[str, list[str]]]:
    """Read the texts and image URLs of the items that occur, and say what form they have.

    Returns:
        item and the text fields, all empty where there is no title; URLs by item, the best one first.
    """
    generation = _generation(path)
    item, fields, images = GENERATIONS[generation]
    schema = dict.fromkeys([item, *fields, *images], pl.String())
    tables = read_json_lines(path, schema, [*fields, *images], skip_bad_lines)
    wanted = occurring.to_frame(item)
    parts: list[pl.DataFrame] = []
    others: set[str] = set()
    for part in tables:
        parts.append(part.join(wanted, on=item, how="semi", maintain_order="left"))
        others |= set(part[item]) if not others else set()
    table = pl.concat(parts)
    if table.is_empty():
        raise InputError(
            f"{path}: none of {len(occurring):,} items of the reviews is in it: {unmatched(occurring, others, 'it')}; is it the "
            "metadata of the same category?"
        )
    first = table.unique(item, keep="first", maintain_order=True)
    polluted = first["title"].str.contains(POLLUTION).fill_null(False)
    described = first.with_columns(
        pl.col(fields[:2]).fill_null("").map_elements(clean_html, pl.String),
        pl.col(fields[2:]).map_elements(lambda value: clean_html(" ".join(_texts(_parsed(value)))), pl.String, skip_nulls=False),
    )
    untitled = (described["title"] == "") & ~polluted
    print(
        f"{path}: metadata of {generation}; metadata of {len(first):,} of {len(occurring):,} items; "
        f"{len(table) - len(first):,} repeated lines, {polluted.sum():,} items with a script for a title and "
        f"{untitled.sum():,} with an empty one dropped"
    )
    # Without a title an item counts as one without text, whatever else is known of it.
    described = described.with_columns(pl.when(polluted | untitled).then(pl.lit("")).otherwise(pl.col(fields)).name.keep())
    urls = {row[item]: links for row in described.select(item, *images).to_dicts() if (links := links_of(row, images))}
    _say_without(path, described.filter(~polluted & ~untitled), item, images, urls)
    return described.select(pl.col(item).alias("item"), *fields), urls


def clean_html(text: str) -> str:
    """Take out tags, scripts and styles, and resolve entities, however often they are escaped."""
    while "<" in text or "&" in text:
        plain = html.unescape(TAG.sub(" ", SCRIPT.sub(" ", text)))
        if plain == text:
            break
        text = plain
    return tidy(text)


def links_of(row: dict[str, str | None], images: list[str]) -> list[str]:
    """URLs of an item's first picture, the best one first.

    Choice: the paper does not say which picture it takes. The medium size of 2023 is larger than what the encoder sees.

    Args:
        row: the item's keys, lists and objects as JSON.
        images: the keys of a generation.
    """
    values = [_parsed(row[key]) for key in images]
    if images == ["images"]:
        pictures = _pictures(values[0])
        main = [picture for picture in pictures if picture.get("variant") == "MAIN"] or pictures
        links = [main[0].get(size) for size in ("large", "hi_res", "thumb")] if main else []
    else:  # high resolution and thumbnail (2018), or one URL (2014)
        links = [link for size in values for link in (size if isinstance(size, list) else [size])[:1]]
    return [link for link in links if isinstance(link, str) and re.fullmatch(r"https?://\S+", link)]


def _generation(path: Path) -> str:
    keys = {key for found in first_objects(path) for key in found}
    if "parent_asin" in keys:
        return "2023"
    if "asin" in keys:
        return "2014" if "imUrl" in keys or ("categories" in keys and "category" not in keys) else "2018"
    raise InputError(
        f"{path}: no metadata of Amazon: neither of the keys asin and parent_asin; it has {', '.join(sorted(keys)) or 'no objects'}"
        ". Read are those of 2014, 2018 and 2023"
    )


def _parsed(value: str | None) -> Any:
    """What a key holds that is read as a text: a text, or a list or object, of which it is the JSON."""
    if not value or value[0] not in "[{":
        return value or None
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        return value


def _texts(value: Any) -> Iterator[str]:
    """The texts in a list, or in lists of a list."""
    if isinstance(value, str):
        yield value
    for part in value if isinstance(value, list) else []:
        yield from _texts(part)


def _pictures(value: Any) -> list[dict[str, Any]]:
    """The pictures of 2023: a list of objects, one object of lists (as Hugging Face's `datasets` writes it), or URLs."""
    if isinstance(value, dict):
        lists = {key: values for key, values in value.items() if isinstance(values, list)}
        if not lists:
            return [value]
        return [dict(zip(lists, values)) for values in zip(*lists.values())]
    found = value if isinstance(value, list) else [value]
    return [{"large": picture} if isinstance(picture, str) else picture for picture in found if isinstance(picture, (str, dict))]


def _say_without(path: Path, titled: pl.DataFrame, item: str, images: list[str], urls: dict[str, list[str]]):
    """Say how many items have no image URL, and what stands there instead."""
    without = titled.filter(~pl.col(item).is_in(list(urls)))
    if len(without):
        row = without.row(0, named=True)
        found = ", ".join(f"{key} is {'empty' if row[key] in (None, '', '[]') else row[key][:80]!r}" for key in images)
        print(f"{path}: {len(without):,} items with a title have no image URL, {row[item]} for one: {found}")
