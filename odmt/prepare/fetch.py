"""The images of a dataset that brings URLs: every one fetched once, checked, and named like its item."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from odmt.errors import InputError
from odmt.features.dataset import find_dataset
from odmt.features.images import image_suffixes, open_image
from odmt.files import explain, reading, written_whole
from odmt.prepare.downloads import Downloader, DownloadError, without_credentials
from odmt.prepare.failures import Failure, FailureList
from odmt.prepare.layout import is_file_name
from odmt.prepare.pictures import link_or_copy

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}
WORKERS = 64


def fetch_images(
    dataset: Path,
    per_host: int = 8,
    retries: int = 4,
    timeout_s: float = 60.0,
    max_mb: float = 20.0,
    retry_failed: bool = False,
    allow_private: bool = False,
):
    """Fetch the images that DATASET/image_urls.tsv names into DATASET/images.

    Can be interrupted and started again: images that are there are not fetched again, nor are URLs that failed for good. Of an
    item's URLs the first that gives an image is taken. Failures are listed with their reasons in DATASET/image_failures.csv.

    Args:
        dataset: the dataset's folder, data/NAME, or its name, as `prepare.py amazon` leaves it.
        per_host: connections to one host at a time.
        retries: further tries after answers 429 and 5xx, time-outs and broken connections.
        timeout_s: seconds that one try may take.
        max_mb: size of an image; a longer one is not read further.
        retry_failed: ask again for URLs that failed for good, too.
        allow_private: connect to addresses that are not public ones, too.
    """
    folder = find_dataset(dataset)
    urls = read_urls(folder / "image_urls.tsv")
    images = folder / "images"
    with _storing(folder):
        images.mkdir(exist_ok=True)
        _remove_leftovers(images, urls)
        failures = FailureList(folder / "image_failures.csv")
    hopeless = {failure.url for failure in failures if failure.final == "yes" and not retry_failed}
    missing = urls.keys() - _items_there(images)
    jobs = {
        item: [url for url in links if without_credentials(url) not in hopeless] for item, links in urls.items() if item in missing
    }
    print(f"{len(urls) - len(missing):,} of {len(urls):,} images are there, {sum(map(bool, jobs.values())):,} to fetch")
    downloader = Downloader(per_host, retries, timeout_s, int(max_mb * 1e6), allow_private)
    with _storing(images):
        asyncio.run(ImageFetcher(downloader, images, failures).fetch_all(jobs))
    missing = urls.keys() - _items_there(images)
    with _storing(folder):
        failures.rewrite(missing)
    _summarise(missing, len(urls), failures, folder)


def read_urls(path: Path) -> dict[str, list[str]]:
    """Read image_urls.tsv, `item<TAB>url<TAB>url ...`, the best URL first."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; `prepare.py amazon` writes it")
    urls: dict[str, list[str]] = {}
    with reading(path):
        content = path.read_bytes()
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            item, *links = line.decode().rstrip("\r").split("\t")
        except UnicodeDecodeError:
            raise InputError(f"{path}, line {number}: not UTF-8; convert the file, e.g. with iconv -t utf-8") from None
        if line.strip() and not (is_file_name(item) and any(links)):
            found = line[:80].decode(errors="replace")
            raise InputError(f"{path}, line {number}: expected item<TAB>url<TAB>url ..., found {found!r}")
        if line.strip():
            urls[item] = links
    return urls


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    """Say what keeps images from being stored."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to: {explain(error)}, and start again: it goes on from here") from error


def _remove_leftovers(images: Path, urls: Mapping[str, list[str]]):
    """Remove what a killed run has left: files that have the name of an item, a suffix and .partial."""
    for path in images.glob("*.partial"):
        if Path(path.stem).suffix in SUFFIXES.values() and Path(path.stem).stem in urls and path.is_file():
            path.unlink()


def check_image(content: bytes) -> str:
    """Decode an image; returns the suffix of its format.

    Raises:
        DownloadError: it is none, is cut off, is but a dot, or takes too much to decode, as its header tells.
    """
    refused: ValueError | None = None
    try:
        with open_image(content, formats=[*SUFFIXES]) as image:
            try:
                image.load()
            except ValueError as error:
                refused = error
            # A JPEG of several pictures has a format of its own, MPO.
            suffix = SUFFIXES.get(image.format or "", ".jpg")
    except Image.UnidentifiedImageError:
        raise DownloadError(f"not an image: it begins with {content[:20]!r}") from None
    except ValueError as error:
        raise DownloadError(str(error)) from error
    except Exception as error:  # a decoder raises whatever the broken file leads it to
        raise DownloadError(f"broken image: {error}", final=False) from error
    if refused:
        raise DownloadError(f"broken image: {refused}", final=False) from refused
    return suffix


class ImageFetcher:
    """Fetches the images of items, a URL that several items share only once.

    Args:
        downloader: gets the files.
        folder: where the images are put.
        failures: list that every failure is appended to.
    """

    def __init__(self, downloader: Downloader, folder: Path, failures: FailureList):
        self.downloader = downloader
        self.folder = folder
        self.failures = failures
        self._shared: dict[str, asyncio.Task[Path] | None] = {}

    async def fetch_all(self, urls: dict[str, list[str]]):
        """Fetch for every item the first of its URLs that gives an image."""
        times = Counter(url for links in urls.values() for url in set(links))
        self._shared = {url: None for url, count in times.items() if count > 1}
        jobs = iter(urls.items())
        with tqdm(total=len(urls), desc="images", unit=" images") as bar:

            async def work():
                for item, links in jobs:
                    await self._fetch_item(item, links)
                    bar.update()

            async with self.downloader:
                await asyncio.gather(*(work() for _ in range(WORKERS)))

    async def _fetch_item(self, item: str, links: list[str]):
        for url in links:
            try:
                if url not in self._shared:
                    await self._fetch(item, url)
                else:
                    fetching = self._shared[url] or asyncio.create_task(self._fetch(item, url))
                    self._shared[url] = fetching
                    source = await fetching
                    if source.stem != item:
                        link_or_copy(source, self.folder / f"{item}{source.suffix}")
                return
            except DownloadError as error:
                self.failures.append(Failure(item, without_credentials(url), str(error), "yes" if error.final else "no"))

    async def _fetch(self, item: str, url: str) -> Path:
        content = await self.downloader.download(url)
        return await asyncio.to_thread(self._store, item, content)

    def _store(self, item: str, content: bytes) -> Path:
        path = self.folder / f"{item}{check_image(content)}"
        with written_whole(path, durable=False) as partial:
            partial.write_bytes(content)
        return path


def _items_there(images: Path) -> set[str]:
    suffixes = image_suffixes()
    return {path.stem for path in images.iterdir() if path.suffix.lower() in suffixes}


def _summarise(missing: set[str], total: int, failures: FailureList, folder: Path):
    print(
        f"{total - len(missing):,} of {total:,} images are there; `prepare.py finish` will drop {len(missing):,} items without one"
    )
    reasons = Counter(failure.reason.partition(":")[0] for failure in failures)
    for reason, count in reasons.most_common(10):
        print(f"  {count:,} x {reason}")
    if failures:
        print(f"all failures: {failures.path}; those that are not final are tried again when this is run again")
    print(f"next: python scripts/prepare.py finish --dataset {folder}")
