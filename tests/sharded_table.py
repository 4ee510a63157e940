"""An ID table of which each process holds, learns and optimizes some rows alone, put in place of `ItemTable` by composition.

What it leaves out stands in BENCHMARKS.md, under what is beyond one card's memory.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from odmt.distributed import World
from odmt.features.tables import load_features
from odmt.sequential.batches import Batch
from odmt.sequential.config import Config
from odmt.sequential.models.towers import ItemTable
from odmt.sequential.task import SequentialTask, build_model, load_interactions
from odmt.trainer import Trainer


class _Exchange(torch.autograd.Function):
    """Rows for each process, one's after the other's -> the rows from each; their gradients go back."""

    @staticmethod
    def forward(ctx, rows, for_each, from_each):
        ctx.sizes = from_each, for_each
        received = rows.new_empty(sum(from_each), *rows.shape[1:])
        dist.all_to_all_single(received, rows.contiguous(), from_each, for_each)
        return received

    @staticmethod
    def backward(ctx, grad):
        return _Exchange.apply(grad, *ctx.sizes), None, None


class ShardedTable(ItemTable):
    """The rows rank, rank + size, ... of a table. All processes look up together, each the items of its own batch.

    Args:
        whole: [N + 1, W], the same in all processes.
    """

    def __init__(self, whole: Tensor, world: World):
        super().__init__(whole[world.rank :: world.size])
        self.num_shards = world.size

    def forward(self, numbers: Tensor) -> Tensor:
        """int64 [M] -> [M, W], asked of the rows' owners."""
        owners = numbers % self.num_shards
        order = owners.argsort()
        asked = owners.bincount(minlength=self.num_shards)
        one_each = [1] * self.num_shards
        answered = _Exchange.apply(asked, one_each, one_each).tolist()
        rows = _Exchange.apply(numbers[order] // self.num_shards, asked.tolist(), answered)
        return _Exchange.apply(super().forward(rows), answered, asked.tolist())[order.argsort()]


class ShardedTask(SequentialTask):
    """With sharded tables, whose gradients have come from all processes with the look-ups: their sum."""

    def average_gradients(self, batch: Batch):
        """Of the rows of this process."""
        for table in self.sparse_tables:
            table.grad = table.grad / self.world.size


def load_sharded(config: Config, world: World) -> Trainer:
    """A run of ODMT whose ID table is sharded."""
    interactions = load_interactions(config.data)
    features = load_features(config.data, interactions.item_ids, config.model.needs, world.device)

    def build(*arguments):
        model = build_model(*arguments)
        model.item_encoder.id_table = ShardedTable(model.item_encoder.id_table.weight.detach(), world)
        return model

    return Trainer(ShardedTask(config, world, interactions, features, build))
