"""Stream: the public files of MicroLens-100K, in all likelihood the paper's data without the tags of the videos.

MicroLens-100K has 19,738 items and, cut like the paper's Stream, 19,683; both codes use the same file names.
"""

import csv as csv_format
import re
from pathlib import Path

import polars as pl

from odmt.errors import InputError
from odmt.prepare.histories import histories_by_time, read_events, read_histories
from odmt.prepare.item_tables import check_distinct
from odmt.prepare.layout import Cut, Dataset, source_of, tidy
from odmt.prepare.new_folder import new_folder
from odmt.prepare.pictures import find_pictures, place_pictures
from odmt.prepare.quoted_lines import is_row
from odmt.prepare.raw_files import suffix
from odmt.prepare.raw_lines import RawLines, decoded_lines

STARTS_ITEM = re.compile(r'"?\d+"?,')
QUOTED_TITLE = re.compile(r'"?\d+"?,\s*"')
MAX_TITLE_LINES = 100


def microlens(
    pairs: Path,
    titles: Path,
    covers: Path,
    out: Path = Path("data/stream"),
    min_length: int = 5,
    last: int = 15,
    skip_bad_lines: int = 0,
    overwrite: bool = False,
):
    """Prepare Stream from MicroLens-100K.

    Args:
        pairs: MicroLens-100k_pairs.tsv (user<TAB>item item ...) or MicroLens-100k_pairs.csv (user,item,timestamp).
        titles: MicroLens-100k_title_en.csv or the Chinese titles: ITEM,TITLE.
        covers: folder of the cover images, ITEM.jpg, which are hard-linked or, across file systems, copied.
        out: the dataset's folder.
        min_length: users with fewer interactions are dropped.
        last: so many of a user's newest interactions are kept: max_seq_len + 3.
        skip_bad_lines: leave out up to so many lines of the pairs that cannot be read.
        overwrite: replace the dataset that is there, with its images and features.
    """
    source = source_of("microlens", locals())
    cut = Cut(min_length, last)
    with new_folder(out, overwrite) as folder:
        items = read_titles(titles)
        pictures = find_pictures(covers, items["item"].to_list())
        if suffix(pairs) == ".csv":
            histories = histories_by_time(read_events(pairs, "user", "item", "timestamp", skip_bad_lines))
        else:
            histories = read_histories(pairs, skip_bad_lines)
        dataset = Dataset(histories, items, pictures, cut)
        place_pictures(pictures, dataset.item_ids, folder / "images")
        dataset.write(folder, source)
    dataset.report(Path(out).name)


def read_titles(path: Path, quoted: bool = True) -> pl.DataFrame:
    """Read a file of ITEM,TITLE; the items are numbers, so that a line that begins with none continues the title before.

    A title between quotation marks that are closed in a later line goes on to there, whatever the lines begin with.

    Args:
        path: the file, with or without a header.
        quoted: a title that is a CSV value between quotes loses them; any other is what follows the first comma.

    Returns:
        item, title.
    """
    RawLines(path).head()
    lines = list(decoded_lines(path))
    records: list[tuple[int, str]] = []
    swallowed: list[tuple[str, int]] = []  # titles that go on in a line which looks like an item of its own
    number = 0
    while number < len(lines):
        end = _end_of_title(lines, number)
        record = "".join(lines[number:end])
        if STARTS_ITEM.match(record):
            records.append((number + 1, record))
            swallowed += [(record, line + 1) for line in range(number + 1, end) if STARTS_ITEM.match(lines[line])]
        elif records:
            records[-1] = (records[-1][0], records[-1][1] + record)
        number = end
    if swallowed:
        record, line = swallowed[0]
        print(
            f"{path}: {len(swallowed)} lines look like an item but lie within the quotation marks of a title, line {line} for one "
            f"in the title of item {record.partition(',')[0]}"
        )
    if not records:
        raise InputError(f"{path}, line 1: no line begins with an item number and a comma; expected ITEM,TITLE")
    item_ids = [record.partition(",")[0].strip('"') for _, record in records]
    check_distinct(path, ((line, item) for (line, _), item in zip(records, item_ids)))
    titles = [_unquoted(record) if quoted else record.partition(",")[2] for _, record in records]
    return pl.DataFrame({"item": item_ids, "title": [tidy(title) for title in titles]})


def _end_of_title(lines: list[str], start: int) -> int:
    """The line after a quoted title that begins in a line and is closed in a later one; else the next line."""
    if QUOTED_TITLE.match(lines[start]) and lines[start].count('"') % 2:
        marks = 0
        for end in range(start + 1, min(len(lines), start + MAX_TITLE_LINES) + 1):
            marks += lines[end - 1].count('"')
            if marks % 2 == 0:
                return end if is_row("".join(lines[start:end]).encode(), 2, ",") else start + 1
    return start + 1


def _unquoted(record: str) -> str:
    """The title of ITEM,TITLE, unquoted if it is one CSV value."""
    try:
        rows = list(csv_format.reader([record.strip()], strict=True))
    except csv_format.Error:
        rows = []
    return rows[0][1] if len(rows) == 1 and len(rows[0]) == 2 else record.partition(",")[2]
