"""CSV values between quotation marks that go on over several lines, made rows of one line."""

import csv
import io
from collections.abc import Callable

import numpy as np

MAX_LINES = 1000  # of a value; a mark that is never closed swallows no more
LINE_BREAK, QUOTE, BLANK = ord("\n"), ord('"'), ord(" ")


def join_lines(block: bytes, width: int, separator: str, more: Callable[[], bytes]) -> tuple[bytes, np.ndarray | None]:
    """Make the line breaks within quoted values blanks, so that a row is a line.

    Lines are joined from one with an odd number of quotation marks to the next such line, if together they are one whole row;
    others stay as they are, and are bad lines to whoever reads them.

    Args:
        block: whole lines of a CSV file.
        width: columns of a row.
        separator: what stands between them.
        more: reads one line more, for a row that the end of the block cuts off.

    Returns:
        the block, and for each row (and for the end) how many raw lines stand before it; None if every row is one line.
    """
    characters = np.frombuffer(block, np.uint8)
    marks = np.flatnonzero(characters == QUOTE)
    if not len(marks):
        return block, None
    breaks = np.flatnonzero(characters == LINE_BREAK)
    odd = np.flatnonzero(np.bincount(np.searchsorted(breaks, marks), minlength=len(breaks)) % 2).tolist()
    if not odd:
        return block, None
    ends = breaks if block.endswith(b"\n") else np.append(breaks, len(block) - 1)
    starts = np.concatenate([[0], ends[:-1] + 1])
    joined = np.zeros(len(ends), bool)  # lines that the next one continues
    position = 0
    while position < len(odd):
        first, last = (odd[position : position + 2] * 2)[:2]
        if last == first and not is_row(block[starts[first] : ends[first] + 1], width, separator) and (rest := _rest(more)):
            return join_lines(block + rest, width, separator, lambda: b"")
        whole = last - first < MAX_LINES and is_row(block[starts[first] : ends[last] + 1], width, separator)
        joined[first:last] |= whole
        position += 2 if whole else 1
    if not joined.any():
        return block, None
    plain = bytearray(block)
    for line in np.flatnonzero(joined):
        plain[ends[line]] = BLANK
    numbers = np.append(np.flatnonzero(~np.concatenate([[False], joined[:-1]])), len(ends))
    return bytes(plain), numbers


def is_row(text: bytes, width: int, separator: str) -> bool:
    """Whether some lines are one row of a CSV file, strictly."""
    csv.field_size_limit(1 << 30)
    try:
        lines = io.StringIO(text.decode(), newline="")
        rows = list(csv.reader(lines, delimiter=separator, strict=True))
    except (csv.Error, UnicodeDecodeError):
        return False
    return len(rows) == 1 and len(rows[0]) == width


def _rest(more: Callable[[], bytes]) -> bytes:
    """The lines up to the one that may close a value which is open at the end of a block."""
    lines: list[bytes] = []
    while len(lines) < MAX_LINES and (line := more()):
        lines.append(line)
        if line.count(b'"') % 2:
            break
    return b"".join(lines)
