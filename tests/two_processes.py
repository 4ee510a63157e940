"""Started by torchrun: the rank of every user and one training step; `python two_processes.py FOLDER ARGUMENT ...`."""

import sys
from pathlib import Path

import torch

from odmt.checkpoint import save_tensors
from odmt.config_files import load_config
from odmt.distributed import World, open_world
from odmt.sequential.batches import Batch, epoch_users
from odmt.trainer import Trainer

EPOCH = 3


def first_batch(trainer: Trainer, rank: int, size: int) -> Batch:
    """The first batch that process `rank` of `size` sees."""
    train = trainer.config.train
    users = next(epoch_users(trainer.task.interactions.num_users, train.batch_size, train.seed, EPOCH, rank, size))
    return next(trainer.task.build_batches([users]))


def ranks(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        f"{split}.{source}": torch.from_numpy(rank) for split in ("valid", "test") for source, rank in trainer.rank(split).items()
    }


def measure(world: World, args: list[str]) -> dict[str, torch.Tensor]:
    """Ranks under the initial weights, then the gradients of one step and the weights after it."""
    trainer = Trainer.load(load_config(args), world)
    measured = {f"ranks.{name}": rank for name, rank in ranks(trainer).items()}
    trainer.parallel.train()
    trainer.train_step(first_batch(trainer, world.rank, world.size), EPOCH)
    for name, parameter in trainer.model.named_parameters():
        measured |= {f"gradient.{name}": parameter.grad, f"weight.{name}": parameter}
    return measured


if __name__ == "__main__":
    folder, *args = sys.argv[1:]
    with open_world("cpu") as world:
        save_tensors(Path(folder) / f"{world.rank}.safetensors", measure(world, args), {})
