"""The page of `scripts/recommend.py --page`: users with what they had and get, items with their neighbours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from odmt.features.images import find_images
from odmt.features.inspection import first_tokens, nearest
from odmt.features.item_table import read_fields
from odmt.features.store import FeatureStore
from odmt.features.tables import left_out_items
from odmt.pages.rendering import thumbnails, write_page
from odmt.recommend import Recommendations, Users

RANDOM_USERS, RANDOM_ITEMS = 20, 6  # shown where nobody is named
MOST_NEW = 30  # new items that are shown
MOST_HELD_OUT = 20  # of one user
NEIGHBOURS = 6


class Shelf:
    """The items of a page by number, each with its texts once, however often it is shown."""

    def __init__(self, folder: Path, known: set[str]):
        self.folder, self._known = folder, known
        self._fields = read_fields(folder / "items.tsv")
        self._numbers: dict[str, int] = {}
        self.items: dict[int, dict] = {}

    def number(self, name: str) -> int:
        """The number of an item, which is put on the shelf."""
        if name not in self._numbers:
            number = self._numbers[name] = len(self._numbers)
            title, *others = self._fields[name]
            new = name not in self._known
            about = f"{name}, came after training" if new else name
            self.items[number] = {"title": title or name, "text": " · ".join(others), "about": about, "new": new}
        return self._numbers[name]

    def pictures(self) -> dict[int, str]:
        """Small pictures of all that is on the shelf."""
        images = self.folder / "images"
        if not images.is_dir():
            return {}
        files = find_images(images, list(self._numbers))
        return thumbnails({number: files[name] for name, number in self._numbers.items()}, self.items)


def write_recommendations(
    run: Recommendations, path: Path, users: Users | None, items: Sequence[str], k: int, new_items: bool, seed: int = 0
):
    """Write the page.

    Args:
        run: of which model.
        path: the HTML file.
        users: who is shown; None or `all`: some that are drawn.
        items: whose neighbours are shown; none: some that are drawn.
        k: items of a list.
        new_items: show also what came after training.
        seed: draws.
    """
    draw = np.random.default_rng(seed)
    if users is None or (isinstance(users, str) and users == "all"):
        users = [run.user_ids[number] for number in sorted(draw.permutation(len(run.user_ids))[:RANDOM_USERS])]
    if not items:
        items = [run.item_ids[number] for number in sorted(draw.permutation(len(run.item_ids))[:RANDOM_ITEMS])]
    added = run.new_items[:MOST_NEW] if new_items else []
    shelf = Shelf(run.task.config.data.folder, set(run.item_ids))
    about = f"{run.task}; weights of {run.folder}. Scores are not comparable between sources. "
    if hidden := len(run.new_items) - len(added):
        about += f"Not shown of the items that came after training: {hidden:,}" + (
            "." if new_items else " (--new-items shows some)."
        )
    write_page(
        path,
        "recommendations.html",
        title=f"{run.task.config.data.dataset}, {run.task.config.name}: recommendations",
        about=about,
        people=ranked_lists(run, shelf, users, k, run.sources, added),
        neighbours=_neighbours(run, shelf, list(map(str, items)), min(k, NEIGHBOURS)),
        new=_new(run, shelf, added, k),
        new_note="Nobody trained an ID of theirs: they have vectors and scores of the other sources alone.",
        items=shelf.items,
        pictures=shelf.pictures(),
    )


def ranked_lists(
    run: Recommendations, shelf: Shelf, users: Users, k: int, sources: Sequence[str], added: Sequence[str] = ()
) -> list[dict]:
    """What the page says of users: histories, held-out items, and lists by source, in those of new items' sources with these."""
    names, people = run.people(users)
    columns = run.catalogue.names(added)
    new = run.catalogue.new_vectors(added)
    able = [source for source in sources if not added or run.catalogue.parts(source, new)]
    lists: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {source: {} for source in sources}
    for chosen, of_new in ((able, added), ([source for source in sources if source not in able], ())):
        for places, found in run.best(people, k, chosen, added=of_new) if chosen else ():
            for source, (best, scores) in found.items():
                lists[source] |= {place: (best[row], scores[row]) for row, place in enumerate(places)}
    held_out, test_ranks = run.task.held_out("test"), run.test_ranks()
    shown = []
    for place, name in enumerate(names):
        had = people.histories.items[slice(*people.histories.offsets[place : place + 2])]
        of_user = slice(0) if people.users is None else slice(*held_out.offsets[people.users[place] :][:2])
        targets = held_out.items[of_user].tolist()
        by_source = {
            source: [
                {"item": shelf.number(columns[column]), "rank": rank, "score": score, "hit": column in targets}
                for rank, (column, score) in enumerate(zip(*lists[source][place]), 1)
                if np.isfinite(score)
            ]
            for source in sources
        }
        shown.append(
            {
                "name": name,
                "history": [shelf.number(columns[column]) for column in had],
                "held_out": [shelf.number(columns[column]) for column in targets[:MOST_HELD_OUT]],
                "lists": by_source,
                "ordered": run.task.ordered,
                "ranks": {
                    source: [rank if np.isfinite(rank) else None for rank in test_ranks[source][of_user][:MOST_HELD_OUT].tolist()]
                    for source in sources
                    if test_ranks and targets
                },
            }
        )
    return shown


def _neighbours(run: Recommendations, shelf: Shelf, items: list[str], k: int, new_items: bool = False) -> list[dict]:
    """Neighbours by each source that has vectors of an item, and by the raw features."""
    by_item: dict[str, dict[str, list[dict]]] = {item: {} for item in items}
    for source in dict.fromkeys(["fused", *run.catalogue.vectors]):
        added = run.catalogue.added(items)
        able = items if not added or run.catalogue.parts(source, run.catalogue.new_vectors(added)) else []
        if not able:
            continue
        table = run.similar_items(able, k, source, new_items)
        for item in able:
            near = table[table["item"] == item]
            by_item[item][source] = [_line(shelf, *row) for row in zip(near["neighbour"], near["rank"], near["score"])]
    folder = run.task.config.data.folder
    left_out = left_out_items(folder)
    names = [name for name in dict.fromkeys([*run.item_ids, *items]) if name not in left_out]
    for store_folder in sorted(path.parent for path in folder.glob("features/*/header.json")):
        with FeatureStore(store_folder) as store:
            rows = first_tokens(store, names)
        places = {name: place for place, name in enumerate(names) if place in rows}
        asked = [item for item in items if item in places]
        if not asked:
            continue
        for item, *found in zip(asked, *nearest(rows, np.array([places[item] for item in asked]), k)):
            lines = [_line(shelf, names[place], rank, cosine) for rank, (place, cosine) in enumerate(zip(*found), 1)]
            by_item[item][f"raw {store_folder.name} features"] = lines
    return [{"item": shelf.number(item), "note": "", "lists": lists} for item, lists in by_item.items()]


def _new(run: Recommendations, shelf: Shelf, added: list[str], k: int) -> list[dict]:
    if not added:
        return []
    shown = _neighbours(run, shelf, added, min(k, NEIGHBOURS))
    counts = {}
    for source in run.sources:
        if run.catalogue.parts(source, run.catalogue.new_vectors(added)):
            table = run.recommend("all", k, source, candidates=[*run.item_ids, *added])
            counts[source] = table["item"].value_counts()
    for name, row in zip(added, shown):
        among = ", ".join(f"{int(count.get(name, 0))} by {source}" for source, count in counts.items())
        row["note"] = f"Among the first {k} of so many of {len(run.user_ids)} users: {among}."
    return shown


def _line(shelf: Shelf, name: str, rank: int, score: float) -> dict:
    return {"item": shelf.number(name), "rank": rank, "score": score, "hit": False}
