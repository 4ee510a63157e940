"""Frozen encoders of images: every vision model of `transformers` (paper, Section 3.2: CLIP's vision tower).

Legend: B images, S side of the square that an image is squashed to, T tokens, the CLS token first, W width, h x w a feature map.
"""

import inspect
import json
import math
from collections import defaultdict
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel, Siglip2ImageProcessorPil

from odmt.errors import InputError
from odmt.features.checkpoints import Checkpoint, fingerprint
from odmt.features.decoding import Arrays
from odmt.features.first_token import put_in_front, to_half
from odmt.features.header import Header

Preprocessing = Literal["paper", "own"]

DEFAULT_SIDE = 224  # of convolutional networks, which take any
FIRST = {
    "cls": "CLS",
    "leading": "pooled output, as the model has it",
    "pooled": "pooled output put in front",
    "mean": "mean put in front",
}


class ImageEncoder:
    """Features of the patches of images: the last hidden state, of CLIP's vision tower before its final layer norm.

    The first token is the model's own CLS; else what it makes of the whole image, its pooled output; else the mean. Feature maps
    [W, h, w] are h * w tokens. Register tokens are left out.

    Args:
        name: checkpoint, a folder or a hub name; of several towers the one for images is taken.
        device: where to compute.
        preprocessing: `paper` squashes images to a square and scales them by mean and standard deviation 0.5; `own` is the
            checkpoint's image processor.
    """

    def __init__(self, name: str, device: torch.device, preprocessing: Preprocessing = "paper"):
        checkpoint = Checkpoint(name, "image")
        self.device = device
        self.preprocessing = preprocessing
        self.model = checkpoint.load(device)
        self.image_size = _side(self.model, name)
        # SigLIP 2 cuts images of any aspect into patches before the model sees them.
        self._takes_patches = "spatial_shapes" in inspect.signature(self.model.forward).parameters
        self._processor: BaseImageProcessor | None = None
        if preprocessing == "own":
            self._processor = checkpoint.load_image_processor()
        elif self._takes_patches:
            self._processor = _patches_of_squares(self.model.config)
        self._name = name
        self._has_cls = _has_cls(self.model)
        self._num_registers = _count_registers(self.model)
        self._first, width, max_tokens = self._probe()
        self.header = Header(
            modality="image",
            encoder=name,
            weights=fingerprint(self.model),
            layer=self._describe_layer(),
            width=width,
            max_tokens=max_tokens,
            preprocessing=self._describe_preprocessing(),
        )

    def process(self, image: Image.Image) -> Arrays:
        """What the checkpoint's image processor makes of an RGB image."""
        assert self._processor is not None, "images are scaled as a batch"
        arrays = self._processor(images=image, return_tensors="np" if "Pil" in type(self._processor).__name__ else "pt")
        return {key: np.asarray(values)[0] for key, values in arrays.items()}

    @torch.inference_mode()
    def encode(self, images: Tensor | list[Arrays]) -> list[np.ndarray]:
        """Encode B images to as many arrays [T, W].

        Args:
            images: pixels [B, S, S, 3] (uint8) or, with the checkpoint's own pre-processing, what `process` gives of each.
        """
        if isinstance(images, Tensor) and self._takes_patches:
            images = [self.process(Image.fromarray(pixels)) for pixels in images.numpy()]
        if isinstance(images, Tensor):
            return self._tokens(self._scale(images))
        # Images of other aspects may be of other sizes: those of one size go together.
        groups = defaultdict(list)
        for position, arrays in enumerate(images):
            groups[tuple(array.shape for array in arrays.values())].append(position)
        found: dict[int, np.ndarray] = {}
        for positions in groups.values():
            found |= zip(positions, self._tokens(self._stack([images[position] for position in positions])))
        return [found[position] for position in range(len(images))]

    def _scale(self, pixels: Tensor) -> dict[str, Tensor]:
        scaled = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
        # Not CLIP's own mean and std, as in the official code.
        return {"pixel_values": (scaled - 0.5) / 0.5}

    def _stack(self, images: list[Arrays]) -> dict[str, Tensor]:
        return {key: torch.from_numpy(np.stack([arrays[key] for arrays in images])).to(self.device) for key in images[0]}

    def _tokens(self, inputs: dict[str, Tensor]) -> list[np.ndarray]:
        states, pooled = self._states(inputs)
        valid = inputs.get("pixel_attention_mask")  # [B, T] of images of any aspect, whose patches are padded
        if self._first in ("pooled", "mean"):
            states, valid = put_in_front(pooled if self._first == "pooled" else None, states, valid)
        half = to_half(states, self._name)
        return list(half) if valid is None else [row[keep] for row, keep in zip(half, valid.bool().cpu().numpy())]

    def _states(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The last hidden state [B, T, W] without registers and, where there is one as wide, the pooled output [B, W]."""
        # CLIP's last hidden state is what goes into its final layer norm, which it applies to its pooled output alone.
        output = self.model(**inputs)
        states = output.last_hidden_state
        if states.ndim == 4:
            states = states.flatten(2).transpose(1, 2)  # [B, W, h, w] -> [B, h * w, W]
        if self._num_registers:
            first = int(self._has_cls)
            states = torch.cat([states[:, :first], states[:, first + self._num_registers :]], 1)
        pooled = getattr(output, "pooler_output", None)
        if pooled is None or pooled[0].numel() != states.shape[2]:
            return states, None
        return states, pooled.flatten(1)  # ResNet's is [B, W, 1, 1]

    @torch.inference_mode()
    def _probe(self) -> tuple[str, int, int]:
        """What stands first, W, and the most tokens, found out by encoding noise."""
        noise = np.random.default_rng(0).integers(0, 256, (self.image_size, self.image_size, 3), np.uint8)
        square = Image.fromarray(noise)
        try:
            if self._processor is None:
                inputs = [self._scale(torch.from_numpy(noise)[None])]
            else:
                shapes = [
                    square,
                    square.resize((16 * square.width, square.height)),
                    square.resize((square.width, 16 * square.height)),
                ]
                inputs = [self._stack([self.process(image)]) for image in (shapes if self.preprocessing == "own" else shapes[:1])]
            is_map = self.model(**inputs[0]).last_hidden_state.ndim == 4
            states, pooled = self._states(inputs[0])
            again, _ = self._states(inputs[0])
            most = max(self._states(one)[0].shape[1] for one in inputs)
        except Exception as error:  # whatever a model raises that takes something else
            raise InputError(
                f"{self._name}: type {self.model.config.model_type!r} does not encode a single image of {self.image_size} x "
                f"{self.image_size} pixels ({type(error).__name__}: {error}); take another checkpoint or --image-preprocessing own"
            ) from error
        if not torch.allclose(states, again, equal_nan=True):
            raise InputError(
                f"{self._name}: type {self.model.config.model_type!r} gives other features each time, as one does that hides "
                "patches at random; take another checkpoint"
            )
        if self._has_cls:
            first = "cls"
        elif pooled is not None:
            first = "leading" if not is_map and torch.equal(pooled, states[:, 0]) else "pooled"
        else:
            first = "mean"
        return first, states.shape[2], most + (first in ("pooled", "mean"))

    def _describe_layer(self) -> str:
        if self.model.config.model_type == "clip_vision_model":
            return "last hidden state, before the final layer norm; CLS, then patches"
        registers = "; registers left out" if self._num_registers else ""
        return f"last hidden state; {FIRST[self._first]}, then patches{registers}"

    def _describe_preprocessing(self) -> str:
        side = self.image_size
        if self.preprocessing == "paper" or self._processor is None:
            return f"RGB, {side}x{side} (bilinear, aspect not kept), [0, 1], mean 0.5, std 0.5"
        kept = ("do_", "size", "crop", "resample", "image_", "rescale", "patch_size", "max_num_patches")
        settings = {key: value for key, value in self._processor.to_dict().items() if key.startswith(kept) and value is not None}
        return f"RGB, the checkpoint's own image processor: {json.dumps(settings, sort_keys=True, default=str)}"


def _patches_of_squares(config: PretrainedConfig) -> Siglip2ImageProcessorPil:
    return Siglip2ImageProcessorPil(
        patch_size=config.patch_size, max_num_patches=config.num_patches, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def _side(model: PreTrainedModel, name: str) -> int:
    """The side of the square that a model was trained with."""
    config = model.config
    size = getattr(config, "image_size", None)
    timm_model = getattr(model, "timm_model", None)
    if timm_model is not None:
        size = timm_model.pretrained_cfg.get("input_size", (DEFAULT_SIDE,))[-1]
    elif size is None and hasattr(config, "num_patches"):
        size = math.isqrt(config.num_patches) * config.patch_size
    sides = {*size} if isinstance(size, list | tuple) else {size or DEFAULT_SIDE}
    if len(sides) > 1:
        raise InputError(f"{name}: was trained with images of {size} pixels, not with squares; take --image-preprocessing own")
    return sides.pop()


def _has_cls(model: PreTrainedModel) -> bool:
    """Whether a CLS token of the model's own goes through its layers, and not through its pooling head alone."""
    names = [name.split(".") for name, _ in model.named_parameters()]
    return any(name[-1] in ("cls_token", "class_embedding") and "head" not in name and "attn_pool" not in name for name in names)


def _count_registers(model: PreTrainedModel) -> int:
    if hasattr(model, "timm_model"):
        return max(0, getattr(model.timm_model, "num_prefix_tokens", 0) - _has_cls(model))
    return getattr(model.config, "num_register_tokens", None) or 0
