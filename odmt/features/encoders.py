"""The frozen encoders of images and texts (paper, Section 3.2): CLIP's vision tower and BERT, as Hugging Face implements them.

They compute in float32, whatever the checkpoint's own type, and give float16.

Deviation: the paper writes the image's CLS token last; here it is first, as CLIP and the official code have it.
Legend: B items of a batch, S side of an image, T tokens, the CLS token first, W width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import xxhash
from torch import Tensor
from transformers import AutoTokenizer, BertModel, CLIPVisionModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from odmt.errors import InputError
from odmt.features.store import Header


class ImageEncoder:
    """Patch features of images: the last layer of CLIP's vision tower, before its final layer norm.

    Args:
        name: checkpoint, a folder or a hub name; one with CLIP's text tower will do.
        device: where to compute.
    """

    def __init__(self, name: str, device: torch.device):
        self.device = device
        self.model = _load_model(CLIPVisionModel, name).to(device)
        config = self.model.config
        self.image_size = config.image_size
        self.header = Header(
            modality="image",
            encoder=name,
            weights=_fingerprint(self.model),
            layer="last hidden state, before the final layer norm; CLS, then patches",
            width=config.hidden_size,
            max_tokens=1 + (config.image_size // config.patch_size) ** 2,
            preprocessing=f"RGB, {self.image_size}x{self.image_size} (bilinear, aspect not kept), [0, 1], mean 0.5, std 0.5",
        )

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> list[np.ndarray]:
        """Encode pixels [B, S, S, 3] (uint8) to B arrays [T, W]."""
        scaled = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
        # Not CLIP's own mean and std, as in the official code. The last hidden state is what goes into the final layer norm,
        # which CLIP applies to its pooled output alone.
        states = self.model(pixel_values=(scaled - 0.5) / 0.5).last_hidden_state
        return list(_to_half(states, self.header))


class TextEncoder:
    """Token features of texts: BERT's last hidden layer, without padding.

    Args:
        name: checkpoint, a folder or a hub name, with its tokenizer's files.
        max_tokens: texts are cut to so many tokens, [CLS] and [SEP] counted.
        device: where to compute.
    """

    def __init__(self, name: str, max_tokens: int, device: torch.device):
        self.device = device
        self.model = _load_model(BertModel, name, add_pooling_layer=False).to(device)
        self.tokenizer = _load_tokenizer(name, self.model.config.vocab_size)
        longest = self.model.config.max_position_embeddings
        if not 3 <= max_tokens <= longest:
            raise InputError(f"--max-text-tokens {max_tokens}: {name} takes 3 to {longest} tokens, [CLS] and [SEP] counted")
        vocabulary = self.tokenizer.get_vocab()
        self.header = Header(
            modality="text",
            encoder=name,
            weights=_fingerprint(self.model, "\n".join(sorted(vocabulary, key=vocabulary.get))),
            layer="last hidden state; [CLS] first, padding left out",
            width=self.model.config.hidden_size,
            max_tokens=max_tokens,
            preprocessing=f"fields joined by one space, lower-cased, cut to {max_tokens} tokens",
        )

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Encode B texts to as many arrays [T, W]; T differs from text to text."""
        tokens = self.tokenizer(texts, truncation=True, max_length=self.header.max_tokens, padding=True, return_tensors="pt")
        states = self.model(**tokens.to(self.device)).last_hidden_state  # [B, longest T, W]
        lengths = tokens["attention_mask"].sum(1).tolist()
        return [row[:length] for row, length in zip(_to_half(states, self.header), lengths)]


def _load_model(kind: type[PreTrainedModel], name: str, **options) -> PreTrainedModel:
    """Load a frozen model; a checkpoint that leaves any of its weights at random is refused."""
    try:
        with _quiet():
            model, report = kind.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **options)
    except Exception as error:  # what the library raises depends on which of a checkpoint's files is missing or broken
        raise InputError(
            f"{name}: no checkpoint of {kind.__name__}: neither a folder with config.json and model.safetensors nor a name that "
            f"the Hugging Face hub gives, or its cache when there is no network. {type(error).__name__}: {error}"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{name}: no checkpoint of {kind.__name__}: {len(missing)} weights are not in it, {missing[0]} the first")
    return model.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library from reporting weights that are not asked for: those of CLIP's text tower, of BERT's pooler."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _load_tokenizer(name: str, vocab_size: int):
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # as above
        raise InputError(f"{name}: no tokenizer: vocab.txt or tokenizer.json is missing or broken ({error})") from error
    # Without its files the library makes a tokenizer that knows the special tokens and nothing else.
    if not len(tokenizer.all_special_ids) < len(tokenizer) <= vocab_size:
        raise InputError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, the model {vocab_size}; "
            "the folder needs the vocab.txt or tokenizer.json that the checkpoint was trained with"
        )
    return tokenizer


def _fingerprint(model: PreTrainedModel, vocabulary: str = "") -> str:
    # The values alone: the names of the weights change with the library's version.
    digest = xxhash.xxh3_64(vocabulary.encode())
    for _, weight in sorted(model.state_dict().items()):
        digest.update(weight.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _to_half(states: Tensor, header: Header) -> np.ndarray:
    half = states.half()
    if not half.isfinite().all():
        raise InputError(
            f"{header.encoder}: yields features that are not finite in float16; the checkpoint is broken or not for this"
        )
    return half.cpu().numpy()
