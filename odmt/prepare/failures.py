"""The list of images that could not be had, kept in a CSV file that survives a kill."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from odmt.errors import InputError
from odmt.files import reading, write_text


class Failure(NamedTuple):
    """A row of image_failures.csv; where `final` is yes, the URL is not asked for again."""

    item: str
    url: str
    reason: str
    final: str


class FailureList(list[Failure]):
    """Failures that are written to a file as they are appended."""

    def __init__(self, path: Path):
        self.path = path
        with reading(path):
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        rows = list(csv.reader(io.StringIO(text.replace("\0", ""))))
        if rows and rows[0] != list(Failure._fields):
            raise InputError(f"{path}: not the list that fetching writes, and would be written over; move it away")
        # A kill may have cut off the last line.
        super().__init__(Failure(*row) for row in rows if len(row) == len(Failure._fields) and row[0] != "item")
        self.rewrite({failure.item for failure in self})

    def append(self, failure: Failure):
        """Add a failure to the list and, at once, to the file."""
        super().append(failure)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(failure)

    def rewrite(self, missing: set[str]):
        """Keep the last failure of each URL of the items that have no image."""
        last = {(failure.item, failure.url): failure for failure in self if failure.item in missing}
        self[:] = last.values()
        text = io.StringIO()
        csv.writer(text).writerows([Failure._fields, *self])
        write_text(self.path, text.getvalue())
