"""Started by torchrun: ranks, training steps and what they send; `python two_processes.py FOLDER ARGUMENT ...`."""

import os
import socket
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from sharded_table import load_sharded
from torch import nn

from odmt.checkpoint import save_tensors
from odmt.config_files import load_config
from odmt.distributed import World, open_world, reduce_rows
from odmt.sequential.batches import Batch, epoch_users
from odmt.trainer import Trainer

EPOCH = 3


def first_users(trainer: Trainer, size: int) -> list[np.ndarray]:
    """The users of every process in the first step of the epoch."""
    train, num_users = trainer.config.train, trainer.task.interactions.num_users
    return [next(epoch_users(num_users, train.batch_size, train.seed, EPOCH, rank, size)) for rank in range(size)]


def batch_of(trainer: Trainer, users: list[np.ndarray]) -> Batch:
    return next(trainer.task.build_batches([users]))


def ranks(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        f"{split}.{source}": torch.from_numpy(rank) for split in ("valid", "test") for source, rank in trainer.rank(split).items()
    }


def step(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The losses and gradients of one step, and the weights after it."""
    trainer.parallel.train()
    losses = trainer.train_step(batch_of(trainer, first_users(trainer, trainer.world.size)), EPOCH)
    measured = {f"loss.{name}": loss for name, loss in losses.items()}
    for name, parameter in trainer.model.named_parameters():
        measured |= {f"gradient.{name}": parameter.grad.to_dense(), f"weight.{name}": parameter}
    return measured


def bytes_sent() -> int:
    """What this process has sent over its connections, as the system counts it (`tcpi_bytes_sent`)."""
    for _ in range(2):  # the other process passes the second when it has received what still waited to be sent before the first
        dist.barrier()
    total = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(descriptor))) as connection:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:  # none, or no connection over TCP
            continue
        total += int.from_bytes(info[200:208], sys.byteorder)
    return total


NUM_ROWS, WIDTH = 20_000, 16


def exchange(world: World) -> dict[str, torch.Tensor]:
    """The gradient of a table of which each process has looked up 100 rows, some twice, dense and by rows, and the bytes sent."""
    rows = [torch.arange(start, start + 100) * 37 for start in range(0, 50 * world.size, 50)]
    found = {}
    for kind in ("dense", "rows"):
        table = nn.Embedding(NUM_ROWS, WIDTH, sparse=kind == "rows", _weight=torch.ones(NUM_ROWS, WIDTH))
        looked_up = torch.cat([rows[world.rank], rows[world.rank][:9]])
        (table(looked_up) * torch.arange(len(looked_up) * WIDTH).view(-1, WIDTH)).sum().backward()
        before = bytes_sent()
        if kind == "dense":
            dist.all_reduce(table.weight.grad)
            table.weight.grad /= world.size
        else:
            reduce_rows(table.weight, torch.cat(rows).unique(), world)
        found |= {f"bytes.{kind}": torch.tensor(bytes_sent() - before), f"table.{kind}": table.weight.grad.to_dense()}
    return found


def measure(world: World, args: list[str]) -> dict[str, torch.Tensor]:
    """Ranks under the initial weights, one step with each kind of negatives and with a sharded table, an exchange of gradients."""
    measured = {f"ranks.{name}": rank for name, rank in ranks(Trainer.load(load_config(args), world)).items()}
    for negatives in ("local", "global"):
        found = step(Trainer.load(load_config([*args, f"data.negatives={negatives}"]), world))
        measured |= {f"{negatives}.{name}": tensor for name, tensor in found.items()}
    sharded = load_sharded(load_config(args), world)
    measured |= {f"sharded.ranks.{name}": rank for name, rank in ranks(sharded).items()}
    measured |= {f"sharded.{name}": tensor for name, tensor in step(sharded).items()}
    for name, moment in sharded.optimizer.state[sharded.model.item_encoder.id_table.weight].items():
        measured[f"sharded.state.{name}"] = moment
    return measured | exchange(world)


if __name__ == "__main__":
    folder, *args = sys.argv[1:]
    with open_world("cpu") as world:
        save_tensors(Path(folder) / f"{world.rank}.safetensors", measure(world, args), {})
