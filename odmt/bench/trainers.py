"""Both sides of a measurement: the package's trainer over data in memory, and one around the plain computation.

Legend: B users, S slots, T tokens, W feature width.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from odmt.bench.official import OfficialODMT, left_padded, losses, rank_users
from odmt.bench.synthetic import SyntheticTable
from odmt.distributed import World
from odmt.precision import Precision
from odmt.sequential.config import Config
from odmt.sequential.interactions import Interactions
from odmt.sequential.losses import ramp_up
from odmt.sequential.task import SequentialTask
from odmt.trainer import Trainer

ITEM_BLOCK = 128  # items that the official code encodes at a time for its evaluation


@dataclass
class TrainingData:
    """What both sides train on.

    Attributes:
        config: of the run.
        world: this process.
        interactions: of all users.
        tables: features of the items that are used.
    """

    config: Config
    world: World
    interactions: Interactions
    tables: dict[str, SyntheticTable]

    @property
    def device(self) -> torch.device:
        """Where both sides compute."""
        return self.world.device


class InMemoryTrainer(Trainer):
    """The package's trainer, its data given instead of read."""

    def __init__(self, data: TrainingData):
        self.sequential = SequentialTask(data.config, data.world, data.interactions, data.tables)
        super().__init__(self.sequential)

    def step(self, users: np.ndarray):
        """Train on the batch of some users, from their numbers to the new weights."""
        self.parallel.train()
        for batch in self.sequential.build_batches([[users]]):
            self.train_step(batch, 1)

    def run_epoch(self):
        """One epoch, one validation, one test."""
        self.train_epoch(1)
        scorer = self.task.scorer()
        for split in ("valid", "test"):
            self.rank(split, scorer)


class OfficialTrainer:
    """The same run as the official code computes it."""

    def __init__(self, data: TrainingData):
        self.config, self.device = data.config, data.device
        self.interactions, self.tables = data.interactions, data.tables
        settings, interactions = data.config.train, data.interactions
        self.log_popularity = torch.from_numpy(interactions.popularity()).log().float().to(data.device)
        widths = {source: table.width for source, table in data.tables.items()}
        widths["id"] = widths["image"]
        torch.manual_seed(settings.seed)
        self.model = OfficialODMT(data.config.model, interactions.num_items, interactions.max_seq_len, widths).to(data.device)
        with torch.no_grad():
            firsts = reduce(torch.add, (table.cls() for table in data.tables.values()))
            self.model.id_encoder.weight.copy_(firsts / len(data.tables))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), settings.lr, weight_decay=settings.weight_decay)
        self.precision = Precision.choose(settings.precision, data.device)
        self.scaler = self.precision.loss_scaler()

    def step(self, users: np.ndarray):
        """Train on the batch of some users, from their numbers to the new weights."""
        settings = self.config
        self.model.train()
        grid = left_padded(*self.interactions.histories(users, "train"), self.interactions.max_seq_len + 1)
        numbers = grid.to(self.device)
        self.optimizer.zero_grad()
        with self.precision.autocast():
            vectors = self.model.encode_items(numbers.view(-1), *self.features(grid.view(-1)))
            logits, targets = self.model.logits(vectors, numbers, self.log_popularity)
            cross_entropy, distillation = losses(logits, targets, settings.distillation.temperature)
            loss = cross_entropy + ramp_up(1, settings.distillation.ramp_up_epochs) * distillation
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.train.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def run_epoch(self):
        """One epoch, one validation, one test."""
        order = np.random.default_rng(1).permutation(self.interactions.num_users)
        size = self.config.train.batch_size
        for begin in range(0, len(order), size):
            self.step(order[begin : begin + size])
        for split in ("valid", "test"):
            rank_users(self.model, self.encode_catalogue(), self.interactions, split, np.arange(len(order)))

    @torch.no_grad()
    def encode_catalogue(self) -> dict[str, Tensor]:
        """All items and the padding [N + 1, D] by source."""
        self.model.eval()
        blocks: dict[str, list[Tensor]] = {}
        for numbers in torch.arange(self.interactions.num_items + 1).split(ITEM_BLOCK):
            with self.precision.autocast():
                vectors = self.model.encode_items(numbers.to(self.device), *self.features(numbers))
            for source, vector in vectors.items():
                blocks.setdefault(source, []).append(vector.float())
        return {source: torch.cat(parts) for source, parts in blocks.items()}

    def features(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Text [S, T, W], its mask [S, T] and image [S, T', W] of slots, those of padding included, in float32."""
        (text, mask), (image, _) = (padded_tokens(self.tables[source], numbers) for source in ("text", "image"))
        return text.float(), mask, image.float()


def padded_tokens(table: SyntheticTable, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Features and mask of slots on the device of the table; padding has the last item's features, all of them masked.

    Args:
        table: of N items.
        numbers: [S] on the CPU, 0 for padding.

    Returns:
        float16 [S, T, W], T the longest of the table, and True for real tokens [S, T].
    """
    lengths, starts = (torch.from_numpy(part)[numbers - 1][:, None] for part in (table.lengths, table.starts))
    columns = torch.arange(int(table.lengths.max()))
    rows = starts + torch.minimum(columns, lengths - 1)
    mask = (columns < lengths) & (numbers > 0)[:, None]
    return table.values[rows.to(table.values.device)], mask.to(table.values.device)
