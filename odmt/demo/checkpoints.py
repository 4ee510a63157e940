"""Small CLIP and BERT checkpoints with fixed random weights, in Hugging Face's format like the real ones.

A random Transformer mixes what it is shown without learning from it: colour, shape and words are still in its outputs.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

import torch
from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel, PretrainedConfig, PreTrainedModel

from odmt.features.checkpoints import quiet

WIDTH = 64  # of both, so that an ID can start from the mean of the two


class Sizes(TypedDict):
    """What both encoders have in common, as the library calls it."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int


SIZES: Sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def save_clip(folder: Path):
    """Write a CLIP vision tower that sees 4 x 4 patches of 16 pixels."""
    _save(CLIPVisionModel, CLIPVisionConfig(**SIZES, image_size=64, patch_size=16), folder)


def save_bert(folder: Path, texts: Iterable[str]):
    """Write a BERT and the vocabulary of its tokenizer: every word of the texts, which are lower-case."""
    vocabulary = [*SPECIAL_TOKENS, *sorted({word for text in texts for word in text.split()})]
    # Weights as small as BERT's own start, 0.02, would tell [CLS] next to nothing of the words.
    config = BertConfig(**SIZES, vocab_size=len(vocabulary), max_position_embeddings=32, initializer_range=0.1)
    _save(BertModel, config, folder)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in vocabulary), encoding="utf-8")


def _save(model: type[PreTrainedModel], config: PretrainedConfig, folder: Path):
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(1)
        model(config).save_pretrained(folder)
