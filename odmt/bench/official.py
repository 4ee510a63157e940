"""ODMT computed the plain way: the baseline of the measurements and the oracle of the exactness tests.

It follows the compute pattern of the official code: every slot of a [B, L + 1] batch is encoded, padding and repeats included,
all tokens go through every layer, every position of the batch is a candidate, and every user is ranked alone by full sorts.
Parameters have their official names. Legend: B users, L positions, S = B(L + 1) slots, T tokens, N items, D width, P predicted.
"""

from functools import reduce
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odmt.sequential.config import ModelConfig
from odmt.sequential.interactions import Interactions
from odmt.sequential.models.official import official_name

EXCLUDED = -1e4
SOURCES = {"id": "id", "text": "t", "image": "v"}  # with the letters of the official parameters


class Attention(nn.Module):
    """Multi-head attention with all its weights in memory, dropout, residual, LayerNorm."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.w_Q, self.w_K, self.w_V, self.fc = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, L, D], and a mask that is added to the scores [B, 1, L or 1, L] -> [B, L, D]."""
        queries, keys, values = (w(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for w in (self.w_Q, self.w_K, self.w_V))
        weights = (queries @ keys.transpose(-2, -1) / queries.shape[-1] ** 0.5 + mask).softmax(-1)
        attended = (self.dropout(weights) @ values).transpose(1, 2).flatten(2)
        return self.layer_norm(x + self.dropout(self.fc(attended)))


class FeedForward(nn.Module):
    """D -> 4D -> D, dropout, residual, LayerNorm."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        return self.layer_norm(x + self.dropout(self.w_2(F.relu(self.w_1(x)))))


class Block(nn.Module):
    """A post-norm Transformer block."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.multi_head_attention = Attention(dim, num_heads, dropout)
        self.feed_forward = FeedForward(dim, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Shapes as `Attention`."""
        return self.feed_forward(self.multi_head_attention(x, mask))


class Blocks(nn.Module):
    """Transformer blocks, under their official name."""

    def __init__(self, num_layers: int, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.transformer_blocks = nn.ModuleList(Block(dim, num_heads, dropout) for _ in range(num_layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Shapes as `Attention`."""
        for block in self.transformer_blocks:
            x = block(x, mask)
        return x


class PlacedBlocks(Blocks):
    """Blocks with what comes before them: embeddings of the positions and a norm."""

    def __init__(self, config: ModelConfig, max_seq_len: int):
        super().__init__(config.backbone_layers, config.dim, config.backbone_heads, config.dropout)
        self.position_embedding = nn.Embedding(max_seq_len, config.dim)
        self.layer_norm = nn.LayerNorm(config.dim, eps=1e-6)


class UserEncoder(nn.Module):
    """SASRec over left-padded slots."""

    def __init__(self, config: ModelConfig, max_seq_len: int):
        super().__init__()
        self.transformer_encoder = PlacedBlocks(config, max_seq_len)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, vectors: Tensor, valid: Tensor) -> Tensor:
        """[B, L, D], real slots [B, L] -> [B, L, D]."""
        encoder = self.transformer_encoder
        length = valid.shape[1]
        allowed = valid[:, None, None, :].expand(-1, -1, length, -1).tril()
        mask = torch.where(allowed, 0.0, -1e9).to(vectors)
        return encoder(self.dropout(encoder.layer_norm(vectors + encoder.position_embedding.weight)), mask)


class OfficialODMT(nn.Module):
    """The official model.

    Args:
        config: sizes, dropout and whether modality tokens see the ID token.
        num_items: N.
        max_seq_len: L.
        widths: of the features, by source.
    """

    # Made source by source.
    id_proj: nn.Linear
    text_proj: nn.Linear
    image_proj: nn.Linear
    id_dnns: nn.Sequential
    t_dnns: nn.Sequential
    v_dnns: nn.Sequential

    def __init__(self, config: ModelConfig, num_items: int, max_seq_len: int, widths: dict[str, int]):
        super().__init__()
        dim = config.dim
        self.id_visible = bool(config.id_visible_to_modalities)
        self.id_encoder = nn.Embedding(num_items + 1, widths["id"])
        self.IMT = Blocks(config.num_layers, dim, config.num_layers, config.dropout)
        for source, letter in SOURCES.items():
            self.add_module(f"{source}_proj", nn.Linear(widths[source], dim))
            self.add_module(f"{letter}_dnns", nn.Sequential(nn.Linear(dim, dim), nn.LeakyReLU(), nn.Linear(dim, dim)))
            self.add_module(f"{letter}_user_encoder", UserEncoder(config, max_seq_len))
        self.dropout = nn.Dropout(config.dropout)

    def load_recommender(self, state: dict[str, Tensor]) -> "OfficialODMT":
        """Take over the weights of a `Recommender`."""
        names = {name: official_name(name) for name in self.state_dict()}
        self.load_state_dict({name: state[theirs] for name, theirs in names.items() if theirs is not None})
        return self

    def encode_items(self, numbers: Tensor, text: Tensor, text_mask: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Encode slots.

        Args:
            numbers: [S].
            text: [S, T, W].
            text_mask: [S, T], 1 for real tokens.
            image: [S, T', W].

        Returns:
            [S, D] by source.
        """
        ids = self.id_proj(self.id_encoder(numbers))[:, None]
        x = self.dropout(torch.cat([self.text_proj(text), self.image_proj(image), ids], 1))
        mask = F.pad((1 - text_mask.to(x)) * EXCLUDED, (0, image.shape[1] + 1))
        mask = mask[:, None, None, :].repeat(1, 1, x.shape[1], 1)  # [S, 1, n, n]
        if not self.id_visible:
            mask[:, :, :-1, -1] = EXCLUDED
        x = self.IMT(x, mask)
        return {"id": self.id_dnns(x[:, -1]), "text": self.t_dnns(x[:, 0]), "image": self.v_dnns(x[:, text.shape[1]])}

    def encode_users(self, vectors: dict[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
        """[B, L, D] by source, real slots [B, L] -> [B, L, D] by source."""
        return {source: self.get_submodule(f"{SOURCES[source]}_user_encoder")(x, valid) for source, x in vectors.items()}

    def logits(self, vectors: dict[str, Tensor], numbers: Tensor, log_popularity: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Score every predicted position against every slot of the batch.

        Args:
            vectors: [S, D] by source.
            numbers: [B, L + 1], 0 in front.
            log_popularity: [N + 1].

        Returns:
            [P, S] by source, and the target slots [P].
        """
        users, length = numbers.shape
        valid = numbers[:, :-1] > 0
        slots = numbers.view(-1)
        targets = torch.arange(len(slots), device=numbers.device).view(users, length)[:, 1:].reshape(-1)
        own = (numbers[:, :, None] == slots).any(1).repeat_interleave(length - 1, 0)
        own.scatter_(1, targets[:, None], False)
        states = self.encode_users({source: v.view(users, length, -1)[:, :-1] for source, v in vectors.items()}, valid)
        logits = {}
        for source, state in states.items():
            scores = state.flatten(0, 1) @ vectors[source].T - log_popularity[slots]
            scores[:, slots == 0] = EXCLUDED
            scores[own] = EXCLUDED
            logits[source] = scores[valid.view(-1)]
        return logits, targets[valid.view(-1)]


def losses(logits: dict[str, Tensor], targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The sum of the cross-entropies, and the distillation without its weight."""
    ensemble = reduce(torch.add, logits.values()) / len(logits)
    pairs = [(logits["text"], logits["id"]), (logits["image"], logits["id"]), (logits["id"], ensemble)]
    distillations = (
        -((teacher / temperature).softmax(-1) * (student / temperature).log_softmax(-1)).sum(-1).mean()
        for student, teacher in pairs
    )
    entropies = (F.cross_entropy(z, targets) for z in logits.values())
    return reduce(torch.add, entropies), temperature**2 * reduce(torch.add, distillations)


def left_padded(flat: np.ndarray, lengths: np.ndarray, width: int) -> Tensor:
    """Item numbers, one user after the other, as an int64 grid [B, width] with zeros in front."""
    grid = np.zeros((len(lengths), width), np.int64)
    grid[np.arange(width) >= width - lengths[:, None]] = flat
    return torch.from_numpy(grid)


@torch.no_grad()
def rank_users(
    model: OfficialODMT,
    vectors: dict[str, Tensor],
    interactions: Interactions,
    split: Literal["valid", "test"],
    users: np.ndarray,
    batch_size: int = 128,
) -> dict[str, Tensor]:
    """Rank the held-out items of some users one by one, sorting the whole catalogue four times for each.

    Args:
        model: encodes the users.
        vectors: [N + 1, D] by source.
        interactions: whose users.
        split: `valid` or `test`.
        users: which.
        batch_size: users that are encoded and scored at a time.

    Returns:
        ranks [len(users)] from 1 by source.
    """
    model.eval()
    device, num_items = vectors["id"].device, len(vectors["id"]) - 1
    places = torch.arange(1.0, num_items + 1, device=device)
    ranks: dict[str, list[Tensor]] = {source: [] for source in ("fused", *vectors)}
    for begin in range(0, len(users), batch_size):
        block = users[begin : begin + batch_size]
        grid = left_padded(*interactions.inputs(block, split), interactions.max_seq_len).to(device)
        states = model.encode_users({source: v[grid] for source, v in vectors.items()}, grid > 0)
        scores = {source: state[:, -1] @ vectors[source].T for source, state in states.items()}
        scores["fused"] = reduce(torch.add, scores.values()) / len(scores)
        for row, user in enumerate(block):
            history = torch.from_numpy(interactions.histories(np.array([user]), split)[0]).to(device)
            wanted = torch.zeros(num_items, device=device)
            wanted[interactions.targets(split)[user] - 1] = 1
            for source, score in scores.items():
                score[row, history] = float("-inf")
                order = score[row, 1:].argsort(descending=True)
                ranks[source].append((wanted[order] * places).sum())
    return {source: torch.stack(rank) for source, rank in ranks.items()}
