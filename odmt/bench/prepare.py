"""Preparing H&M and an Amazon category from generated raw files of the real sizes."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from odmt.bench.measure import in_fresh_process, process_memory
from odmt.bench.raw_files import write_category, write_hm
from odmt.bench.results import Measurement, report
from odmt.prepare.amazon import amazon
from odmt.prepare.hm import hm

CUSTOMERS, ARTICLES = 1_362_281, 105_542  # of H&M


def prepare(
    transactions: int = 31_788_324,
    reviews: int = 5_000_000,
    metadata: int = 300_000,
    folder: Path | None = None,
    json: Path | None = None,
):
    """Measure seconds and memory of `prepare.py hm` and `prepare.py amazon`, each in a process of its own.

    The raw files are generated first and deleted afterwards; the whole sizes take 5 GB.

    Args:
        transactions: rows of H&M's transactions_train.csv, whose customers and articles become fewer with them.
        reviews: of the Amazon category.
        metadata: rows of its metadata.
        folder: where the raw files are written, and found by the next run; without, a temporary folder.
        json: file for the numbers.
    """
    with TemporaryDirectory() if folder is None else nullcontext(folder) as raw:
        share = min(1.0, transactions / 31_788_324)
        hm_files = _generated(
            Path(raw) / f"hm-{transactions}", write_hm, transactions, int(CUSTOMERS * share), int(ARTICLES * share)
        )
        amazon_files = _generated(Path(raw) / f"amazon-{reviews}-{metadata}", write_category, reviews, metadata)
        with TemporaryDirectory(dir=raw) as out:
            hm_call = {
                "transactions": hm_files / "transactions_train.csv",
                "articles": hm_files / "articles.csv",
                "images": hm_files / "images",
                "users": int(50_000 * share),
                "out": Path(out) / "hm",
            }
            amazon_call = {
                "reviews": amazon_files / "Category.json.gz",
                "metadata": amazon_files / "meta_Category.json.gz",
                "out": Path(out) / "amazon",
            }
            measurements = [
                _measurement("prepare hm", transactions, *in_fresh_process(_measure, hm, hm_call)),
                _measurement("prepare amazon", reviews + metadata, *in_fresh_process(_measure, amazon, amazon_call)),
            ]
    report(measurements, json)


def _measurement(name: str, rows: int, seconds: float, peak_bytes: int) -> Measurement:
    return Measurement(name, {"rows": rows}, [seconds], peak_bytes=peak_bytes, work={"rows": rows})


def _measure(function: Callable, arguments: dict[str, Any]) -> tuple[float, int]:
    started = time.perf_counter()
    function(**arguments)
    return time.perf_counter() - started, process_memory("VmHWM")


def _generated(folder: Path, write: Callable, *sizes: int) -> Path:
    if not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True)
        write(partial, *sizes)
        partial.rename(folder)
    return folder
