"""Started by torchrun: one training step, then the rank of every user; `python two_processes.py FOLDER ARGUMENT ...`."""

import sys
from pathlib import Path

import torch

from odmt.checkpoint import save_tensors
from odmt.config import load_config
from odmt.data.batches import epoch_users
from odmt.distributed import World, open_world
from odmt.train import Trainer

EPOCH = 3


def gradients(trainer: Trainer, model, rank: int, size: int) -> dict[str, torch.Tensor]:
    """Gradients of the first batch that process `rank` of `size` sees, as `model` gives them."""
    train = trainer.config.train
    users = next(epoch_users(trainer.interactions.num_users, train.batch_size, train.seed, EPOCH, rank, size))
    batch = next(trainer.batches([users]))
    trainer.model.zero_grad()
    trainer.objective(*model(batch), batch, EPOCH)["loss"].backward()
    return {f"gradient.{name}": parameter.grad.clone() for name, parameter in trainer.model.named_parameters()}


def ranks(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        f"{split}.{source}": torch.from_numpy(rank) for split in ("valid", "test") for source, rank in trainer.rank(split).items()
    }


def measure(world: World, args: list[str]) -> dict[str, torch.Tensor]:
    trainer = Trainer(load_config(args), world)
    return {**gradients(trainer, trainer.parallel, world.rank, world.size), **ranks(trainer)}


if __name__ == "__main__":
    folder, *args = sys.argv[1:]
    with open_world("cpu") as world:
        save_tensors(Path(folder) / f"{world.rank}.safetensors", measure(world, args), {})
