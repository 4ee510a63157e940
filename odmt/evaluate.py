"""Full-catalogue ranking of held-out items: the catalogue is encoded once, users are ranked in blocks, nothing is sorted.

Deviation: the official code sorts all scores of one user after the other, so that equal scores stand in no particular order. Here a
rank is 1 + the number of higher scores: ties count as won, the same on every machine.

Legend: U users, N items, D width.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from odmt.distributed import World, gather_shares, share
from odmt.features.items import Items, to_device
from odmt.features.tables import FeatureTable, count_tokens, gather_features
from odmt.metrics import OUT_OF_REACH
from odmt.precision import Precision
from odmt.sequential.batches import eval_inputs
from odmt.sequential.interactions import Interactions
from odmt.sequential.models.recommender import Recommender

ITEM_BLOCK = 512  # items that are encoded at a time
USER_BLOCK = 1024  # users that are encoded at a time
SCORES = {"cpu": 1 << 22, "cuda": 1 << 26}  # scores that are held at a time, per source
MIN_USERS = 32  # users that are scored at a time however large the catalogue: fewer would only read it over and over


@torch.inference_mode()
def encode_catalogue(
    model: Recommender, tables: Mapping[str, FeatureTable], num_items: int, world: World, precision: Precision
) -> dict[str, Tensor]:
    """Encode all items, each process its share.

    Returns:
        float32 [N + 1, D] by source; row 0, the padding's, is zero.
    """
    model.eval()
    mine = share(num_items, world)
    # Items of a length together, so that blocks of them need little padding.
    order = np.argsort(count_tokens(tables, num_items)[mine.start + 1 : mine.stop + 1], kind="stable")
    own: dict[str, Tensor] = {}
    for begin in tqdm(range(0, len(order), ITEM_BLOCK), desc="items", leave=False, delay=2, disable=not world.is_main):
        places = torch.from_numpy(order[begin : begin + ITEM_BLOCK])
        numbers = places + mine.start + 1
        items = to_device(Items(numbers, gather_features(tables, numbers)), world.device, precision.dtype)
        with precision.autocast():
            vectors = model.encode_items(items)
        for source, vector in vectors.items():
            if source not in own:
                own[source] = torch.empty(len(order), vector.shape[1], device=world.device)
            own[source][places.to(world.device)] = vector.float()
    catalogue = {}
    for source in list(own):
        vectors = gather_shares(own.pop(source), num_items, world)
        catalogue[source] = torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors])
    return catalogue


@torch.inference_mode()
def rank_targets(
    model: Recommender,
    catalogue: Mapping[str, Tensor],
    interactions: Interactions,
    split: str,
    world: World,
) -> dict[str, np.ndarray]:
    """Rank every user's held-out item among all items but those of the history, each process its share of the users.

    Args:
        model: encodes the users.
        catalogue: [N + 1, D] by source.
        interactions: whose users are ranked.
        split: `valid` or `test`.
        world: the processes.

    Returns:
        int32 ranks [U] from 1 by source, `fused` first; ties count as won. A target in the user's own history is out of reach.
    """
    model.eval()
    mine = share(interactions.num_users, world)
    blocks: dict[str, list[Tensor]] = {}
    users = np.arange(mine.start, mine.stop)
    for begin in tqdm(range(0, len(users), USER_BLOCK), desc=split, leave=False, delay=2, disable=not world.is_main):
        block = users[begin : begin + USER_BLOCK]
        states = _last_states(model, catalogue, interactions, block, split, world.device)
        ranks = _rank_block(states, catalogue, *_history(interactions, block, split, world.device))
        for source, rank in ranks.items():
            blocks.setdefault(source, []).append(rank)
    return {
        source: gather_shares(torch.cat(parts), interactions.num_users, world).cpu().numpy() for source, parts in blocks.items()
    }


def _last_states(model, catalogue, interactions, users, split, device) -> dict[str, Tensor]:
    """States after the whole input [U, D] by source, in float32."""
    inputs = to_device(eval_inputs(interactions, users, split), device, torch.float32)
    last = inputs.lengths.cumsum(0) - 1
    return {source: states[last].float() for source, states in model.encode_users(catalogue, inputs).items()}


def _history(interactions, users, split, device) -> tuple[Tensor, Tensor, Tensor]:
    """Row and item of everything that is masked, and the targets [U]."""
    items, lengths = interactions.histories(users, split)
    rows = np.repeat(np.arange(len(users)), lengths)
    targets = interactions.targets(split)[users]
    return tuple(torch.from_numpy(part.astype(np.int64)).to(device) for part in (rows, items, targets))


def _rank_block(
    states: dict[str, Tensor], catalogue: Mapping[str, Tensor], rows: Tensor, items: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    device, num_items = targets.device, len(next(iter(catalogue.values())))
    step = max(MIN_USERS, SCORES[device.type] // num_items)
    # Fresh memory costs a CPU more than the scores that are written to it.
    buffers = {source: torch.empty(step, num_items, device=device) for source in ("fused", *states)}
    parts = []
    for begin in range(0, len(targets), step):
        block = slice(begin, min(begin + step, len(targets)))
        scores = {source: buffer[: block.stop - begin] for source, buffer in buffers.items()}
        for source, state in states.items():
            torch.mm(state[block], catalogue[source].T, out=scores[source])
        first, *others = (scores[source] for source in states)
        fused = scores["fused"].copy_(first)
        for other in others:  # the sum over the sources ranks as their mean does
            fused += other
        inside = (rows >= begin) & (rows < begin + step)
        masked = (rows[inside] - begin, items[inside])
        parts.append({source: count_ranks(score, *masked, targets[block]) for source, score in scores.items()})
    return {source: torch.cat([part[source] for part in parts]) for source in parts[0]}


def count_ranks(scores: Tensor, rows: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Rank targets by counting the scores above theirs; `scores` is overwritten.

    Args:
        scores: [U, N + 1].
        rows: of the masked entries.
        items: of the masked entries.
        targets: [U].

    Returns:
        int32 [U]; a score that is not a number ranks as low as can be.
    """
    scores[:, 0] = float("-inf")
    scores[rows, items] = float("-inf")
    wanted = scores.gather(1, targets[:, None])
    ranks = scores.shape[1] + 1 - _count_at_most(scores, wanted)
    return torch.where(wanted[:, 0] == float("-inf"), OUT_OF_REACH, ranks).int()


def _count_at_most(scores: Tensor, wanted: Tensor) -> Tensor:
    if scores.device.type == "cpu":  # a row at a time stays in the cache: eight times as fast as the line below
        return torch.tensor([np.count_nonzero(row <= limit) for row, limit in zip(scores.numpy(), wanted.numpy())])
    return (scores <= wanted).sum(1)
