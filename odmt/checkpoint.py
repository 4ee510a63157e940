"""Checkpoints as safetensors files: nothing in them can run, and they appear whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from odmt.errors import InputError
from odmt.files import written_whole


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict):
    """Write tensors and a JSON-able dict to one file, atomically and on the disk when this returns."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as partial:
        save_file(contiguous, partial, metadata={"metadata": json.dumps(metadata)})
        with partial.open("rb") as file:
            os.fchmod(file.fileno(), path.parent.stat().st_mode & 0o666)  # as readable as the folder; safetensors makes it private
            os.fsync(file.fileno())


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `save_tensors` wrote.

    Raises:
        InputError: no such file, or not one of ours.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _metadata(file)  # noqa: SIM118


def load_metadata(path: Path) -> dict:
    """Read only the metadata; raises as `load_tensors`."""
    with _opened(path) as file:
        return _metadata(file)


def _metadata(file) -> dict:
    return json.loads(file.metadata()["metadata"])


@contextmanager
def _opened(path: Path) -> Iterator:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a checkpoint: {error}; train the run anew with --overwrite") from error


def save_training(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, metadata: dict):
    """Write everything that the next epoch depends on."""
    names = [name for name, _ in model.named_parameters()]
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{key}.{names[index]}": value for key, value in state.items()})
    save_tensors(path, tensors, metadata)


def load_training(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Restore what `save_training` wrote; returns its metadata."""
    tensors, metadata = load_tensors(path)
    model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})
    state_dict = optimizer.state_dict()
    index = {name: index for index, (name, _) in enumerate(model.named_parameters())}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, part, name = key.split(".", 2)
            state_dict["state"].setdefault(index[name], {})[part] = value
    optimizer.load_state_dict(state_dict)
    return metadata
