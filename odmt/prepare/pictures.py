"""Picture files of items in a folder, and their place in a dataset."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from odmt.errors import InputError


def find_pictures(folder: Path, pattern: str = "*") -> dict[str, Path]:
    """Find the image files of a folder by their names without suffix; of several with one name the first in the alphabet.

    Args:
        folder: holds ITEM_ID.SUFFIX, of any suffix that Pillow knows.
        pattern: which paths below the folder, e.g. `*/*` for those one level down.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; it should hold the images as ITEM_ID.jpg or another suffix")
    suffixes = Image.registered_extensions()
    paths = sorted((path for path in folder.glob(pattern) if path.suffix.lower() in suffixes), reverse=True)
    if not paths:
        raise InputError(f"{folder}: no image files {pattern}; they should be named ITEM_ID.jpg or another image suffix")
    return {path.stem: path for path in paths}


def place_pictures(pictures: Mapping[str, Path], item_ids: Iterable[str], folder: Path):
    """Put the pictures of items into a folder: as hard links, and as copies where the file system cannot link."""
    folder.mkdir()
    for item in tqdm(item_ids, desc="images", unit=" images", delay=2):
        source = pictures[item]
        link_or_copy(source, folder / f"{item}{source.suffix.lower()}")


def link_or_copy(source: Path, target: Path):
    """Make `target` a hard link to a file, or a copy where the file system cannot link."""
    try:
        os.link(source.resolve() if source.is_symlink() else source, target)
    except OSError:
        shutil.copyfile(source, target)
