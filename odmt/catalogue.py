"""The items of a run by their names: those that training knew, and those that came after it.

The new ones stand in items.tsv and in the feature stores but in nobody's history; the sources that need no ID have vectors of them.

Legend: N items that training knew, M new ones, C = padding + N + M columns of the scores, D width.
"""

import difflib
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from odmt.errors import InputError
from odmt.features.item_table import read_items
from odmt.features.tables import left_out_items
from odmt.item_lists import ItemLists
from odmt.task import People, Task, Vectors

SUGGESTED_FROM = 100_000  # names; among more of them, looking for one that is nearly the same takes too long


class Catalogue:
    """Names, columns and vectors of a task's items.

    Attributes:
        task: the model with its data.
        vectors: of the items that training knew, by source.
        averaged: the sources whose mean the fused score is.
        sources: what can be asked for, `fused` first.
        columns: of the items that training knew, by name.
    """

    def __init__(self, task: Task):
        self.task = task
        self.vectors = task.item_vectors()
        somebody = People(ItemLists.of_counts(*task.seen(np.array([0]), "test")), np.array([0]))
        self.averaged = list(task.user_vectors(somebody, self.vectors))
        self.sources = list(dict.fromkeys(["fused", *self.averaged]))
        self.columns = {name: column for column, name in enumerate(task.item_ids, task.first_item)}
        self._extended: tuple[tuple[str, ...], Vectors] = ((), {})

    @cached_property
    def new_items(self) -> list[str]:
        """Names of the items of items.tsv that training did not know."""
        folder = self.task.config.data.folder
        names, _ = read_items(folder / "items.tsv")
        left_out = left_out_items(folder)
        return [name for name in names if name not in self.columns and name not in left_out]

    def added(self, named: Sequence[str] = (), everything: bool = False, place: str = "") -> list[str]:
        """The new ones among the named items, each once, and with `everything` all the others too.

        Args:
            named: items.
            everything: whether all new ones are wanted.
            place: where the items are named, for the message.

        Raises:
            InputError: there is no such item.
        """
        unknown = [str(item) for item in named if str(item) not in self.columns]
        new = set(self.new_items) if unknown else ()
        for item in unknown:
            if item not in new:
                number(item, self.columns, "item", place or self.task.config.data.folder)
        return list(dict.fromkeys([*unknown, *(self.new_items if everything else [])]))

    def new_vectors(self, added: Sequence[str]) -> Vectors:
        """Vectors of new items [M, D] by the sources that have them.

        Raises:
            InputError: none of the sources that are scored has.
        """
        if added and self._extended[0] != tuple(added):
            vectors = self.task.new_item_vectors(added)
            if not set(vectors) & set(self.averaged):
                raise InputError(
                    f"items that came after training ({added[0]!r} and so on) cannot be recommended by this model, which knows an "
                    "item by what it has learnt of that very item; train one of whose sources are text or image, each with a score "
                    "of its own, such as ODMT; or train again with interactions of these items"
                )
            self._extended = tuple(added), vectors
        return self._extended[1] if added else {}

    def extended(self, added: Sequence[str]) -> Vectors:
        """The vectors of all items, the new ones last, where the source has them."""
        new = self.new_vectors(added)
        return {name: torch.cat([known, new[name]]) if name in new else known for name, known in self.vectors.items()}

    def names(self, added: Sequence[str] = ()) -> np.ndarray:
        """Names by column, the padding's empty [C]."""
        return np.array([*[""] * self.task.first_item, *self.task.item_ids, *added], object)

    def parts(self, source: str, vectors: Vectors) -> list[str]:
        """The sources that a score or a vector is made of, for items or users with such vectors."""
        return [name for name in (self.averaged if source == "fused" else [source]) if name in vectors]

    def check_scored(self, source: str, added: Sequence[str] = ()):
        """Refuse a source that has no scores, or none of new items.

        Raises:
            InputError: with those that there are.
        """
        if source not in self.sources:
            raise InputError(f"source={source}: this run has scores of {', '.join(self.sources)}")
        if added and not self.parts(source, new := self.new_vectors(added)):
            able = ", ".join(name for name in self.sources if self.parts(name, new))
            raise InputError(f"source={source}: nobody trained one of the new items ({added[0]!r} and so on); take {able}")

    def check_described(self, source: str):
        """Refuse a source that has no vectors of items; a model may know more of them than it scores by.

        Raises:
            InputError: with those that there are.
        """
        if source not in ("fused", *self.vectors):
            raise InputError(f"source={source}: the items of this run have vectors of {', '.join(['fused', *self.vectors])}")

    def barred(self, names: np.ndarray, candidates: Sequence[str] | None) -> Tensor:
        """Which columns are no candidates, bool [C] on the device.

        Raises:
            InputError: none is.
        """
        barred = torch.zeros(len(names), dtype=torch.bool)
        if candidates is not None:
            places = {name: column for column, name in enumerate(names)}
            barred[:] = True
            barred[[places[str(item)] for item in candidates]] = False
        barred[: self.task.first_item] = True
        if barred.all():
            raise InputError("candidates: none is named; name some, or leave them out for all items")
        return barred.to(self.task.world.device)


def check_k(k: int, most: int):
    """Refuse a length of lists that there cannot be."""
    if not 1 <= k <= most:
        raise InputError(f"{k} items a list: there are {most} to choose from; take 1 to {most}")


def number(name: str, numbers: Mapping[str, int], what: str, place) -> int:
    """The number of a name.

    Raises:
        InputError: there is none, with names that are nearly the same.
    """
    if name not in numbers:
        near = difflib.get_close_matches(name, numbers, n=3) if len(numbers) < SUGGESTED_FROM else []
        hint = f"; did you mean {', '.join(near)}?" if near else f"; their names look like {next(iter(numbers))!r}"
        raise InputError(f"{place}: no {what} {name!r} in this run{hint}")
    return numbers[name]


def mean_cosines(units: Vectors, asked: Tensor, num_columns: int) -> Tensor:
    """Cosines [B, C] of some items with all, the mean over the sources that both have; -inf where they have none in common.

    Args:
        units: vectors of length 1 by source.
        asked: int64 [B], columns.
        num_columns: C.
    """
    total, common = torch.zeros(2, len(asked), num_columns, device=asked.device)
    for vectors in units.values():
        rows = torch.nonzero(asked < len(vectors)).flatten()
        total[rows, : len(vectors)] += vectors[asked[rows]] @ vectors.T
        common[rows, : len(vectors)] += 1
    return torch.where(common > 0, total / common, -torch.inf)
