"""SGFD's students as the towers of a sequential recommender ("Semantic-Guided Feature Distillation", Liu et al., ACM MM 2023).

Legend: M distinct items of a batch, V vectors of these, N items, W width of a feature, D width of the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from odmt.features.extractors import SgfdExtractor
from odmt.features.items import Items
from odmt.features.sgfd_settings import SgfdSettings
from odmt.sequential.models.towers import ItemEncoder


@dataclass
class SgfdSource:
    """What SGFD needs beside the features.

    Attributes:
        settings: of its extractor.
        labels: int64 [N + 1], the items' categories from 0; the padding's is not looked at.
        num_labels: how many categories there are.
    """

    settings: SgfdSettings
    labels: Tensor
    num_labels: int


class SgfdTowers(ItemEncoder):
    """The student on each modality's CLS feature, which the teacher teaches; an ID, where there is one, has its own tower.

    Choice: the losses are of the distinct items of a batch, each once. The official hosts count an item as often as it occurs,
    but their batches are drawn pairs: a sequence would weigh its items by how popular they are.

    Args:
        widths: W by modality.
        dim: D.
        source: categories and settings.
        id_tower: gives the ID's vectors; None: the ID is no source.
    """

    reads: ClassVar = "cls"
    joint: ClassVar = True
    learns_categories: ClassVar = True

    labels: Tensor

    def __init__(self, widths: Mapping[str, int], dim: int, source: SgfdSource, id_tower: nn.Module | None):
        super().__init__()
        self.id_tower = id_tower
        self.extractor = SgfdExtractor(widths, dim, source.num_labels, source.settings)
        self.register_buffer("labels", source.labels, persistent=False)

    def forward(self, items: Items) -> dict[str, Tensor]:
        """Encode M items; returns [V, D] by source."""
        vectors = {} if self.id_tower is None else {"id": self.id_tower(items.of("id"), "id")}
        students = self.extractor(self._features(items))
        return vectors | {modality: items.repeat(vector) for modality, vector in students.items()}

    def encode_new(self, items: Items) -> dict[str, Tensor]:
        """What the students make of M items."""
        return {modality: items.repeat(vector) for modality, vector in self.extractor(self._features(items)).items()}

    def losses(self, items: Items) -> dict[str, Tensor]:
        """SGFD's losses of M items, with their weights: `sgfd_class`, `sgfd_fusion`, `sgfd_response`, `sgfd_feature`."""
        counts = items.numbers.clamp(max=1)  # none of what pads a batch
        losses = self.extractor.losses(self._features(items), self.labels[items.numbers], counts)
        return {f"sgfd_{name}": loss for name, loss in losses.items()}

    def _features(self, items: Items) -> dict[str, Tensor]:
        """CLS features [M, W] by modality."""
        blocks = [block.features for block in items.blocks()]
        return {modality: torch.cat([block[modality].values for block in blocks]) for modality in self.extractor.modalities}
