"""The demo's dataset, made offline: products that are drawn and described, and customers whose tastes follow what both show.

A product has a category, a colour, a pattern and a brand. A customer likes two colours, a pattern and a brand, and goes from one
category to the next along a ring, so that the order of a history matters too. Popularity is skewed, and new arrivals are bought
only at the end of histories: they are cold, described by image and text alone. The same bytes come out every time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from odmt.demo.checkpoints import save_bert, save_clip
from odmt.demo.drawings import CATEGORIES, PATTERNS, draw_product
from odmt.features.item_table import read_items
from odmt.prepare.new_folder import new_folder

NUM_USERS, NUM_ITEMS = 2000, 800
USER_NAME, ITEM_NAME = "u{:04d}", "p{:04d}"  # of numbers from 1
SEED = 7
MIN_LENGTH, MAX_LENGTH = 5, 20  # interactions of a user
COLD_SHARE = 0.08  # of the items are new arrivals
NUM_LATEST = 2  # interactions of a user that may be new arrivals: the held-out ones

# Colour families with their shades: what a text calls them and what a drawing shows.
SHADES = {
    "red": {"scarlet": (205, 45, 45), "crimson": (165, 28, 55), "brick": (178, 74, 60)},
    "orange": {"tangerine": (238, 125, 35), "apricot": (240, 160, 95), "copper": (190, 100, 45)},
    "yellow": {"lemon": (243, 215, 60), "mustard": (215, 165, 35), "honey": (235, 180, 70)},
    "green": {"moss": (95, 130, 55), "emerald": (30, 140, 85), "lime": (135, 185, 55)},
    "teal": {"turquoise": (50, 180, 180), "lagoon": (20, 125, 135), "mint": (110, 195, 170)},
    "blue": {"navy": (35, 55, 120), "cobalt": (45, 90, 200), "sky": (95, 155, 225)},
    "purple": {"plum": (110, 45, 105), "violet": (125, 80, 190), "lilac": (170, 135, 210)},
    "pink": {"rose": (225, 105, 150), "coral": (240, 130, 125), "fuchsia": (205, 50, 135)},
}
# Brands with their backdrops.
BRANDS = {
    "Alder & Finch": (246, 240, 228),
    "Northlight": (226, 236, 246),
    "Meadowcraft": (233, 243, 226),
    "Petit Jour": (247, 230, 236),
    "Kettle Bay": (224, 241, 240),
    "Halden": (236, 236, 238),
}
AISLES = {
    "mug": "kitchen",
    "teapot": "kitchen",
    "vase": "home",
    "lamp": "home",
    "cushion": "home",
    "shirt": "clothing",
    "cap": "clothing",
    "sock": "clothing",
    "backpack": "outdoor",
    "umbrella": "outdoor",
}
USES = {
    "mug": ("for slow mornings", "for cocoa by the window"),
    "teapot": ("for long afternoons", "for four cups and a story"),
    "vase": ("for wild flowers", "for a bright table"),
    "lamp": ("for late readers", "for a warm corner"),
    "cushion": ("for the reading chair", "for naps"),
    "shirt": ("for every day", "for sunny weekends"),
    "cap": ("for bright days", "for windy walks"),
    "sock": ("for cold floors", "for hikes"),
    "backpack": ("for day trips", "for school and city"),
    "umbrella": ("for april showers", "for grey days"),
}

# How strongly a customer is drawn, in units of log-odds.
FAVOURITE_COLOUR, SECOND_COLOUR = 4.0, 3.0
FAVOURITE_PATTERN, FAVOURITE_BRAND = 2.5, 1.0
NEXT_CATEGORY, SAME_CATEGORY, SAME_COLOUR_AS_LAST = 4.0, 2.0, 1.0
POPULARITY_EXPONENT = 0.8  # of Zipf's law


@dataclass(frozen=True)
class Catalogue:
    """Attributes of N items, as indices into CATEGORIES, SHADES, the shades of a family, PATTERNS and BRANDS.

    Attributes:
        log_weights: log of what an item's popularity is before anyone's taste.
        cold: whether the item is a new arrival.
        shifts: where the product stands in its picture [N, 2].
        uses: which of the category's uses the text names.
    """

    categories: np.ndarray
    families: np.ndarray
    shades: np.ndarray
    patterns: np.ndarray
    brands: np.ndarray
    log_weights: np.ndarray
    cold: np.ndarray
    shifts: np.ndarray
    uses: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, num_items: int) -> "Catalogue":
        """Choose items that differ in category, shade or pattern."""
        shape = (len(CATEGORIES), len(SHADES), 3, len(PATTERNS))
        chosen = rng.choice(np.prod(shape), num_items, replace=False)
        categories, families, shades, patterns = np.unravel_index(chosen, shape)
        ranks = rng.permutation(num_items) + 1
        return cls(
            categories=categories,
            families=families,
            shades=shades,
            patterns=patterns,
            brands=rng.integers(len(BRANDS), size=num_items),
            log_weights=-POPULARITY_EXPONENT * np.log(ranks + 10),
            cold=rng.permutation(num_items) < COLD_SHARE * num_items,
            shifts=rng.integers(-8, 9, (num_items, 2)),
            uses=rng.integers(2, size=num_items),
        )

    def __len__(self) -> int:
        return len(self.categories)

    def names(self, item: int) -> tuple[str, str, str, str, str]:
        """Category, colour family, shade, pattern and brand of an item in words."""
        family = list(SHADES)[self.families[item]]
        shade = list(SHADES[family])[self.shades[item]]
        return (
            list(CATEGORIES)[self.categories[item]],
            family,
            shade,
            PATTERNS[self.patterns[item]],
            list(BRANDS)[self.brands[item]],
        )

    def fields(self, item: int) -> list[str]:
        """Title, brand, category and description."""
        category, family, shade, pattern, brand = self.names(item)
        article = "an" if family[0] in "aeiou" else "a"
        description = f"{article} {family} {category} {USES[category][self.uses[item]]}"
        return [f"{pattern} {category} in {shade}".capitalize(), brand, f"{AISLES[category]} {category}s", description]

    def picture(self, item: int) -> Image.Image:
        """The drawing of an item."""
        category, family, shade, pattern, brand = self.names(item)
        x, y = map(int, self.shifts[item])
        return draw_product(category, pattern, SHADES[family][shade], BRANDS[brand], (x, y))


def histories(rng: np.random.Generator, items: Catalogue, num_users: int) -> Iterator[list[int]]:
    """Let users choose items one after the other, none twice."""
    lengths = np.minimum(MIN_LENGTH + rng.geometric(0.12, num_users) - 1, MAX_LENGTH)
    taste = _tastes(rng, items, num_users)
    chosen = np.zeros((num_users, MAX_LENGTH), np.int64)
    for step in range(MAX_LENGTH):
        appeal = taste + rng.gumbel(size=taste.shape)
        if step:
            appeal += _drift(items)[chosen[:, step - 1]]
        appeal[np.ix_(step < lengths - NUM_LATEST, items.cold)] = -np.inf
        np.put_along_axis(appeal, chosen[:, :step], -np.inf, axis=1)
        chosen[:, step] = appeal.argmax(1)
    for row, length in zip(chosen, lengths):
        yield row[:length].tolist()


def _tastes(rng: np.random.Generator, items: Catalogue, num_users: int) -> np.ndarray:
    """Log-odds of every item for every user [U, N], whatever was chosen before."""
    colours = np.argsort(rng.random((num_users, len(SHADES))), 1)[:, :2]
    patterns, brands = rng.integers(len(PATTERNS), size=num_users), rng.integers(len(BRANDS), size=num_users)
    return (
        items.log_weights
        + FAVOURITE_COLOUR * (items.families == colours[:, :1])
        + SECOND_COLOUR * (items.families == colours[:, 1:])
        + FAVOURITE_PATTERN * (items.patterns == patterns[:, None])
        + FAVOURITE_BRAND * (items.brands == brands[:, None])
    )


def _drift(items: Catalogue) -> np.ndarray:
    """Log-odds of every item after every other [N, N]."""
    along = (items.categories - items.categories[:, None]) % len(CATEGORIES)
    return (
        NEXT_CATEGORY * (along == 1)
        + SAME_CATEGORY * (along == 0)
        + SAME_COLOUR_AS_LAST * (items.families == items.families[:, None])
    )


def make_demo(folder: Path, num_users: int = NUM_USERS, num_items: int = NUM_ITEMS):
    """Write a dataset into a new folder, with the encoders for it: the whole folder or nothing.

    Args:
        folder: gets behaviours.tsv, items.tsv, labels.tsv, images/ and encoders/clip and encoders/bert, Hugging Face checkpoints.
        num_users: users.
        num_items: items, 1200 at most.
    """
    rng = np.random.default_rng(SEED)
    items = Catalogue.draw(rng, num_items)
    ids = [ITEM_NAME.format(number) for number in range(1, num_items + 1)]
    with new_folder(folder) as partial:
        rows = (" ".join(ids[item] for item in row) for row in histories(rng, items, num_users))
        _write_lines(partial / "behaviours.tsv", (f"{USER_NAME.format(user)}\t{row}" for user, row in enumerate(rows, 1)))
        _write_lines(partial / "items.tsv", ("\t".join([name, *items.fields(item)]) for item, name in enumerate(ids)))
        _write_labels(partial, ids, items)
        (partial / "images").mkdir()
        for item, name in enumerate(tqdm(ids, desc="drawing", unit=" images", leave=False)):
            items.picture(item).save(partial / "images" / f"{name}.png")
        _, texts = read_items(partial / "items.tsv")
        save_clip(partial / "encoders" / "clip")
        save_bert(partial / "encoders" / "bert", texts)


def add_labels(folder: Path):
    """Write labels.tsv into a demo that was made before there was one."""
    ids, _ = read_items(folder / "items.tsv")
    _write_labels(folder, ids, Catalogue.draw(np.random.default_rng(SEED), len(ids)))


def _write_labels(folder: Path, ids: list[str], items: Catalogue):
    _write_lines(folder / "labels.tsv", (f"{name}\t{items.names(item)[0]}" for item, name in enumerate(ids)))


def _write_lines(path: Path, lines: Iterable[str]):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
