"""The post-norm Transformer block (Sec. 3.2; official code: TransformerBlock) of SASRec and of the layers that encode items.

Legend: P packed rows, B sequences, L columns, V readers of R rows each, D width, H heads, S sources that are computed as one.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odmt.features.items import Items
from odmt.sequential.models.dropout import Dropout
from odmt.sequential.models.packing import Packing
from odmt.sequential.models.sources import LayerNorm, Linear, as_one, linear


def item_heads(dim: int, num_layers: int) -> int:
    """Heads of an item encoder: as many as layers, in the IMT (official code) and in a modality's own Transformer alike.

    Choice: so SASRec+LF's two layers have 2 heads and the one of w/o IMT (2) has 1. Where D is no multiple of the layers it is
    the next smaller number that divides it, 2 for 3 layers at D = 512, so that Figure 7 can be drawn at every D.
    """
    return next(heads for heads in range(num_layers, 0, -1) if dim % heads == 0)


class TransformerBlock(nn.Module):
    """Multi-head attention without biases and a D -> 4D -> D feed-forward, each with dropout, residual and LayerNorm."""

    stacks = True

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.query = Linear(dim, dim, bias=False)
        self.key = Linear(dim, dim, bias=False)
        self.value = Linear(dim, dim, bias=False)
        self.out = Linear(dim, dim, bias=False)
        self.attention_norm = LayerNorm(dim, eps=1e-6)
        self.expand = Linear(dim, 4 * dim)
        self.contract = Linear(4 * dim, dim)
        self.feed_forward_norm = LayerNorm(dim, eps=1e-6)
        self.dropout = Dropout(dropout)

    def extra_repr(self) -> str:
        """What the parts do not show."""
        return f"num_heads={self.num_heads}"

    def forward(self, rows: Tensor, packing: Packing, bias: Tensor) -> Tensor:
        """Update every row.

        Args:
            rows: [P, D], or [S, P, D].
            packing: where the rows stand in [B, L].
            bias: `attention_bias` [B, 1, L, L], or 1 in place of the first L, for all heads and sources.

        Returns:
            as `rows`.
        """
        projections = [self._scaled_query(), self.key.weight, self.value.weight]
        if as_one(rows.device):
            grids = packing.pad(linear(rows, torch.cat(projections, -2)))
            attended = self._attend_merged(grids, bias)
        else:
            queries, keys, values = (packing.pad(linear(rows, weight)) for weight in projections)
            attended = self._attend(queries, keys, values, bias)
        return self._finish(rows, packing.pack(attended))

    def read(self, rows: Tensor, grid: Tensor, bias: Tensor) -> Tensor:
        """Update rows that attend to a grid: what `forward` gives to the rows of the grid, without keys and values of all rows.

        The projections are moved from the keys and values, of which there are L, to the queries and results, of which there
        are R: <W_q x, W_k y> = <W_k' W_q x, y> and sum_j a_j W_v y_j = W_v sum_j a_j y_j.

        Args:
            rows: [V, R, D].
            grid: [V, L, D], what the rows of each reader attend to.
            bias: [V, H * R, L], added to the scores; R rows of a head after those of the head before.

        Returns:
            [V, R, D].
        """
        (num_readers, num_read, dim), heads = rows.shape, self.num_heads
        # Per head: [V, R, H, D/H] x [H, D/H, D] -> [V, H, R, D]
        queries = linear(rows, self._scaled_query()).unflatten(-1, (heads, -1))
        queries = queries.permute(2, 0, 1, 3).flatten(1, 2) @ self.key.weight.view(heads, -1, dim)
        queries = queries.unflatten(1, (num_readers, num_read)).transpose(0, 1).flatten(1, 2)
        weights = self.dropout(torch.baddbmm(bias, queries, grid.mT).softmax(-1))
        gathered = (weights @ grid).unflatten(1, (heads, num_read))  # [V, H, R, D]
        # [H, V * R, D] x [H, D, D/H] -> [V, R, D]
        values = self.value.weight.view(heads, -1, dim).transpose(1, 2)
        attended = (gathered.transpose(0, 1).flatten(1, 2) @ values).unflatten(1, (num_readers, num_read))
        return self._finish(rows, attended.permute(1, 2, 0, 3).flatten(2))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Attention of grids [B, L, D], the queries scaled already -> [B, L, D]."""
        if self.training and self.dropout.p:  # no kernel of a CPU has dropout, and the fallback is slower
            attended = []
            # As parts of the grid's columns the heads need no copies.
            for query, key, value in zip(*(part.chunk(self.num_heads, -1) for part in (queries, keys, values))):
                weights = torch.baddbmm(bias[:, 0], query, key.mT).softmax(-1)
                attended.append(self.dropout(weights) @ value)
            return torch.cat(attended, -1)
        # [B, L, D] -> [B, H, L, D/H]
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (queries, keys, values))
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        return heads.transpose(1, 2).flatten(2)

    def _attend_merged(self, grids: Tensor, bias: Tensor) -> Tensor:
        """Attention of grids [..., B, L, 3D], queries (scaled already), keys and values side by side -> [..., B, L, D].

        Explicit products: a fused kernel with a bias takes heads up to 256 wide (FlashAttention none with a bias), and those of
        D = 768 are 384 wide.
        """
        *sequences, length, _ = grids.shape
        # [..., B, L, 3, H, D/H] -> 3 x [S * B * H, L, D/H]
        parts = grids.unflatten(-1, (3, self.num_heads, -1)).movedim(-3, 0).transpose(-3, -2)
        query, key, value = parts.flatten(1, -3).unbind()
        bias = bias.expand(*sequences, self.num_heads, length, length).flatten(0, -3)
        heads = self.dropout(torch.baddbmm(bias, query, key.mT).softmax(-1)) @ value
        return heads.unflatten(0, (*sequences, self.num_heads)).transpose(-3, -2).flatten(-2)

    def _scaled_query(self) -> Tensor:
        """The weights of the queries divided by sqrt(D/H): there are fewer of them than of queries."""
        return self.query.weight * (self.query.out_features // self.num_heads) ** -0.5

    def _finish(self, rows: Tensor, attended: Tensor) -> Tensor:
        rows = self.attention_norm(rows + self.dropout(self.out(attended)))
        return self.feed_forward_norm(rows + self.dropout(self.contract(F.relu(self.expand(rows), inplace=True))))


class ItemLayers(nn.ModuleList):
    """N layers over the tokens of items, of which only some rows come out: the last layer computes no others."""

    def __init__(self, dim: int, num_layers: int, dropout: float):
        super().__init__(TransformerBlock(dim, item_heads(dim, num_layers), dropout) for _ in range(num_layers))

    def forward(self, read: Tensor, rows: Tensor, packing: Packing, allowed: Tensor, columns: list[int], items: Items) -> Tensor:
        """Pass the tokens once an item, the rows that are read once a vector.

        Args:
            read: [V, R, D], the rows that are read.
            rows: [P, D], tokens of all items, those that are read too.
            packing: where the tokens stand in [B, L], a sequence an item.
            allowed: bool [B, 1, L, L], True where a query (first) may attend to a key (second), or [B, 1, 1, L] where R is 1.
            columns: where the R rows stand.
            items: which item each vector is of.

        Returns:
            [V, R, D].
        """
        *blocks, last = cast(list[TransformerBlock], list(self))  # torch does not say what its lists of modules hold
        bias = attention_bias(allowed, rows.dtype)
        # Not bias[:, :, columns]: a GPU would be sent the list and waited for.
        bias_read = torch.stack([bias.select(2, column) for column in columns], 2)  # [B, 1, R, L]
        bias_read = items.repeat(bias_read.expand(-1, last.num_heads, -1, -1).flatten(1, 2))
        for block in blocks:
            read = block.read(read, items.repeat(packing.pad(rows)), bias_read)
            rows = block(rows, packing, bias)
        return last.read(read, items.repeat(packing.pad(rows)), bias_read)


def attention_bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: 0 where a query may attend to a key, else -inf."""
    return allowed.to(dtype).log()
