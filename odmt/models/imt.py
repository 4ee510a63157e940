"""The ID-aware Multi-modal Transformer (Sec. 3.2, Eq. 1-3): text, image and ID of an item inform one another.

Legend: M items, n columns of an item's token grid, D width. The tokens have no positions, so their order is free. Each source
starts in a column of its own, the same for every item: there stand its CLS token or the ID token, the only ones that are read.
"""

import torch
from torch import Tensor, nn

from odmt.data.batches import Items, Tokens
from odmt.models.packing import Packing
from odmt.models.towers import ItemTable, head
from odmt.models.transformer import TransformerBlock, item_heads


class IdAwareMultimodalTransformer(nn.Module):
    """N post-norm layers over all tokens of an item; no modality token attends to the ID token.

    Args:
        widths: feature width by modality, `text` or `image` or both.
        dim: D.
        num_layers: N, which decides the heads too (`item_heads`).
        id_initial: [num_items + 1, W], what the ID table is copied from; None leaves the ID token out.
        id_visible: let modality tokens attend to the ID token (Table 3, w/o ID mask).
        dropout: on the input, attention weights and block outputs.
    """

    def __init__(
        self,
        widths: dict[str, int],
        dim: int,
        num_layers: int,
        id_initial: Tensor | None,
        id_visible: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.id_visible = id_visible
        self.id_table = None if id_initial is None else ItemTable(id_initial)
        if id_initial is not None:
            widths = {**widths, "id": id_initial.shape[1]}
        self.sources = [source for source in ("id", "text", "image") if source in widths]
        self.projections = nn.ModuleDict({source: nn.Linear(widths[source], dim) for source in self.sources})
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(TransformerBlock(dim, item_heads(dim, num_layers), dropout) for _ in range(num_layers))
        self.heads = nn.ModuleDict({source: head(dim, dim) for source in self.sources})

    def forward(self, items: Items) -> dict[str, Tensor]:
        """Encode M items; returns [M, D] by source."""
        tokens = self._tokens(items)
        packing, firsts = _layout(tokens)
        rows = torch.cat([self.projections[source](part.values) for source, part in tokens.items()])
        rows = self.dropout(rows)  # [sum of tokens, D], source by source
        allowed = self._allowed(packing, firsts)
        for block in self.blocks[:-1]:
            rows = block(rows, packing, allowed)
        columns = [firsts[source] for source in self.sources]
        allowed = torch.stack([allowed[:, :, column] for column in columns], 2)
        read = self.blocks[-1].read(packing.pad(rows), columns, allowed)
        return {source: self.heads[source](read[:, column]) for column, source in enumerate(self.sources)}

    def _tokens(self, items: Items) -> dict[str, Tokens]:
        tokens = {source: items.features[source] for source in ("image", "text") if source in self.sources}
        if self.id_table is None:
            return tokens
        one = torch.ones_like(items.numbers)
        return {**tokens, "id": Tokens(self.id_table(items.numbers), one, 1)}

    def _allowed(self, packing: Packing, firsts: dict[str, int]) -> Tensor:
        """Who attends to whom [M, 1, n, n]: nobody to padding, no modality token to the ID token."""
        width = packing.shape[1]
        visible = torch.ones(width, width, dtype=torch.bool, device=packing.slots.device)
        if "id" in firsts and not self.id_visible:
            visible[:, firsts["id"]] = False
            visible[firsts["id"], firsts["id"]] = True
        return packing.valid()[:, None, None, :] & visible


def _layout(tokens: dict[str, Tokens]) -> tuple[Packing, dict[str, int]]:
    """Place the sources side by side in one grid; returns the packing and the first column of each source."""
    firsts, width = {}, 0
    for source, part in tokens.items():
        firsts[source], width = width, width + part.longest
    shape = (len(next(iter(tokens.values())).lengths), width)
    slots = [Packing.right_padded(part.lengths, len(part.values), width, firsts[source]).slots for source, part in tokens.items()]
    return Packing(torch.cat(slots), shape), firsts
