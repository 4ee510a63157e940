"""Scores of all items for all users: the catalogue is encoded once, users are scored in blocks.

Legend: U users, N items, D width.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from odmt.config import Split
from odmt.distributed import World, gather_shares, share
from odmt.features.items import Items, to_device
from odmt.features.tables import FeatureTable, count_tokens, gather_features
from odmt.item_lists import ItemLists
from odmt.precision import Precision
from odmt.ranking import Ranks, ScoreBlock, rank_held_out
from odmt.sequential.batches import Sequences, eval_inputs
from odmt.sequential.interactions import Interactions
from odmt.sequential.models.recommender import Recommender
from odmt.transfer import prepared

ITEM_BLOCK = 512  # items that are encoded at a time
USER_BLOCK = 1024  # users that are encoded at a time
CPU_SCORES, GPU_SCORES = 1 << 22, 1 << 26  # scores that are held at a time, per source
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
    own = _encode(model.encode_items, tables, num_items, share(num_items, world), world, precision)
    catalogue = {}
    for source in list(own):
        vectors = gather_shares(own.pop(source), num_items, world)
        catalogue[source] = torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors])
    return catalogue


@torch.inference_mode()
def encode_new_items(
    model: Recommender, tables: Mapping[str, FeatureTable], num_items: int, world: World, precision: Precision
) -> dict[str, Tensor]:
    """Encode M items that no table has a row of, of which `tables` has the features; returns float32 [M, D] by source."""
    model.eval()
    return _encode(model.encode_new_items, tables, num_items, slice(0, num_items), world, precision)


def _encode(
    encode: Callable[[Items], dict[str, Tensor]],
    tables: Mapping[str, FeatureTable],
    num_items: int,
    mine: slice,
    world: World,
    precision: Precision,
) -> dict[str, Tensor]:
    """The vectors [share, D] by source of one share of the items."""
    # Items of a length together, so that blocks of them need little padding.
    order = np.argsort(count_tokens(tables, num_items)[mine.start + 1 : mine.stop + 1], kind="stable")
    own: dict[str, Tensor] = {}

    def prepare(places: np.ndarray) -> tuple[Tensor, Items]:
        there = to_device(torch.from_numpy(places), world.device, torch.int64)
        return there, load_items(tables, torch.from_numpy(places) + mine.start + 1, world.device, precision)

    blocks = prepared(map(prepare, np.split(order, range(ITEM_BLOCK, len(order), ITEM_BLOCK))), world.device)
    total = -(-len(order) // ITEM_BLOCK)
    for places, items in tqdm(blocks, desc="items", total=total, leave=False, delay=2, disable=not world.is_main):
        for source, vector in encode_block(encode, items, precision).items():
            if source not in own:
                own[source] = torch.empty(len(order), vector.shape[1], device=world.device)
            own[source][places] = vector
    return own


def load_items(tables: Mapping[str, FeatureTable], numbers: Tensor, device: torch.device, precision: Precision) -> Items:
    """Items [M], numbered from 1 on the CPU, with their features on the device."""
    return to_device(Items(numbers, gather_features(tables, numbers)), device, precision.dtype)


@torch.inference_mode()
def encode_block(encode: Callable[[Items], dict[str, Tensor]], items: Items, precision: Precision) -> dict[str, Tensor]:
    """Encode items; returns float32 [M, D] by source, of values that the run's type has (`odmt.precision`)."""
    with precision.autocast():
        vectors = encode(items)
    return {source: vector.float() for source, vector in vectors.items()}


@torch.inference_mode()
def score_blocks(
    model: Recommender, catalogue: Mapping[str, Tensor], interactions: Interactions, split: Split, world: World
) -> Iterator[ScoreBlock]:
    """Score all items for every user after his history, each process its share of the users.

    Args:
        model: encodes the users.
        catalogue: [N + 1, D] by source.
        interactions: whose users are scored.
        split: `valid` or `test`.
        world: the processes.

    Yields:
        scores [B, N + 1] by source, `fused` first; those of column 0, the padding, are -inf.
    """
    mine = share(interactions.num_users, world)
    users = np.arange(mine.start, mine.stop)
    states = user_states(model, catalogue, users, lambda block: eval_inputs(interactions, block, split), world, split)
    yield from score_states(states, catalogue, world)


@torch.inference_mode()
def user_states(
    model: Recommender,
    catalogue: Mapping[str, Tensor],
    users: np.ndarray,
    inputs_of: Callable[[np.ndarray], Sequences],
    world: World,
    shown: str,
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Encode users, a block after the other: who, and their states after all of their inputs [B, D] by source, in float32."""
    model.eval()
    for begin in tqdm(range(0, len(users), USER_BLOCK), desc=shown, leave=False, delay=2, disable=not world.is_main):
        block = users[begin : begin + USER_BLOCK]
        inputs = to_device(inputs_of(block), world.device, torch.float32)
        last = inputs.lengths.cumsum(0) - 1
        states = model.encode_users(catalogue, inputs)
        yield block, {source: state[last].float() for source, state in states.items()}


@torch.inference_mode()
def score_states(
    encoded: Iterable[tuple[np.ndarray, dict[str, Tensor]]],
    catalogue: Mapping[str, Tensor],
    world: World,
    sources: Collection[str] = (),
) -> Iterator[ScoreBlock]:
    """Score all items for encoded users.

    Args:
        encoded: as `user_states` gives them.
        catalogue: [N + 1, D] by source; items at the end some sources may not have: their score is -inf, and they do not count
            in the fused one.
        world: the processes.
        sources: what alone is worked out, if named.

    Yields:
        scores [B, N + 1] as those of `score_blocks`.
    """
    num_columns = max(map(len, catalogue.values()))
    step = max(MIN_USERS, (CPU_SCORES if world.device.type == "cpu" else GPU_SCORES) // num_columns)
    buffers: dict[str, Tensor] = {}  # fresh memory costs a CPU more than the scores that are written to it
    for block, states in encoded:
        if sources and "fused" not in sources:
            states = {source: states[source] for source in sources}
        buffers = buffers or {source: torch.empty(step, num_columns, device=world.device) for source in ("fused", *states)}
        for first in range(0, len(block), step):
            part = slice(first, min(first + step, len(block)))
            scores = {source: buffer[: part.stop - first] for source, buffer in buffers.items()}
            for source, state in states.items():
                known = len(catalogue[source])
                torch.mm(state[part], catalogue[source].T, out=scores[source][:, :known])
                scores[source][:, known:] = float("-inf")
            first_source, *others = sorted(states, key=lambda source: -len(catalogue[source]))
            fused = scores["fused"].copy_(scores[first_source])
            for other in others:  # the sum over the sources ranks as their mean does
                known = len(catalogue[other])
                fused[:, :known] += scores[other][:, :known]
            for score in scores.values():
                score[:, 0] = float("-inf")
            yield ScoreBlock(block[part], scores)


def rank_targets(
    model: Recommender, catalogue: Mapping[str, Tensor], interactions: Interactions, split: Split, world: World
) -> Ranks:
    """Rank every user's held-out item among all items but those of the history; arguments as those of `score_blocks`.

    Returns:
        a rank a user [U] by source, `fused` first. A target in the user's own history is out of reach.
    """
    blocks = score_blocks(model, catalogue, interactions, split, world)
    return rank_held_out(blocks, held_out(interactions, split), lambda users: interactions.histories(users, split), world)


def held_out(interactions: Interactions, split: Split) -> ItemLists:
    """The target of every user."""
    return ItemLists(interactions.targets(split).astype(np.int64), np.arange(interactions.num_users + 1))
