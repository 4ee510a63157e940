"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside a file to write to, and move it in place at the end; after an error the file is as before."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    except Exception:
        with suppress(OSError):
            partial.unlink()
        raise


def write_text(path: Path, text: str):
    """Write a text file in UTF-8, its line ends as they are in the text."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")
