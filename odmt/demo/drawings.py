"""Drawings of the demo's products: a silhouette by category, filled with a pattern in a colour, before a backdrop.

Coordinates run from 0 to 100, left to right and top to bottom.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

SIZE = 128  # pixels of a finished drawing
FINE = 2 * SIZE  # pixels it is drawn with, for smooth edges
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


class Pen:
    """Draws on one layer of a silhouette, in coordinates from 0 to 100."""

    def __init__(self):
        self.mask = Image.new("L", (FINE, FINE))
        self._draw = ImageDraw.Draw(self.mask)

    def polygon(self, *points: float):
        """Fill a polygon: x and y of its corners in turn."""
        self._draw.polygon(_pixels(points), fill=255)

    def ellipse(self, *box: float):
        """Fill an ellipse; a box is left, top, right, bottom, here and below."""
        self._draw.ellipse(_pixels(box), fill=255)

    def erase(self, *box: float):
        """Take an ellipse away."""
        self._draw.ellipse(_pixels(box), fill=0)

    def block(self, *box: float, radius: float = 0):
        """Fill a rectangle, its corners rounded."""
        self._draw.rounded_rectangle(_pixels(box), _pixels([radius])[0], fill=255)

    def line(self, *points: float, width: float = 1.6):
        """Draw a line through points."""
        self._draw.line(_pixels(points), 255, round(_pixels([width])[0]), "curve")

    def arc(self, *box: float, start: float, end: float, width: float = 1.6):
        """Draw a part of an ellipse's edge, clockwise from `start` to `end` degrees, 0 being right."""
        self._draw.arc(_pixels(box), start, end, 255, round(_pixels([width])[0]))

    def dome(self, *box: float):
        """Fill the upper half of an ellipse."""
        self._draw.pieslice(_pixels(box), 180, 360, fill=255)


def _pixels(values: Sequence[float]) -> list[float]:
    return [value * FINE / 100 for value in values]


def _mug(back: Pen, body: Pen, front: Pen):
    back.arc(56, 38, 86, 70, start=-90, end=90, width=6)
    body.block(24, 30, 70, 82, radius=9)
    front.ellipse(24, 26, 70, 36)


def _teapot(back: Pen, body: Pen, front: Pen):
    back.polygon(66, 56, 84, 38, 93, 40, 74, 76)
    back.arc(8, 42, 40, 74, start=90, end=270, width=5)
    body.ellipse(22, 36, 76, 84)
    front.ellipse(35, 33, 63, 43)
    front.ellipse(45, 25, 53, 33)


def _vase(back: Pen, body: Pen, front: Pen):
    for tip_x, tip_y in ((36, 16), (52, 10), (66, 20)):
        back.line(50, 46, tip_x, tip_y, width=1.6)
        back.ellipse(tip_x - 5, tip_y - 5, tip_x + 5, tip_y + 5)
    body.ellipse(28, 46, 72, 86)
    body.polygon(41, 38, 59, 38, 62, 56, 38, 56)
    body.block(38, 80, 62, 88, radius=2)
    front.block(38, 35, 62, 40, radius=2)


def _lamp(back: Pen, body: Pen, front: Pen):
    back.line(50, 50, 50, 84, width=4)
    back.ellipse(33, 80, 67, 89)
    back.line(66, 54, 66, 66, width=1.2)
    body.polygon(37, 18, 63, 18, 82, 56, 18, 56)
    front.line(37, 18, 63, 18)
    front.line(18, 56, 82, 56)


def _cushion(back: Pen, body: Pen, front: Pen):
    for x, y in ((18, 24), (82, 24), (18, 80), (82, 80)):
        back.ellipse(x - 4, y - 4, x + 4, y + 4)
    body.block(18, 24, 82, 80, radius=12)
    for box in ((26, 12, 74, 27), (26, 77, 74, 92), (8, 32, 21, 72), (79, 32, 92, 72)):
        body.erase(*box)
    front.ellipse(47, 49, 53, 55)


def _shirt(back: Pen, body: Pen, front: Pen):
    back.ellipse(40, 18, 60, 28)
    body.polygon(38, 20, 62, 20, 90, 36, 81, 52, 70, 46, 70, 84, 30, 84, 30, 46, 19, 52, 10, 36)
    body.erase(40, 12, 60, 28)
    front.arc(39, 11, 61, 29, start=10, end=170, width=2)
    front.line(70, 46, 70, 56)
    front.line(30, 46, 30, 56)


def _cap(back: Pen, body: Pen, front: Pen):
    back.polygon(56, 70, 80, 70, 97, 80, 95, 84, 58, 82)
    body.dome(14, 32, 78, 130)
    front.line(14, 81, 78, 81, width=3)
    front.ellipse(42, 29, 50, 34)
    front.arc(35, 32, 57, 130, start=180, end=360, width=1.2)


def _sock(back: Pen, body: Pen, front: Pen):
    body.block(34, 16, 60, 64, radius=3)
    body.block(34, 54, 84, 84, radius=14)
    front.block(32, 13, 62, 22, radius=2)
    front.ellipse(68, 57, 84, 82)


def _backpack(back: Pen, body: Pen, front: Pen):
    back.arc(40, 10, 60, 34, start=180, end=360, width=4)
    back.block(18, 46, 30, 80, radius=5)
    back.block(70, 46, 82, 80, radius=5)
    body.block(25, 20, 75, 86, radius=15)
    front.line(34, 40, 66, 40, width=2)
    front.line(36, 58, 64, 58, width=5)
    for points in ((36, 58, 36, 78), (36, 78, 64, 78), (64, 58, 64, 78)):
        front.line(*points)


def _umbrella(back: Pen, body: Pen, front: Pen):
    back.line(50, 12, 50, 80, width=2.6)
    back.arc(50, 74, 64, 88, start=0, end=180, width=2.8)
    body.dome(10, 18, 90, 98)
    for left in (10, 30, 50, 70):
        body.erase(left, 53, left + 20, 63)
    for box in ((30, 18, 70, 98), (49, 18, 51, 98)):
        front.arc(*box, start=180, end=360, width=1)


CATEGORIES: dict[str, Callable[[Pen, Pen, Pen], None]] = {
    "mug": _mug,
    "teapot": _teapot,
    "vase": _vase,
    "lamp": _lamp,
    "cushion": _cushion,
    "shirt": _shirt,
    "cap": _cap,
    "sock": _sock,
    "backpack": _backpack,
    "umbrella": _umbrella,
}

PATTERNS = ("plain", "striped", "dotted", "checked", "zigzag")


@dataclass(frozen=True)
class Silhouette:
    """Layers of a product, masks [FINE, FINE], from the farthest to the nearest.

    Attributes:
        outline: what stands out from the backdrop, a little wider than the product.
        back: plain parts behind the body, such as a handle.
        body: what carries the pattern.
        front: lines and plain parts on the body.
    """

    outline: Image.Image
    back: Image.Image
    body: Image.Image
    front: Image.Image


@cache
def silhouette(category: str) -> Silhouette:
    """Draw the layers of a category."""
    pens = Pen(), Pen(), Pen()
    CATEGORIES[category](*pens)
    back, body, front = (pen.mask for pen in pens)
    whole = ImageChops.lighter(ImageChops.lighter(back, body), front)
    return Silhouette(whole.filter(ImageFilter.MaxFilter(5)), back, body, front)


@cache
def _fabric(pattern: str, colour: Colour) -> Image.Image:
    """A square filled with a pattern, darker towards the right like a rounded body in light from the left."""
    square = Image.new("RGB", (FINE, FINE), colour)
    draw = ImageDraw.Draw(square)
    accent = mix(colour, WHITE, 0.72)
    step = FINE // 10
    marks = range(0, FINE + step, step)
    if pattern == "striped":
        for y in marks:
            draw.rectangle((0, y, FINE, y + step * 0.42), accent)
    elif pattern == "dotted":
        for row, y in enumerate(marks):
            for x in range((row % 2) * step // 2, FINE, step):
                draw.circle((x, y), step * 0.27, accent)
    elif pattern == "checked":
        for y in marks:
            for x in marks:
                if (x // step + y // step) % 2:
                    draw.rectangle((x, y, x + step - 1, y + step - 1), accent)
    elif pattern == "zigzag":
        for y in range(-step, FINE + step, 3 * step // 2):
            points = [(x, y + (x // step % 2) * step) for x in marks]
            draw.line(points, accent, step // 3, "curve")
    light = Image.linear_gradient("L").rotate(90).resize((FINE, FINE)).point(lambda value: 190 + value // 4)
    return ImageChops.multiply(square, Image.merge("RGB", (light,) * 3))


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Blend two colours; `share` is the other one's."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other))
    return red, green, blue


def draw_product(category: str, pattern: str, colour: Colour, backdrop: Colour, shift: tuple[int, int] = (0, 0)) -> Image.Image:
    """Draw one product.

    Args:
        category: one of CATEGORIES.
        pattern: one of PATTERNS.
        colour: of the body.
        backdrop: colour behind the product.
        shift: where the product stands beside the middle, in pixels of FINE.

    Returns:
        RGB [SIZE, SIZE].
    """
    shape = silhouette(category)
    picture = Image.new("RGB", (FINE, FINE), backdrop)
    draw = ImageDraw.Draw(picture)
    draw.rectangle(_pixels((0, 78, 100, 100)), mix(backdrop, BLACK, 0.05))  # the table
    draw.ellipse([value + offset for value, offset in zip(_pixels((16, 82, 84, 94)), shift * 2)], mix(backdrop, BLACK, 0.14))
    picture.paste(mix(colour, BLACK, 0.62), shift, shape.outline)
    picture.paste(mix(colour, BLACK, 0.18), shift, shape.back)
    picture.paste(_fabric(pattern, colour), shift, shape.body)
    picture.paste(mix(colour, BLACK, 0.4), shift, shape.front)
    return picture.resize((SIZE, SIZE), Image.Resampling.BOX)
