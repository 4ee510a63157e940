"""Small CLIP and BERT checkpoints with fixed random weights, in Hugging Face's format."""

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def write_clip(folder: Path, width: int = 16, image_size: int = 32, patch_size: int = 16, seed: int = 0) -> Path:
    """Both towers of a CLIP, as in the hub's checkpoints."""
    tower = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**tower, image_size=image_size, patch_size=patch_size)
    text = CLIPTextConfig(**tower, vocab_size=50, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(seed)
    CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict())).save_pretrained(folder)
    return folder


def write_bert(folder: Path, width: int = 16, words: tuple[str, ...] = ("a", "red", "blue", "shirt"), seed: int = 0) -> Path:
    """A BERT whose vocabulary is some words and, for all others, single letters."""
    vocabulary = list(dict.fromkeys([*SPECIAL, *words, *LETTERS, *(f"##{letter}" for letter in LETTERS)]))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    torch.manual_seed(seed)
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return folder
