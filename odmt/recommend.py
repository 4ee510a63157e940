"""What a trained run recommends: `load_run("runs/mine/odmt").recommend(users, k=10)`.

Names of users and items are the dataset's own. A user's history is what the test knows of him; items that came after training,
which stand in items.tsv and in the feature stores but in nobody's history, are scored by the sources that need no ID.

Legend: U people, N items that training knew, M new ones, C = padding + N + M columns of the scores, B people of a block, k items of
each, D width.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from odmt.catalogue import Catalogue, check_k, mean_cosines, number
from odmt.checkpoint import load_metadata, load_tensors, put_weights
from odmt.config_files import flatten, load_config
from odmt.distributed import World, open_world
from odmt.errors import InputError
from odmt.families import load_task
from odmt.item_lists import ItemLists
from odmt.progress import check_basis
from odmt.run_folder import FREE_KEYS
from odmt.task import People, Task

log = logging.getLogger(__name__)

WEIGHTS = ("best.safetensors", "model.safetensors")  # of a run's folder, of a published one
HOW = ("processes", "precision", "compilation")  # of a run's basis: in what way it was computed; who reads it may do so in another
NEAREST = 256  # items whose neighbours are looked for at a time

Users = str | Sequence[str] | Sequence[Sequence[str]] | Mapping[str, Sequence[str]]


def load_run(folder: Path | str, device: str = "auto", data_root: Path | str | None = None, build: Callable | None = None):
    """Read a run's best weights, wherever it was trained.

    Args:
        folder: of the run, RUNS/DATASET/NAME, or what `scripts/publish.py` made of it.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        data_root: folder of the datasets, if it is no longer the one that the run was trained with.
        build: what made the model, where `train` was given it.

    Returns:
        `Recommendations`.

    Raises:
        InputError: no run, no weights, another dataset than the run's.
    """
    folder = Path(folder).resolve()
    started = folder / "config.yaml"
    if not started.is_file():
        raise InputError(f"{folder}: no config.yaml, so this is no run; python -m odmt.train makes one in RUNS/DATASET/NAME")
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not found:
        raise InputError(
            f"{folder}: no {WEIGHTS[0]}, so no epoch of the run has ended; go on with: python -m odmt.train {started} --resume"
        )
    defaults = dict(flatten(type(load_config([str(started)], anywhere=True))()))
    here = [f"{key}={defaults[key]}" for key in sorted(FREE_KEYS & set(defaults)) if key not in ("runs", "name", "data.root")]
    where = [] if data_root is None else [f"data.root={data_root}"]
    published = not (folder / "environment.json").is_file()
    name = [] if published else [f"name={folder.name}"]  # it may have been renamed since
    config = load_config([str(started), *here, *name, f"train.device={device}", *where], anywhere=True)
    if not config.data.folder.is_dir():
        raise InputError(
            f"{started}: the run's dataset was in {config.data.folder}, which is not there now; name the folder of the datasets: "
            "data_root=, --data-root"
        )
    with open_world(device) as world:
        task = load_task(config, World(0, 1, world.device), build)
    noted = _noted(folder, found[0])
    noted["basis"] = {key: value for key, value in noted.get("basis", {}).items() if key not in HOW}
    check_basis(found[0], noted, task.fingerprint(), task, "or name the folder where they are now: data_root=, --data-root")
    put_weights(task.model, load_tensors(found[0])[0], found[0])
    if not (folder / "result.json").is_file():
        log.warning("%s: the run is not finished; these are its best weights so far", folder)
    return Recommendations(task, folder)


def _noted(folder: Path, weights: Path) -> dict:
    """What is noted beside the weights; earlier versions noted in the other checkpoint alone what they were trained on."""
    noted = load_metadata(weights)
    if "basis" not in noted and (folder / "last.safetensors").is_file():
        noted = load_metadata(folder / "last.safetensors")
    if "basis" not in noted:
        log.warning("%s: does not say what it was trained on, so nobody can tell whether the dataset is still the same", weights)
    return noted


class Recommendations:
    """A model with its weights, and the names of its dataset.

    Attributes:
        task: the model with its data.
        folder: of the run.
        catalogue: its items.
        sources: whose scores there are, `fused` first: their mean.
    """

    def __init__(self, task: Task, folder: Path):
        self.task, self.folder = task, folder
        self.catalogue = Catalogue(task)
        self.sources = self.catalogue.sources
        self._users = {name: number for number, name in enumerate(task.user_ids)}

    @property
    def user_ids(self) -> list[str]:
        """Names of the users, in the order of `user_vectors("all")`."""
        return self.task.user_ids

    @property
    def item_ids(self) -> list[str]:
        """Names of the items that training knew, in the order of `item_vectors`."""
        return self.task.item_ids

    @property
    def new_items(self) -> list[str]:
        """Names of the items of items.tsv that training did not know."""
        return self.catalogue.new_items

    def recommend(
        self,
        users: Users = "all",
        k: int = 10,
        source: str = "fused",
        exclude_seen: bool = True,
        candidates: Sequence[str] | None = None,
        new_items: bool = False,
        held_out: bool = False,
    ) -> pd.DataFrame:
        """The k items with the highest scores, for every user.

        Args:
            users: `all`, names of users, or histories of people who are not in the data: lists of items, oldest first, or such
                lists by name (without names they are numbered from 0).
            k: how many; a user with fewer candidates gets fewer.
            source: by which scores.
            exclude_seen: leave out what a user has had.
            candidates: items that alone are recommended, new ones too; None: all that training knew.
            new_items: recommend also the items that training did not know.
            held_out: let users have had their held-out items too: what comes next, rather than what the test asks.

        Returns:
            user, rank (from 1), item, score; with new items among the candidates also `scored_by`, the sources of the score.

        Raises:
            InputError: what is unknown or does not fit, with what there is.
        """
        names, people = self.people(users, held_out)
        added = self.catalogue.added(candidates or (), new_items)
        blocks = self.best(people, k, [source], exclude_seen, candidates, added)
        parts = [(places, *found[source]) for places, found in blocks]
        places, columns, scores = (np.concatenate(arrays) for arrays in zip(*parts))
        rows, ranks = np.nonzero(np.isfinite(scores))
        items = self.catalogue.names(added)[columns[rows, ranks]]
        table = {"user": np.array(names, object)[places[rows]], "rank": ranks + 1, "item": items, "score": scores[rows, ranks]}
        if added:
            kinds = (self.catalogue.vectors, self.catalogue.new_vectors(added))
            trained, new = ("+".join(self.catalogue.parts(source, vectors)) for vectors in kinds)
            table["scored_by"] = np.where(columns[rows, ranks] < self.task.first_item + len(self.item_ids), trained, new)
        return pd.DataFrame(table)

    @torch.inference_mode()
    def best(
        self,
        people: People,
        k: int,
        sources: Sequence[str],
        exclude_seen: bool = True,
        candidates: Sequence[str] | None = None,
        added: Sequence[str] = (),
    ) -> Iterator[tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]]:
        """Find the best k of several sources, block by block, so that memory does not grow with the scores.

        Args:
            people: for whom, as `people` gives them.
            k: how many.
            sources: by which scores.
            exclude_seen: leave out what is in the histories.
            candidates: as of `recommend`.
            added: the new items that take part.

        Yields:
            places in `people` [B] and, by source, columns and scores [B, k]; a score is -inf where there was no candidate left.
        """
        names = self.catalogue.names(added)
        for source in sources:
            self.catalogue.check_scored(source, added)
        check_k(k, len(names) - self.task.first_item)
        barred = self.catalogue.barred(names, candidates)
        k = min(k, int((~barred).sum()))
        for block in self.task.score(people, self.catalogue.extended(added), sources):
            items, counts = people.histories.of(block.users)
            rows = torch.from_numpy(np.repeat(np.arange(len(block.users)), counts)).to(barred.device)
            had = torch.from_numpy(items).to(barred.device)
            found = {}
            for source, scores in block.scores.items():
                if exclude_seen:
                    scores[rows, had] = -torch.inf
                highest = scores.masked_fill_(barred, -torch.inf).topk(k)
                found[source] = highest.indices.cpu().numpy(), highest.values.cpu().numpy()
            yield block.users, found

    def similar_items(self, items: Sequence[str], k: int = 10, source: str = "fused", new_items: bool = False) -> pd.DataFrame:
        """The k items whose vectors point most nearly the same way.

        Args:
            items: names, of new items too.
            k: how many of each.
            source: `fused` is the mean over the sources that two items have in common.
            new_items: look also among the items that training did not know.

        Returns:
            item, rank (from 1), neighbour, score (cosine).

        Raises:
            InputError: as `recommend`.
        """
        catalogue, device = self.catalogue, self.task.world.device
        items = [items] if isinstance(items, str) else [str(item) for item in items]
        if not items:
            raise InputError("no items are named whose neighbours are wanted; name some")
        catalogue.check_described(source)
        added = catalogue.added(items, new_items)
        names, vectors = catalogue.names(added), catalogue.extended(added)
        places = {name: column for column, name in enumerate(names)}
        last = len(names) if new_items else len(names) - len(added)  # a new item may ask without being an answer
        check_k(k, last - self.task.first_item - 1)
        parts = catalogue.parts(source, vectors)
        units = {name: torch.nn.functional.normalize(vectors[name].float(), dim=-1) for name in parts}
        rows = []
        for begin in range(0, len(items), NEAREST):
            asked = torch.tensor([places[item] for item in items[begin : begin + NEAREST]], device=device)
            cosines = mean_cosines(units, asked, len(names))
            cosines[:, : self.task.first_item] = -torch.inf
            cosines[torch.arange(len(asked), device=device), asked] = -torch.inf
            scores, columns = (part.cpu().numpy() for part in cosines[:, :last].topk(k))
            found, ranks = np.nonzero(np.isfinite(scores))
            of = np.array(items[begin : begin + NEAREST], object)[found]
            rows.append((of, ranks + 1, names[columns[found, ranks]], scores[found, ranks]))
        return pd.DataFrame(dict(zip(("item", "rank", "neighbour", "score"), map(np.concatenate, zip(*rows)))))

    def item_vectors(self, source: str = "fused") -> np.ndarray:
        """Vectors float32 [N, D] of the items that training knew, as `item_ids` names them.

        Where `fused` averages several sources, its vectors are theirs side by side: products with `user_vectors("all", "fused")`
        are the fused scores.
        """
        self.catalogue.check_described(source)
        vectors = self.catalogue.vectors
        joined = torch.cat([vectors[name] for name in self.catalogue.parts(source, vectors)], -1)
        return joined[self.task.first_item :].float().cpu().numpy()

    def user_vectors(self, users: Users = "all", source: str = "fused", held_out: bool = False) -> np.ndarray:
        """Vectors float32 [U, D] of users or histories, arguments as those of `recommend`; their products with items' are scores.

        (Not with MAML, whose score is a distance with attention: `task.dot_products`.)
        """
        self.catalogue.check_scored(source)
        vectors = self.task.user_vectors(self.people(users, held_out)[1], self.catalogue.vectors)
        chosen = [vectors[name] for name in self.catalogue.parts(source, vectors)]
        return (torch.cat(chosen, -1) / len(chosen)).float().cpu().numpy()

    def test_ranks(self) -> dict[str, np.ndarray]:
        """Ranks [P] of the held-out items by source, in the order of `task.held_out("test")`; none before the run's test."""
        path = self.folder / "ranks.safetensors"
        tensors = load_tensors(path)[0] if path.is_file() else {}
        return {source: tensors[f"test/{source}"].numpy() for source in self.sources if tensors}

    def people(self, users: Users, held_out: bool = False) -> tuple[list[str], People]:
        """Names and numbers of users, or the histories of people who are not in the data; arguments as those of `recommend`."""
        if isinstance(users, Mapping):
            return self._strangers([str(name) for name in users], list(users.values()))
        if isinstance(users, str):
            users = self.user_ids if users == "all" else [users]
        users = list(users)
        if not users:
            raise InputError("no users are named; name some, give histories, or ask for all")
        if not isinstance(users[0], (str, int, np.integer)):
            return self._strangers([str(place) for place in range(len(users))], users)
        names = [str(user) for user in users]
        numbers = np.array([number(name, self._users, "user", self.task.config.data.folder) for name in names])
        items, counts = self.task.seen(numbers, "test")
        if held_out:
            items, counts = _join((items, counts), self.task.held_out("test").of(numbers))
        return names, People(ItemLists.of_counts(items, counts), numbers)

    def _strangers(self, names: list[str], histories: Sequence[Sequence[str]]) -> tuple[list[str], People]:
        """People who are not in the data."""
        if not names:
            raise InputError("no users are named; name some, give histories, or ask for all")
        columns = []
        for name, history in zip(names, histories):
            if isinstance(history, str) or not len(history):
                raise InputError(f"history {name}: no list of items; give one item at least")
            items = [str(item) for item in history]
            if added := self.catalogue.added(items, place=f"history {name}"):
                raise InputError(f"history {name}: item {added[0]!r} came after training, so no history can hold it; leave it out")
            columns.append([self.catalogue.columns[item] for item in items])
        counts = np.array([len(history) for history in columns])
        return names, People(ItemLists.of_counts(np.concatenate(columns), counts))


def _join(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Items and counts of both, each one's own of the first before those of the second."""
    owners = np.concatenate([np.repeat(np.arange(len(counts)), counts) for _, counts in (first, second)])
    return np.concatenate([first[0], second[0]])[np.argsort(owners, kind="stable")], first[1] + second[1]
