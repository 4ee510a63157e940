"""Frozen encoders of texts: every text encoder of `transformers` (paper, Section 3.2: BERT).

Legend: B texts, T tokens, the one that stands for the whole text first, W width.
"""

import inspect
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from odmt.errors import InputError
from odmt.features.checkpoints import Checkpoint, fingerprint
from odmt.features.first_token import put_in_front, to_half
from odmt.features.header import Header

FirstToken = Literal["cls", "mean"]
LowerCase = Literal["auto", "yes", "no"]

MOST_UNKNOWN = 0.1  # share of unknown tokens above which it is said

ANY_LENGTH = 1 << 16  # of encoders without positions that end, such as T5's


@dataclass(frozen=True)
class TextForm:
    """How texts are given to an encoder and what of its output comes first.

    Attributes:
        max_tokens: texts are cut to so many tokens, special ones counted.
        first_token: `cls`, the encoder's own token or pooled output, or `mean`, put in front of the tokens; None: what a sentence
            encoder's own configuration says, else cls where the encoder has one.
        prefix: what stands before every text, such as "query: ".
        lower_case: `auto` lower-cases texts, as the paper does, where the tokenizer makes no difference between A and a.
    """

    max_tokens: int = 30
    first_token: FirstToken | None = None
    prefix: str = ""
    lower_case: LowerCase = "auto"


class UnknownTokens:
    """Counts how many tokens of texts, without special ones, are the tokenizer's unknown one; of bytes there is none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._unknown = tokenizer.unk_token_id
        self._num_tokens = self._num_unknown = 0
        self._example = ""

    def add(self, texts: list[str], tokens: BatchEncoding):
        """Count those of B texts, int64 [B, T] with the mask of special tokens."""
        if self._unknown is None:
            return
        # Its place tells it from a special token: CLIP's unknown token is also the one that ends every text.
        own = tokens["special_tokens_mask"] == 0
        unknown = own & (tokens["input_ids"] == self._unknown)
        self._num_tokens += int(own.sum())
        self._num_unknown += int(unknown.sum())
        if not self._example and unknown.any():
            self._example = texts[int(unknown.any(1).nonzero()[0])]

    def noticeable(self) -> tuple[float, str] | None:
        """The share of unknown tokens and the first text with one; None where they are few."""
        if self._num_unknown <= MOST_UNKNOWN * self._num_tokens:
            return None
        return self._num_unknown / self._num_tokens, self._example


class TextEncoder:
    """Token features of texts: the last hidden state, without padding.

    Args:
        name: checkpoint, a folder or a hub name, with its tokenizer's files; of several towers the one for texts is taken.
        form: how texts are given to it, or only how many of their tokens.
        device: where to compute.

    Attributes:
        unknown: counts what the tokenizer does not know of the texts that have been encoded.
    """

    def __init__(self, name: str, form: TextForm | int, device: torch.device):
        form = form if isinstance(form, TextForm) else TextForm(form)
        checkpoint = Checkpoint(name, "text")
        self.device = device
        self.model = checkpoint.load(device)
        self.tokenizer = checkpoint.load_tokenizer()
        self.unknown = UnknownTokens(self.tokenizer)
        self.lower_case = _is_uncased(self.tokenizer) if form.lower_case == "auto" else form.lower_case == "yes"
        self._name = name
        self._prefix = form.prefix
        self._max_tokens = form.max_tokens
        # SigLIP's towers are trained with texts that are padded to their full length, and see the padding.
        self._full_length = self.model.config.max_position_embeddings if self.model.config.model_type.startswith("siglip") else None
        shortest, longest = self.tokenizer.num_special_tokens_to_add() + 1, _longest(self.model)
        if not shortest <= form.max_tokens <= longest:
            raise InputError(
                f"--max-text-tokens {form.max_tokens}: {name} takes {shortest} to {longest} tokens, special ones counted"
            )
        self._first = self._choose_first(form.first_token or checkpoint.pooling())
        vocabulary = self.tokenizer.get_vocab()
        self.header = Header(
            modality="text",
            encoder=name,
            weights=fingerprint(self.model, "\n".join(sorted(vocabulary, key=vocabulary.get))),
            layer=f"last hidden state; {self._describe_first()} first, padding left out",
            width=self.model.config.hidden_size,
            max_tokens=form.max_tokens + (self._first != "cls"),
            preprocessing=self._describe_preprocessing(),
        )

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Encode B texts, in the case that they are to be in, to as many arrays [T, W]; T differs from text to text."""
        tokens = self._tokenize([self._prefix + text for text in texts])
        self.unknown.add(texts, tokens)
        states, pooled, valid = self._run(tokens)
        lengths = valid.sum(1)
        if self._first != "cls":
            states, _ = put_in_front(pooled if self._first == "pooled" else None, states, valid)
            lengths += 1
        half = to_half(states, self._name)
        return [row[:length] for row, length in zip(half, lengths.tolist())]

    def _tokenize(self, texts: list[str]) -> BatchEncoding:
        return self.tokenizer(
            texts,
            truncation=True,
            max_length=self._max_tokens,
            padding=True,
            return_attention_mask=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )

    def _run(self, tokens: BatchEncoding) -> tuple[Tensor, Tensor | None, Tensor]:
        """The last hidden state [B, T, W], the pooled output where there is one, and which tokens are real, int64 [B, T]."""
        tokens = tokens.to(self.device)
        valid = tokens["attention_mask"]
        if self._full_length is None:
            known = inspect.signature(self.model.forward).parameters
            output = self.model(**{key: values for key, values in tokens.items() if key in known})
        else:
            missing = self._full_length - valid.shape[1]
            output = self.model(input_ids=pad(tokens["input_ids"], (0, missing), value=self.tokenizer.pad_token_id))
        return output.last_hidden_state[:, : valid.shape[1]], getattr(output, "pooler_output", None), valid

    @torch.inference_mode()
    def _choose_first(self, asked: FirstToken | None) -> Literal["cls", "pooled", "mean"]:
        """What stands first: the CLS token that the tokenizer puts there, a tower's pooled output or the mean."""
        if asked == "mean":
            return "mean"
        cls = self.tokenizer.cls_token_id
        if cls is not None and self.tokenizer("a")["input_ids"][0] == cls:
            return "cls"
        _, pooled, _ = self._run(self._tokenize(["a"]))
        if pooled is not None and pooled.shape[-1] == self.model.config.hidden_size:
            return "pooled"
        if asked == "cls":
            raise InputError(
                f"--first-token cls: {self._name}, of type {self.model.config.model_type!r}, puts no CLS token first; take mean"
            )
        return "mean"

    def _describe_first(self) -> str:
        return {"cls": self.tokenizer.cls_token, "pooled": "pooled output", "mean": "mean of the tokens"}[self._first]

    def _describe_preprocessing(self) -> str:
        case = "lower-cased" if self.lower_case else "case kept"
        prefix = f", {self._prefix!r} put before" if self._prefix else ""
        return f"fields joined by one space, {case}{prefix}, cut to {self._max_tokens} tokens"


def _longest(model: PreTrainedModel) -> int:
    """The most tokens of a text: as many as there are positions, of which RoBERTa and its kin leave the first ones to padding."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in ("position_embeddings", "position_embedding"):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return getattr(model.config, "max_position_embeddings", None) or ANY_LENGTH


def _is_uncased(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer makes no difference between capitals and small letters."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return bool(getattr(tokenizer, "do_lower_case", False))
    return backend.normalizer is not None and backend.normalizer.normalize_str("ABC") == "abc"
