"""The ID-aware Multi-modal Transformer (Sec. 3.2, Eq. 1-3): text, image and ID of an item inform one another.

Legend: M items, V vectors of these, n columns of an item's token grid, R sources, D width. The tokens have no positions, so their
order is free. Each source starts in a column of its own, the same for every item: there stands its CLS token or the ID token.
These R rows are all that is read in the end.

Deviation: the official code encodes every occurrence of an item in a batch by itself. Here the tokens of an item pass the layers
once, as keys and values, with one set of dropout masks; the R rows that are read pass them once an occurrence, with masks of their
own, and attend to the others and to another copy of themselves. Without dropout the numbers are the same. One set of masks for
everything would be simpler, but where items repeat often in a batch the model learns worse (BENCHMARKS.md).
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from odmt.features.items import Items, Tokens
from odmt.sequential.models.dropout import Dropout
from odmt.sequential.models.packing import Packing, fill_gaps
from odmt.sequential.models.sources import apply_each
from odmt.sequential.models.towers import ItemTable, head
from odmt.sequential.models.transformer import ItemLayers


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

    reads: ClassVar = "tokens"
    joint: ClassVar = True

    def __init__(
        self,
        widths: Mapping[str, int],
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
        self.dropout = Dropout(dropout)
        self.blocks = ItemLayers(dim, num_layers, dropout)
        self.heads = nn.ModuleDict({source: head(dim, dim) for source in self.sources})

    @staticmethod
    def stochastic(dropout: float) -> bool:
        """An item is encoded anew at every occurrence where there is dropout."""
        return dropout > 0

    def forward(self, items: Items) -> dict[str, Tensor]:
        """Encode M items; returns [V, D] by source."""
        modalities = [source for source in ("image", "text") if source in self.sources]
        features: dict[str, Tokens] = {source: items.features[source] for source in modalities}
        if self.id_table is not None:  # looked up for all blocks at once, since every look-up has a gradient of its own
            one = torch.ones_like(items.numbers)
            features["id"] = Tokens(self.id_table(items.numbers), one, 1)
        first, *others = [self._encode(block) for block in Items(items.numbers, features, items.owners).blocks()]
        return {source: torch.cat([first[source], *(block[source] for block in others)]) for source in first} if others else first

    def encode_new(self, items: Items) -> dict[str, Tensor]:
        """Encode M items by their modalities, unless these see the ID token; the padding's stands in for it, unread."""
        if self.id_visible and self.id_table is not None:
            return {}
        vectors = self(Items(torch.zeros_like(items.numbers), items.features, items.owners))
        return {source: vector for source, vector in vectors.items() if source != "id"}

    def _encode(self, items: Items) -> dict[str, Tensor]:
        """As `forward`, the ID a token among the features."""
        tokens = items.features
        packing, firsts = _layout(tokens)
        projected = {source: self.projections[source](part.values) for source, part in tokens.items()}
        read = torch.stack([tokens[source].first(projected[source]) for source in self.sources], 1)
        read = self.dropout(items.repeat(read))  # [V, R, D]
        allowed = self._allowed(packing, firsts)
        rows, packing = fill_gaps(torch.cat(list(projected.values())), packing)  # [sum of tokens, D] or [M * n, D]
        rows = self.dropout(rows)
        read = self.blocks(read, rows, packing, allowed, [firsts[source] for source in self.sources], items)
        return dict(zip(self.sources, apply_each([self.heads[source] for source in self.sources], read.unbind(1))))

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
    packings = [
        Packing.right_padded(part.lengths, len(part.values), width, firsts[source], part.longest) for source, part in tokens.items()
    ]
    return Packing(torch.cat([packing.slots for packing in packings]), shape), firsts
