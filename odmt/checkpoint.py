"""Checkpoints as safetensors files: nothing in them can run, they appear whole or not at all, and a checksum tells damage."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from odmt import remedies
from odmt.errors import InputError
from odmt.files import written_whole


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict):
    """Write tensors and a JSON-able dict to one file, atomically and on the disk when this returns.

    Tensors that share memory, as tied weights do, are written once for each name.

    Raises:
        InputError: the disk is full, the folder is gone or cannot be written to.
    """
    separate, memory = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if address in memory else tensor
        memory.add(address)
    text = json.dumps(metadata)
    with written_whole(path, remedies.go_on()) as partial:
        save_file(separate, partial, metadata={"metadata": text, "xxh3": _checksum(separate, text)})
        os.chmod(partial, path.parent.stat().st_mode & 0o666)  # as readable as the folder; safetensors makes it private


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `save_tensors` wrote; of an earlier version, which noted no checksum, too.

    Raises:
        InputError: no such file, not one of ours, or damaged.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = file.metadata() or {}
        if "xxh3" in notes and notes["xxh3"] != _checksum(tensors, notes["metadata"]):
            raise ValueError("the file is damaged, its checksum is another")
        return tensors, _metadata(file)


def load_metadata(path: Path) -> dict:
    """Read only the metadata; raises as `load_tensors`, but for the tensors."""
    with _opened(path) as file:
        return _metadata(file)


def _metadata(file) -> dict:
    if "metadata" not in (notes := file.metadata() or {}):
        raise ValueError("it has weights alone, without what this program notes beside them")
    metadata = json.loads(notes["metadata"])
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are no mapping")
    return metadata


def _checksum(tensors: dict[str, Tensor], metadata: str) -> str:
    """The xxh3 of names, types, shapes and bytes of tensors, and of the metadata."""
    digest = xxhash.xxh3_128(metadata.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a checkpoint: {error}; {remedies.train_anew()}") from error


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything that the next epoch depends on, by name: the tensors themselves, which training goes on to change."""
    names = _trained(model, optimizer)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{key}.{names[index]}": value for key, value in state.items()})
    return tensors


def load_training(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Restore the `training_state` that a file holds; returns its metadata.

    Raises:
        InputError: it cannot be read, or is of another model.
    """
    tensors, metadata = load_tensors(path)
    put_weights(model, {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}, path)
    state_dict = optimizer.state_dict()
    parameters = dict(model.named_parameters())
    index = {name: index for index, name in enumerate(_trained(model, optimizer))}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, part, name = key.split(".", 2)
            if name not in index or value.shape not in ((), parameters[name].shape):
                raise InputError(f"{path}: {key} fits no parameter of this model; {remedies.train_anew()}")
            state_dict["state"].setdefault(index[name], {})[part] = value
    optimizer.load_state_dict(state_dict)
    return metadata


def _trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the parameters that an optimizer has, in its order: those that stay as they are may be missing."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def put_weights(model: nn.Module, weights: dict[str, Tensor], path: Path):
    """Give a model its saved weights.

    Raises:
        InputError: they have other names or shapes than the model's, or are not finite; naming the file that they are from.
    """
    own = model.state_dict()
    if other := sorted(own.keys() ^ weights.keys()):
        raise InputError(f"{path}: the weights of another model, which differ by {other[0]}; {remedies.train_anew()}")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)}, and the model's is {tuple(tensor.shape)}"
            raise InputError(f"{path}: the weights of another model: {name} is {shapes}; {remedies.train_anew()}")
        if not weights[name].isfinite().all():
            raise InputError(f"{path}: {name} holds values that are not finite; {remedies.train_anew()}")
    model.load_state_dict(weights)
