"""Picture files of items in a folder, and their place in a dataset.

One rule for pictures from folders and from the net, that of `odmt.features.images.open_image`: what is but a dot, has too many
pixels or is no file counts as missing. What is broken otherwise stays, and extraction decides about it.
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import xxhash
from PIL import UnidentifiedImageError
from tqdm import tqdm

from odmt.errors import InputError
from odmt.features.images import content_hash, describe_shared, image_suffixes, open_image
from odmt.files import explain

HEAD_BYTES = 1 << 14  # that tell most files of one size apart
THREADS = 8


def find_pictures(folder: Path, item_ids: Collection[str], pattern: str = "*") -> dict[str, Path]:
    """Find the image files of a folder by their names without suffix, and look at those of some items.

    Of several files with one name the first in the alphabet that can be decoded is taken. Says how many pictures count as missing,
    and how many items share one.

    Args:
        folder: holds ITEM_ID.SUFFIX, of any suffix that Pillow reads.
        item_ids: the items that are known, whose pictures are judged.
        pattern: which paths below the folder, e.g. `*/*` for those one level down.

    Returns:
        the files by name, those that nobody asked for too.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder; it should hold the images as ITEM_ID.jpg or another suffix")
    suffixes = image_suffixes()
    found: dict[str, list[Path]] = defaultdict(list)
    try:
        os.scandir(folder).close()  # glob says nothing of a folder that may not be read
        for path in sorted(path for path in folder.glob(pattern) if path.suffix.lower() in suffixes):
            found[path.stem].append(path)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {explain(error)}") from error
    if not found:
        raise InputError(f"{folder}: no image files {pattern}; they should be named ITEM_ID.jpg or another image suffix")
    pictures = {name: paths[0] for name, paths in found.items()}
    wanted = [name for name in item_ids if name in found]
    pictures |= _choose({name: found[name] for name in wanted if len(found[name]) > 1})
    with ThreadPoolExecutor(THREADS) as pool:
        judged = pool.map(lambda name: _problem(pictures[name]), wanted)
        problems = dict(zip(wanted, tqdm(judged, "looking at images", len(wanted), unit=" images", delay=2, leave=False)))
    missing = {name: problem for name, problem in problems.items() if problem}
    if missing:
        name, problem = next(iter(missing.items()))
        print(f"{len(missing):,} images count as missing, {pictures[name].name} for one: {problem}")
    if shared := describe_shared(_hashes([(name, pictures[name]) for name in wanted if name not in missing])):
        print(shared)
    return {name: path for name, path in pictures.items() if name not in missing}


def place_pictures(pictures: Mapping[str, Path], item_ids: Iterable[str], folder: Path):
    """Put the pictures of items into a folder: as hard links, and as copies where the file system cannot link."""
    folder.mkdir()
    for item in tqdm(item_ids, desc="images", unit=" images", delay=2):
        source = pictures[item]
        link_or_copy(source, folder / f"{item}{source.suffix.lower()}")


def link_or_copy(source: Path, target: Path):
    """Make `target` a hard link to a file, or a copy: of what a symbolic link leads to, and where the file system cannot link."""
    if not source.is_symlink():
        with suppress(OSError):
            return os.link(source, target)
    shutil.copyfile(source, target)


def _choose(several: Mapping[str, list[Path]]) -> dict[str, Path]:
    """Of several files of an item the first that can be decoded, else the first."""
    chosen = {}
    for name, paths in tqdm(several.items(), "choosing among images", delay=2, leave=False):
        chosen[name] = next((path for path in paths if _decodes(path)), paths[0])
    if several:
        name = next((name for name, paths in several.items() if chosen[name] != paths[0]), next(iter(several)))
        others = ", ".join(path.name for path in several[name] if path != chosen[name])
        print(
            f"{len(several):,} items have several images; the first that can be decoded is taken: {chosen[name].name} and not "
            f"{others}, for one"
        )
    return chosen


def _decodes(path: Path) -> bool:
    try:
        with open_image(path) as image:
            image.load()
    except Exception:  # a decoder raises whatever the broken file leads it to
        return False
    return True


def _problem(path: Path) -> str | None:
    """Why a picture counts as missing; None for one that does not."""
    try:
        with open_image(path):
            return None
    except UnidentifiedImageError:
        # A link out of the folder must lead to an image, or the file that it leads to would be taken.
        return "a symbolic link to what is no image" if path.is_symlink() else None
    except OSError as error:
        return explain(error) if error.errno else None
    except ValueError as error:
        return str(error)
    except Exception:  # a broken header, about which extraction decides
        return "a symbolic link to what is no image" if path.is_symlink() else None


def _hashes(pictures: list[tuple[str, Path]]) -> dict[str, str]:
    """Hashes of the pictures that may have the content of another: only those that agree in size and beginning are read whole."""
    keys: tuple[Callable[[Path], Hashable], ...] = (lambda path: path.stat().st_size, _head, content_hash)
    for key in keys:
        groups: dict[Hashable, list[tuple[str, Path]]] = defaultdict(list)
        for name, path, value in _each(key, pictures):
            groups[value].append((name, path))
        if key is content_hash:
            return {name: str(value) for value, group in groups.items() for name, _ in group}
        pictures = [picture for group in groups.values() if len(group) > 1 for picture in group]
    raise AssertionError("the last key returns")


def _each(key: Callable[[Path], Hashable], pictures: list[tuple[str, Path]]) -> Iterator[tuple[str, Path, Hashable]]:
    def call(picture: tuple[str, Path]) -> Hashable:
        try:
            return key(picture[1])
        except (OSError, ValueError):
            return picture[0]  # shared with none

    with ThreadPoolExecutor(THREADS) as pool:
        for (name, path), value in zip(pictures, pool.map(call, pictures)):
            yield name, path, value


def _head(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        return path.stat().st_size, xxhash.xxh3_64_intdigest(file.read(HEAD_BYTES))
