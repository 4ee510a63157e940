"""Files of JSON objects: one a line, or one array (or objects over several lines), read as if it had one a line."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from odmt.errors import InputError
from odmt.prepare import raw_lines
from odmt.prepare.loose_json import parse_object
from odmt.prepare.raw_files import BROKEN, opened
from odmt.prepare.raw_lines import RawLines

MAX_OBJECT = 64 << 20  # characters


class RawObjects(RawLines):
    """The objects of a JSON array, or of a file of objects over several lines, given as a line each."""

    unit = "object"

    def head(self, num_lines: int = 1) -> list[str]:
        """The first objects, on a line each."""
        return [line for line, _ in zip(self._objects(), range(num_lines))]

    def _blocks(self, header: bool) -> Iterator[tuple[bytes, np.ndarray | None]]:
        lines, size = [], 0
        for line in self._objects():
            lines.append(line.encode() + b"\n")
            size += len(lines[-1])
            if size > raw_lines.BLOCK_BYTES:
                yield b"".join(lines), None
                lines, size = [], 0
        yield b"".join(lines), None

    def _objects(self) -> Iterator[str]:
        decoder, pending, number = json.JSONDecoder(), "", 0
        with opened(self.path) as (file, _):
            text = codecs.getreader("utf-8-sig")(file)
            more = True
            while more:
                try:
                    chunk = text.read(raw_lines.CHUNK_BYTES)
                except BROKEN as error:
                    raise InputError(f"{self.path}: the compressed file is broken ({error}); download it again") from error
                except UnicodeDecodeError:
                    raise InputError(
                        f"{self.path}, object {number + 1}: not UTF-8; convert the file, e.g. with iconv -t utf-8"
                    ) from None
                pending, more = pending + chunk, bool(chunk)
                start = 0
                while rest := pending[start:].lstrip("[], \t\r\n"):
                    start = len(pending) - len(rest)
                    try:
                        found, start = decoder.raw_decode(pending, start)
                    except (json.JSONDecodeError, RecursionError) as error:
                        if more and len(rest) < MAX_OBJECT:
                            break
                        raise InputError(f"{self.path}, object {number + 1}: {error}; see to it, or download it again") from None
                    number += 1
                    yield json.dumps(found)
                else:
                    start = len(pending)
                pending = pending[start:]


def json_lines(path: Path, skip_bad_lines: int = 0) -> RawLines:
    """The objects of a file, a line each, in whatever way it holds them."""
    lines = RawLines(path, skip_bad_lines)
    first = next((line for line in lines.head(10) if line.strip()), "").strip()
    return RawObjects(path, skip_bad_lines) if first.startswith("[") or first == "{" else lines


def first_objects(path: Path, num_objects: int = 100) -> list[dict]:
    """The first objects that can be read, to see what a file holds."""
    objects = []
    for line in json_lines(path).head(num_objects):
        try:
            objects.append(parse_object(line))
        except InputError:
            continue
    return objects
