"""Pages that stand alone: one HTML file with its pictures, its look and its script inside, and nothing from any network.

Texts are escaped by Jinja2, wherever they come from, and the page forbids its browser to load anything.
"""

import base64
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from odmt.errors import InputError
from odmt.files import write_text

THUMBNAIL = 112  # pixels
BOLD = re.compile(r"\*\*(.+?)\*\*")  # as Markdown marks it
QUALITY = 55  # of WebP: two or three KB a picture


def write_page(path: Path, template: str, **values):
    """Fill a template of this folder and write the page whole or not at all.

    Args:
        path: of the page.
        template: its file.
        values: what it takes; `items` and `pictures` may be left out.

    Raises:
        InputError: the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("odmt.pages", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    text = environment.get_template(template).render(**{"items": {}, "pictures": {}, **values})
    try:
        write_text(Path(path), text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}); name another file") from error


def table_cells(columns: Iterable, rows: Iterable[Iterable]) -> dict:
    """What the macro `table` takes: **text** is bold; columns whose first cell begins with a letter are words, on the left."""
    names = [BOLD.sub(r"\1", str(name)) for name in columns]
    cells = [list(map(str, row)) for row in rows]
    words = [bool(cells) and BOLD.sub(r"\1", cells[0][place])[:1].isalpha() for place in range(len(names))]
    shown = [[{"text": BOLD.sub(r"\1", cell), "bold": bool(BOLD.search(cell))} for cell in row] for row in cells]
    return {"columns": names, "rows": shown, "words": words}


def thumbnails(files: Mapping[int, Path | None], numbers: Iterable[int]) -> dict[int, str]:
    """Data URIs of small pictures by number; what has no picture, or one that cannot be read, is left out."""
    found = {}
    for number in numbers:
        path = files.get(number)
        try:
            if path is not None:
                found[number] = thumbnail(path)
        except Exception:  # as in odmt.features.images: a broken file, which extraction lists with its reason
            continue
    return found


def thumbnail(path: Path) -> str:
    """A picture, made small, as a data URI."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
