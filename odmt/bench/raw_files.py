"""Raw files of the real formats and sizes, with generated content, for measurements."""

import gzip
import io
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image
from tqdm import tqdm

CHUNK = 500_000


def write_hm(folder: Path, rows: int, customers: int, articles: int):
    """Write H&M's transactions_train.csv, articles.csv and images/: customers of very unequal activity, rows day by day."""
    rng = np.random.default_rng(0)
    article_ids = pl.Series("article_id", 108775015 + 8 * np.arange(articles)).cast(pl.String).str.zfill(10)
    customer_ids = pl.Series("customer_id", [rng.bytes(32).hex() for _ in range(customers)])
    numbers = pl.int_range(articles, eager=True).cast(pl.String)
    pl.DataFrame(
        {
            "article_id": article_ids,
            "product_code": article_ids.str.head(7),
            "prod_name": "Strap top, no. " + numbers,
            "product_type_name": "Vest top",
            "product_group_name": "Garment Upper body",
            "graphical_appearance_name": "Solid",
            "colour_group_name": "Black",
            "detail_desc": 'Jersey top with narrow shoulder straps, "as before".',
        }
    ).write_csv(folder / "articles.csv")
    with (folder / "transactions_train.csv").open("wb") as file:
        file.write(b"t_dat,customer_id,article_id,price,sales_channel_id\n")
        for start, size in _chunks(rows, "H&M transactions"):
            pl.DataFrame(
                {
                    "t_dat": np.datetime64("2018-09-20") + (start + np.arange(size)) * 734 // rows,
                    "customer_id": customer_ids.gather(_skewed(rng, size, customers)),
                    "article_id": article_ids.gather(_skewed(rng, size, articles)),
                    "price": rng.random(size) / 10,
                    "sales_channel_id": rng.integers(1, 3, size),
                }
            ).write_csv(file, include_header=False)
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "JPEG")
    for article in tqdm(article_ids, desc="H&M images", unit_scale=True):
        path = folder / "images" / article[:3] / f"{article}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.getvalue())


def write_category(folder: Path, reviews: int, items: int):
    """Write an Amazon category of the 2018 form with texts of the usual lengths: Category.json.gz and meta_Category.json.gz."""
    rng = np.random.default_rng(0)
    texts = pl.Series([" ".join(f"word{n}" for n in rng.integers(0, 2000, 45)) for _ in range(5000)])
    with gzip.open(folder / "Category.json.gz", "wb", compresslevel=1) as file:
        for _, size in _chunks(reviews, "Amazon reviews"):
            days = rng.integers(10**9 // 86400, 1538352000 // 86400, size)
            table = pl.DataFrame(
                {
                    "overall": 5.0,
                    "verified": True,
                    "reviewTime": "05 3, 2011",
                    "reviewerID": _names("A", _skewed(rng, size, reviews // 3), 13),
                    "asin": _names("B", _skewed(rng, size, items), 9),
                    "reviewerName": "A. Reader",
                    "reviewText": texts.gather(rng.integers(0, len(texts), size)),
                    "summary": "Good & cheap",
                    "unixReviewTime": days * 86400,
                }
            )
            file.write(table.write_ndjson().encode())
    with gzip.open(folder / "meta_Category.json.gz", "wb", compresslevel=1) as file:
        for start, size in _chunks(items, "Amazon metadata"):
            asins = _names("B", np.arange(start, start + size), 9)
            url = "https://images-na.ssl-images-amazon.com/images/I/" + asins
            text, more = (texts.gather(rng.integers(0, len(texts), size)) for _ in range(2))
            table = pl.DataFrame(
                {
                    "category": [["Arts, Crafts &amp; Sewing", "Sewing", "Thread &amp; Floss"]] * size,
                    "description": (text + " <br> " + more).reshape((-1, 1)).cast(pl.List(pl.String)),
                    "title": more.str.head(60) + " &quot;" + asins + "&quot;",
                    "also_buy": _names("B", rng.integers(0, items, size * 20), 9).reshape((-1, 20)).cast(pl.List(pl.String)),
                    "brand": more.str.head(7),
                    "price": "$5.00",
                    "asin": asins,
                    "imageURL": (url + "._US40_.jpg").reshape((-1, 1)).cast(pl.List(pl.String)),
                    "imageURLHighRes": (url + ".jpg").reshape((-1, 1)).cast(pl.List(pl.String)),
                }
            )
            file.write(table.write_ndjson().encode())


def _chunks(rows: int, name: str):
    for start in tqdm(range(0, rows, CHUNK), desc=name, unit=f" x {CHUNK:,}"):
        yield start, min(CHUNK, rows - start)


def _skewed(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Numbers below `count`, the small ones far more often."""
    return (count * rng.random(size) ** 2.5).astype(np.int64)


def _names(letter: str, numbers: np.ndarray, digits: int) -> pl.Series:
    return letter + pl.Series(numbers).cast(pl.String).str.zfill(digits)
