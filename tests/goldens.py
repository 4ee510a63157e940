"""What the official code was given and what it computed, as the classes of this project take it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from odmt.features.items import Tokens
from odmt.features.tables import gather_features
from odmt.sequential.batches import Batch, train_batch
from odmt.sequential.config import DistillationConfig
from odmt.sequential.interactions import Interactions
from odmt.sequential.losses import Objective
from odmt.sequential.models.imt import IdAwareMultimodalTransformer
from odmt.sequential.models.official import from_official
from odmt.sequential.models.recommender import Recommender, SourceBackbones
from odmt.sequential.models.sasrec import SASRec

SOURCES = ("id", "text", "image")


class GoldenTable:
    """One modality's features [N + 1, n, W] as a `FeatureTable`; `mask` [N + 1, n] tells the real tokens."""

    def __init__(self, features: Tensor, mask: Tensor):
        self.features, self.mask, self.width = features, mask.bool(), features.shape[-1]
        self.lengths = self.mask[1:].sum(1).numpy()

    def gather(self, numbers: Tensor) -> Tokens:
        mask = self.mask[numbers]
        lengths = mask.sum(1)
        return Tokens(self.features[numbers][mask], lengths, int(lengths.max()))

    def cls(self) -> Tensor:
        return self.features[:, 0]


@dataclass
class Golden:
    """What the official code was given (`meta`) and what it computed (`arrays`)."""

    meta: dict
    arrays: dict[str, Tensor]
    interactions_of: Callable

    @classmethod
    def load(cls, folder: Path, name: str, interactions_of: Callable) -> "Golden":
        meta = json.loads((folder / f"{name}.json").read_text())
        return cls(meta, load_file(folder / f"{name}.safetensors"), interactions_of)

    @cached_property
    def args(self) -> dict:
        return self.meta["args"]

    @cached_property
    def tables(self) -> dict[str, GoldenTable]:
        image, text = self.arrays["features.image"], self.arrays["features.text"]
        return {
            "image": GoldenTable(image, torch.ones(image.shape[:2])),
            "text": GoldenTable(text, self.arrays["features.text_mask"]),
        }

    @cached_property
    def interactions(self) -> Interactions:
        return self.interactions_of(list(self.meta["sequences"].values()), self.meta["n_items"], self.args["max_seq_len"])

    def section(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}

    def model(self) -> Recommender:
        """The model of the arguments with the initial weights."""
        model = self.untrained_model()
        model.load_state_dict(from_official(self.section("state.")))
        return model

    def untrained_model(self) -> Recommender:
        """The model of the arguments with weights of its own."""
        args = self.args
        dim, length = args["embedding_dim"], args["max_seq_len"]
        layers, heads, rate = args["transformer_block"], args["num_attention_heads"], args["drop_rate"]
        encoder = IdAwareMultimodalTransformer(
            {source: table.width for source, table in self.tables.items()},
            dim,
            args["merged_att_layers"],
            torch.zeros(self.meta["n_items"] + 1, args["id_embedding_dim"]),
            args["version"] != "v1",
            rate,
        )
        return Recommender(encoder, SourceBackbones({source: SASRec(dim, length, layers, heads, rate) for source in SOURCES}))

    def objective(self) -> Objective:
        alpha = self.args["alpha"]
        weight = {"ramp_up_epochs": alpha} if alpha >= 1 else {"constant_weight": alpha}
        distillation = DistillationConfig(temperature=self.args["tau"], **weight)
        return Objective(self.arrays["item_popularity"].float().log(), False, distillation)

    def batch(self, item_ids: Tensor) -> Batch:
        """Left-padded training sequences [B, L + 1] as a batch."""
        rows = [row[row > 0].tolist() for row in item_ids]
        held_out = [1, 1]
        interactions = self.interactions_of([row + held_out for row in rows], self.meta["n_items"], self.args["max_seq_len"])
        batch = train_batch(interactions, np.arange(len(rows)), share_repeats=True)
        batch.items.features = gather_features(self.tables, batch.items.numbers)
        return batch
