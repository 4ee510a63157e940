"""SASRec, the Transformer over a user's items (Kang and McAuley 2018; Eq. 4).

Legend: P packed positions, B users, L columns, D width.
"""

import torch
from torch import Tensor, nn

from odmt.sequential.models.dropout import Dropout
from odmt.sequential.models.packing import Packing
from odmt.sequential.models.sources import Embedding, LayerNorm
from odmt.sequential.models.transformer import TransformerBlock, attention_bias


class SASRec(nn.Module):
    """Causal post-norm Transformer with learned positions.

    Positions count from the end, so that the newest item of a user always stands at position max_seq_len - 1, however
    narrow the grid.
    """

    stacks = True

    def __init__(self, dim: int, max_seq_len: int, num_layers: int = 2, num_heads: int = 2, dropout: float = 0.1):
        super().__init__()
        self.position = Embedding(max_seq_len, dim)
        self.norm = LayerNorm(dim, eps=1e-6)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(TransformerBlock(dim, num_heads, dropout) for _ in range(num_layers))
        self.apply(_init_xavier)

    def forward(self, rows: Tensor, lengths: Tensor, longest: int) -> Tensor:
        """Item vectors [P, D] of users with `lengths` [B] items -> states [P, D]; a state sees the items up to its own."""
        packing = Packing.left_padded(lengths, rows.shape[-2], longest)
        positions = packing.columns + (self.position.num_embeddings - longest)
        rows = self.dropout(self.norm(rows + self.position(positions)))
        causal = torch.ones(longest, longest, dtype=torch.bool, device=rows.device).tril()
        # A padded query attends to itself: its row is never read, but must not be NaN.
        own = torch.eye(longest, dtype=torch.bool, device=rows.device)
        bias = attention_bias(causal & packing.valid()[:, None, None, :] | own, rows.dtype)
        for block in self.blocks:
            rows = block(rows, packing, bias)
        return rows


def _init_xavier(module: nn.Module):
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.xavier_normal_(module.weight)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
