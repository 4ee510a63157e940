"""What is known of the items: raw feature vectors of each modality, and a category.

Items are numbered from 0 inside the graph models.

Legend: N items, B of them, W width of a raw feature.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class ItemContent(nn.Module):
    """The items' features and labels, where the model is; weights files have them only if they are trained.

    Args:
        features: [N, W] by modality, of any floating type; rows are given out as float32 at least.
        labels: int64 [N], from 0; below 0 where an item has no category. None: no item has one.
        trained: the features are parameters that start from these values (the original BM3).

    Attributes:
        modalities: in the order given.
        widths: W by modality.
    """

    labels: Tensor | None

    def __init__(self, features: Mapping[str, Tensor], labels: Tensor | None = None, trained: bool = False):
        super().__init__()
        self.modalities = list(features)
        self.widths = {modality: table.shape[1] for modality, table in features.items()}
        if trained:
            self.features = nn.ParameterDict({modality: nn.Parameter(table.clone()) for modality, table in features.items()})
        self.trained = trained
        for modality, table in {} if trained else features.items():
            self.register_buffer(f"frozen_{modality}", table, persistent=False)
        self.register_buffer("labels", labels, persistent=False)

    def forward(self, items: Tensor | None = None) -> dict[str, Tensor]:
        """Items int64 [B] -> their raw features [B, W] by modality; None: of all N."""
        features = {}
        for modality in self.modalities:
            table = self.features[modality] if self.trained else getattr(self, f"frozen_{modality}")
            rows = table if items is None else table[items]
            features[modality] = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return features

    def labels_of(self, items: Tensor) -> Tensor:
        """Items int64 [B] -> their labels int64 [B]; -1 where there is none."""
        return torch.full_like(items, -1) if self.labels is None else self.labels[items]
