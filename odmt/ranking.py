"""Full-catalogue ranks of held-out items, any number a user, by counting the scores above theirs; nothing is sorted.

Choice: items with equal scores share the mean of their places, 1 + the number of higher scores + half of the number of equal
others, on every machine alike: a model that scores everything the same recommends nobody anything. The official code sorts, so that
equal scores stand in no particular order.

Legend: U users, P held-out items of all of them, B users of a block, C columns of a score matrix, one an item.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from odmt.distributed import World, share
from odmt.item_lists import ItemLists, places

OUT_OF_REACH = np.inf  # rank of an item that is masked, because its user had it before: it is never a hit
COMPARED = 1 << 26  # scores that a GPU compares at a time
BLOCK = 64  # users who are given the same scores at a time


@dataclass
class ScoreBlock:
    """The scores of some users for all items.

    Attributes:
        users: int64 [B].
        scores: [B, C] by source; may be overwritten, and is only valid until the next block.
    """

    users: np.ndarray
    scores: dict[str, Tensor]


class Ranks(Mapping[str, np.ndarray]):
    """Ranks of the held-out items by source, float64 [P] from 1.

    Attributes:
        offsets: int64 [U + 1], where each user's begin.
        tied: share of the held-out items that had rivals of equal score, by source.
    """

    def __init__(self, by_source: dict[str, np.ndarray], offsets: np.ndarray, tied: dict[str, float]):
        self.by_source, self.offsets, self.tied = by_source, offsets, tied

    def __getitem__(self, source: str) -> np.ndarray:
        return self.by_source[source]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_source)

    def __len__(self) -> int:
        return len(self.by_source)


Seen = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # users -> their items, one user after the other, and how many each


@torch.inference_mode()
def rank_held_out(blocks: Iterable[ScoreBlock], held_out: ItemLists, seen: Seen, world: World) -> Ranks:
    """Rank every user's held-out items among all items but those that the user had before.

    Args:
        blocks: scores of this process's share of the users, each once.
        held_out: of all users.
        seen: what is masked.
        world: the processes, who put their ranks together.
    """
    found: dict[str, Tensor] = {}  # ranks [P], then whether they are tied [P], as numbers
    for block in blocks:
        rank_block(block, held_out, seen, found)
    if world.size > 1:  # every process has ranked its own, and zeros stand for the others'
        for both in found.values():
            dist.all_reduce(both)
    ranks = {source: both[0].cpu().numpy() for source, both in found.items()}
    return Ranks(ranks, held_out.offsets, {source: float(both[1].mean()) for source, both in found.items()})


def rank_block(block: ScoreBlock, held_out: ItemLists, seen: Seen, found: dict[str, Tensor]):
    """Rank the held-out items of a block's users without waiting for the device.

    Args:
        block: scores; those of masked items become -inf.
        held_out: of all users.
        seen: what is masked.
        found: by source what `count_ranks` gives of all users' held-out items, float64 [2, P], to be filled in; empty at first.
    """
    targets, lengths = held_out.of(block.users)
    rows = np.repeat(np.arange(len(block.users)), lengths)
    masked_items, counts = seen(block.users)
    masked_rows = np.repeat(np.arange(len(block.users)), counts)
    device = next(iter(block.scores.values())).device

    def sent(numbers: np.ndarray) -> Tensor:  # once for all sources
        return torch.from_numpy(numbers.astype(np.int64)).to(device)

    masked = sent(masked_rows), sent(masked_items)
    target_rows, target_items, target_places = sent(rows), sent(targets), sent(places(held_out.offsets[block.users], lengths))
    for source, scores in block.scores.items():
        scores[masked] = float("-inf")
        if source not in found:
            found[source] = torch.zeros(2, len(held_out.items), dtype=torch.float64, device=device)
        found[source][:, target_places] = count_ranks(scores, target_rows, target_items)


def constant_blocks(source: str, scores: Tensor, num_users: int, world: World) -> Iterator[ScoreBlock]:
    """The same scores [C] for every user, as of what is most popular, for this process's share of the users."""
    mine = share(num_users, world)
    for begin in range(mine.start, mine.stop, BLOCK):
        users = np.arange(begin, min(begin + BLOCK, mine.stop))
        yield ScoreBlock(users, {source: scores.repeat(len(users), 1)})


def out_of_reach(held_out: ItemLists, seen: ItemLists) -> list[str]:
    """A remark on the test items that are masked, if there are any."""
    width = max(held_out.items.max(initial=0), seen.items.max(initial=0)) + 1
    masked = np.isin(held_out.users * width + held_out.items, seen.users * width + seen.items).sum()
    said = f"{masked} of {len(held_out.items)} test items stand in their user's own history, which is masked: they are misses"
    return [said] if masked else []


def count_ranks(scores: Tensor, rows: Tensor, items: Tensor) -> Tensor:
    """Rank entries of a score matrix within their rows.

    Args:
        scores: [B, C]; -inf where an item is no candidate.
        rows: int64 [P].
        items: int64 [P], columns.

    Returns:
        float64 [2, P]: the ranks, and 1 where others have the same score. A score that is not a number ranks as low as can be, and
        one of a rival counts as higher: nobody wins by a broken model.
    """
    wanted = scores[rows, items]
    at_most, below = _count(scores, rows, wanted)
    equal = (at_most - below).clamp(min=1)
    ranks = 1 + scores.shape[1] - at_most + (equal - 1) / 2
    out = wanted == float("-inf")
    return torch.stack([ranks.masked_fill(out, OUT_OF_REACH), ((equal > 1) & ~out).double()])


def _count(scores: Tensor, rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of each wanted one's row that are at most as high, and that are lower; float64 [P] both."""
    if scores.device.type == "cpu":  # a row at a time stays in the cache: eight times as fast as a sum over comparisons
        table, limits = scores.numpy(), wanted.numpy()
        counts = [
            (np.count_nonzero(table[row] <= limit), np.count_nonzero(table[row] < limit))
            for row, limit in zip(rows.tolist(), limits)
        ]
        at_most, below = torch.tensor(counts, dtype=torch.float64).view(-1, 2).T
        return at_most, below
    step = max(1, COMPARED // scores.shape[1])
    compared = []
    for begin in range(0, len(rows), step):
        block, bounds = scores.index_select(0, rows[begin : begin + step]), wanted[begin : begin + step, None]
        compared.append(torch.stack([(block <= bounds).sum(1), (block < bounds).sum(1)]))
    at_most, below = torch.cat(compared, 1).double() if compared else wanted.new_zeros(2, 0, dtype=torch.float64)
    return at_most, below
