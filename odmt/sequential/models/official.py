"""Checkpoints of the official implementation, `epoch-N.pt`, in this model's names."""

import re
from pathlib import Path

import torch
from torch import Tensor

from odmt.errors import InputError

# Official name -> name here. The official model declares parameters that it never uses; they have no counterpart.
_BLOCK = {
    "multi_head_attention.w_Q": "query",
    "multi_head_attention.w_K": "key",
    "multi_head_attention.w_V": "value",
    "multi_head_attention.fc": "out",
    "multi_head_attention.layer_norm": "attention_norm",
    "feed_forward.w_1": "expand",
    "feed_forward.w_2": "contract",
    "feed_forward.layer_norm": "feed_forward_norm",
}
_SOURCE = {"id": "id", "t": "text", "v": "image", "text": "text", "image": "image"}
_RULES = [
    (r"id_encoder\.weight", r"item_encoder.id_table.weight"),
    (r"(id|text|image)_proj\.(\w+)", r"item_encoder.projections.{0}.{1}"),
    (r"(id|t|v)_dnns\.(\d)\.(\w+)", r"item_encoder.heads.{0}.{1}.{2}"),
    (r"IMT\.transformer_blocks\.(\d+)\.(\w+\.\w+)\.(\w+)", r"item_encoder.blocks.{0}.{1}.{2}"),
    (r"(id|t|v)_user_encoder\.transformer_encoder\.layer_norm\.(\w+)", r"user_encoder.backbones.{0}.norm.{1}"),
    (r"(id|t|v)_user_encoder\.transformer_encoder\.position_embedding\.weight", r"user_encoder.backbones.{0}.position.weight"),
    (
        r"(id|t|v)_user_encoder\.transformer_encoder\.transformer_blocks\.(\d+)\.(\w+\.\w+)\.(\w+)",
        r"user_encoder.backbones.{0}.blocks.{1}.{2}.{3}",
    ),
]


def official_name(name: str) -> str | None:
    """Translate an official parameter's name; None where it has no counterpart."""
    name = name.removeprefix("module.")  # DistributedDataParallel's prefix
    for pattern, target in _RULES:
        if match := re.fullmatch(pattern, name):
            return target.format(*(_BLOCK.get(part, _SOURCE.get(part, part)) for part in match.groups()))
    return None


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename an official state dict."""
    return {target: tensor for name, tensor in state.items() if (target := official_name(name))}


def load_official(path: Path) -> dict[str, Tensor]:
    """Read `epoch-N.pt` without running anything in it.

    Returns:
        a state dict for `Recommender.load_state_dict` of an ODMT with the checkpoint's sizes.

    Raises:
        InputError: no such file, or not a checkpoint of the official code.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = from_official(content["model_state_dict"])
    except Exception as error:
        raise InputError(f"{path}: no checkpoint of the official code, a dict with model_state_dict: {error}") from error
    if not state:
        raise InputError(f"{path}: none of its parameters has a name of the official ODMT; it is another model's checkpoint")
    return state
