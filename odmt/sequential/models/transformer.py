"""The post-norm Transformer block (Sec. 3.2; official code: TransformerBlock) of SASRec and of the layers that encode items.

Legend: P packed rows, B sequences, L columns, V readers of R rows each, D width, H heads.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odmt.features.items import Items
from odmt.sequential.models.dropout import Dropout
from odmt.sequential.models.packing import Packing


def item_heads(dim: int, num_layers: int) -> int:
    """Heads of an item encoder: as many as layers, in the IMT (official code) and in a modality's own Transformer alike.

    Choice: so SASRec+LF's two layers have 2 heads and the one of w/o IMT (2) has 1. Where D is no multiple of the layers it is
    the next smaller number that divides it, 2 for 3 layers at D = 512, so that Figure 7 can be drawn at every D.
    """
    return next(heads for heads in range(num_layers, 0, -1) if dim % heads == 0)


class TransformerBlock(nn.Module):
    """Multi-head attention without biases and a D -> 4D -> D feed-forward, each with dropout, residual and LayerNorm."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.attention_norm = nn.LayerNorm(dim, eps=1e-6)
        self.expand = nn.Linear(dim, 4 * dim)
        self.contract = nn.Linear(4 * dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = Dropout(dropout)

    def forward(self, rows: Tensor, packing: Packing, allowed: Tensor) -> Tensor:
        """Update every row.

        Args:
            rows: [P, D].
            packing: where the rows stand in [B, L].
            allowed: bool [B, 1, L, L], or 1 in place of B or of the first L; True where a query (first) may attend to a key
                (second), for all heads.

        Returns:
            [P, D].
        """
        queries, keys, values = (packing.pad(project(rows)) for project in (self._query, self.key, self.value))
        return self._finish(rows, packing.pack(self._attend(queries, keys, values, allowed)))

    def read(self, rows: Tensor, grid: Tensor, allowed: Tensor) -> Tensor:
        """Update rows that attend to a grid: what `forward` gives to the rows of the grid, without keys and values of all rows.

        The projections are moved from the keys and values, of which there are L, to the queries and results, of which there
        are R: <W_q x, W_k y> = <W_k' W_q x, y> and sum_j a_j W_v y_j = W_v sum_j a_j y_j.

        Args:
            rows: [V, R, D].
            grid: [V, L, D], what the rows of each reader attend to.
            allowed: bool, broadcastable to [V, H, R, L].

        Returns:
            [V, R, D].
        """
        (num_readers, num_read, dim), heads = rows.shape, self.num_heads
        # Per head: [V, R, H, D/H] x [H, D/H, D] -> [V, H, R, D]
        queries = self._query(rows).unflatten(-1, (heads, -1))
        queries = queries.permute(2, 0, 1, 3).flatten(1, 2) @ self.key.weight.view(heads, -1, dim)
        queries = queries.unflatten(1, (num_readers, num_read)).transpose(0, 1).flatten(1, 2)
        scores = (queries @ grid.transpose(1, 2)).unflatten(1, (heads, num_read))
        weights = self.dropout(scores.masked_fill(~allowed, float("-inf")).softmax(-1)).flatten(1, 2)
        gathered = (weights @ grid).unflatten(1, (heads, num_read))  # [V, H, R, D]
        # [H, V * R, D] x [H, D, D/H] -> [V, R, D]
        values = self.value.weight.view(heads, -1, dim).transpose(1, 2)
        attended = (gathered.transpose(0, 1).flatten(1, 2) @ values).unflatten(1, (num_readers, num_read))
        return self._finish(rows, attended.permute(1, 2, 0, 3).flatten(2))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
        """Attention of grids [B, L, D], the queries scaled already -> [B, L, D]."""
        rate = self.dropout.p if self.training else 0.0
        if rate and queries.device.type == "cpu":  # no kernel there has dropout, and the fallback is slower
            bias = torch.where(allowed[:, 0], queries.new_zeros(()), float("-inf"))
            attended = []
            # As parts of the grid's columns the heads need no copies.
            for query, key, value in zip(*(part.chunk(self.num_heads, -1) for part in (queries, keys, values))):
                weights = torch.baddbmm(bias, query, key.mT).softmax(-1)
                attended.append(self.dropout(weights) @ value)
            return torch.cat(attended, -1)
        # [B, L, D] -> [B, H, L, D/H]
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (queries, keys, values))
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=rate, scale=1.0)
        return heads.transpose(1, 2).flatten(2)

    def _query(self, rows: Tensor) -> Tensor:
        """Queries divided by sqrt(D/H): the weights are, of which there are fewer."""
        return F.linear(rows, self.query.weight * (rows.shape[-1] // self.num_heads) ** -0.5)

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
            allowed: bool [B, 1, L, L], as `TransformerBlock.forward` takes it, or [B, 1, 1, L] where R is 1.
            columns: where the R rows stand.
            items: which item each vector is of.

        Returns:
            [V, R, D].
        """
        # Not allowed[:, :, columns]: a GPU would be sent the list and waited for.
        allowed_read = items.repeat(torch.stack([allowed.select(2, column) for column in columns], 2))
        *blocks, last = cast(list[TransformerBlock], list(self))  # torch does not say what its lists of modules hold
        for block in blocks:
            read = block.read(read, items.repeat(packing.pad(rows)), allowed_read)
            rows = block(rows, packing, allowed)
        return last.read(read, items.repeat(packing.pad(rows)), allowed_read)
