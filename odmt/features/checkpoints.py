"""Checkpoints in Hugging Face's format: what kind of model they hold, and loading it whole or not at all.

A checkpoint of several towers, such as CLIP's, gives the tower that is asked for. The model's class follows from the checkpoint's
own type, never the other way round, so no weights are put into a model of another kind.
"""

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypedDict

import huggingface_hub.constants
import torch
import transformers
import xxhash
from huggingface_hub.utils import get_session
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    Siglip2TextModel,
    SiglipTextModel,
)
from transformers.models.auto import modeling_auto
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from odmt.errors import InputError, first_line

KINDS = {
    "image": (
        "vision model, such as CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3, ViT, BEiT, Swin, ConvNeXt, ResNet, EfficientNet or timm"
    ),
    "text": (
        "text encoder, such as BERT, RoBERTa, XLM-R, DistilBERT, MPNet, ModernBERT, DeBERTa, sentence encoders of these kinds (E5, "
        "BGE, GTE), T5's encoder or the text tower of CLIP or SigLIP"
    ),
}
TOWERS = {"siglip_text_model": SiglipTextModel, "siglip2_text_model": Siglip2TextModel}  # which AutoModel does not know
USUAL = {"image": "CLIPVisionModel", "text": "BertModel"}
REACH_S = 5.0  # seconds to wait for the hub before only its cache is looked into


class _Source(TypedDict, total=False):
    """Where the library is to look for a checkpoint's files."""

    local_files_only: bool
    subfolder: str


class _Parts(TypedDict, total=False):
    """Parts of a model that may be left out."""

    add_pooling_layer: bool


class Checkpoint:
    """A checkpoint and the tower of it that encodes one modality.

    Attributes:
        name: a folder or a hub name.
        config: of the tower.

    Raises:
        InputError: no checkpoint, or one of another kind; the message names the type that was found and those that would do.
    """

    def __init__(self, name: str, modality: Literal["image", "text"]):
        self.name = name
        self.modality = modality
        _check_path(name)
        is_folder = Path(name).is_dir()
        self._reached = is_folder or _reach_hub()
        # Without network the library would try again and again for half a minute.
        self._options: _Source = {} if self._reached else {"local_files_only": True}
        self._modules = self._read_modules()
        if folder := self._module_path("Transformer"):
            self._options["subfolder"] = folder
        with self._explained("config.json is missing or broken"):
            whole = AutoConfig.from_pretrained(name, **self._options)
        self._check_architecture(whole)
        tower = getattr(whole, "vision_config" if modality == "image" else "text_config", None)
        self.config: PretrainedConfig = whole if tower is None else tower
        self._class = self._find_class(whole)

    def load(self, device: torch.device) -> PreTrainedModel:
        """Load the frozen model in float32; one that the checkpoint leaves any weights of at random is refused."""
        # The poolers of BERT and its kin are not asked for, and many a checkpoint has none.
        has_pooler = "add_pooling_layer" in inspect.signature(self._class).parameters
        without_pooler: _Parts = {"add_pooling_layer": False}
        model, missing = self._load(without_pooler if has_pooler and self.modality == "text" else {})
        if has_pooler and missing and all(key.startswith("pooler.") for key in missing):
            model, missing = self._load(without_pooler)
        if missing:
            raise InputError(
                f"{self.name}: no checkpoint of {self._class.__name__}: {len(missing)} weights are not in it, "
                f"{missing[0]} the first"
            )
        # The library's own `to` refuses quantized models besides, which these are not, and says nothing of what it takes.
        return nn.Module.to(model.eval().requires_grad_(False), device)

    def load_tokenizer(self):
        """Load the tokenizer that the checkpoint was trained with."""
        with self._explained("no tokenizer: vocab.txt or tokenizer.json is missing or broken", "no tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(self.name, **self._options)
        # Without its files the library makes a tokenizer that knows the special tokens and nothing else.
        vocab_size = self.config.vocab_size
        if not len(tokenizer.all_special_ids) < len(tokenizer) <= vocab_size:
            raise InputError(
                f"{self.name}: the tokenizer has {len(tokenizer)} tokens, the model {vocab_size}; "
                "the folder needs the vocab.txt or tokenizer.json that the checkpoint was trained with"
            )
        tokenizer.padding_side = "right"
        return tokenizer

    def load_image_processor(self):
        """Load the checkpoint's own pre-processing of images, in its form that computes with Pillow where there is one."""
        with self._explained(
            "no image processor: preprocessor_config.json is missing or broken, or a library that it needs; take "
            "--image-preprocessing paper",
            "no image processor",
        ):
            return AutoImageProcessor.from_pretrained(self.name, backend="pil", **self._options)

    def pooling(self) -> Literal["cls", "mean"] | None:
        """What a sentence encoder's own configuration says that a text's vector is; None where it says nothing.

        Raises:
            InputError: it says something else.
        """
        folder = self._module_path("Pooling")
        settings = folder and self._read_json(f"{folder}/config.json")
        if not settings:
            return None
        flags = [key.removeprefix("pooling_mode_") for key, value in settings.items() if key.startswith("pooling_mode_") and value]
        modes = {"cls_token": "cls", "mean_tokens": "mean"}
        found = [modes.get(flag, flag) for flag in flags] or [settings.get("pooling_mode", "mean")]
        if found not in (["cls"], ["mean"]):
            raise InputError(
                f"{self.name}: pools a text's tokens by {' and '.join(map(str, found))}, neither cls nor mean; say which of "
                "the two is to stand first: --first-token cls or --first-token mean"
            )
        return found[0]

    def _check_architecture(self, whole: PretrainedConfig):
        """Refuse weights that are named as another model's than the type says: the names in both may be the same."""
        for name in whole.architectures or ():
            saved = getattr(getattr(transformers, name, None), "config_class", None)
            if saved and not (isinstance(whole, saved) or issubclass(saved, type(whole))):
                raise InputError(
                    f"{self.name}: config.json says model_type {whole.model_type!r}, but architectures that it holds a {name}, "
                    f"whose type is {saved.model_type!r}; correct the one that is wrong"
                )

    def _find_class(self, whole: PretrainedConfig) -> type[PreTrainedModel]:
        """The class that the type stands for: of T5 and its kin the encoder alone."""
        mapping = modeling_auto.MODEL_MAPPING
        if self.modality == "text" and type(self.config) in modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING:
            mapping = modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING
        found = TOWERS.get(self.config.model_type) or mapping.get(type(self.config), None)
        # Funnel has two classes, which both pool neighbouring tokens: what they make of a text depends on those beside it.
        if isinstance(found, type) and issubclass(found, PreTrainedModel) and self._encodes(found):
            return found
        raise InputError(
            f"{self.name}: no checkpoint of {USUAL[self.modality]} or another {self.modality} encoder but of type "
            f"{whole.model_type!r}; needed: a {KINDS[self.modality]}"
        )

    def _encodes(self, found: type[PreTrainedModel]) -> bool:
        """Whether a class, by what it takes and by the library's lists of such models, is of the kind that is asked for."""
        kind = self.config.model_type
        takes = inspect.signature(found.forward).parameters
        if self.modality == "image":
            kinds = {*modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, *modeling_auto.MODEL_FOR_IMAGE_MAPPING_NAMES}
            return "pixel_values" in takes and "input_ids" not in takes and (kind in kinds or "vision" in kind)
        encoders = {*modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, *modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES}
        generators = {*modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES} - {*modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES}
        has_decoder = "decoder_input_ids" in takes
        known = kind in encoders - generators or kind.endswith("_text_model")
        return "input_ids" in takes and "pixel_values" not in takes and not has_decoder and known

    def _load(self, parts: _Parts) -> tuple[PreTrainedModel, list[str]]:
        with self._explained("model.safetensors is missing or broken"), quiet():
            loaded = self._class.from_pretrained(
                self.name, config=self.config, dtype=torch.float32, output_loading_info=True, **self._options, **parts
            )
        assert isinstance(loaded, tuple)  # with its loading info, which the library's annotation leaves out
        model, report = loaded
        return model, sorted(report["missing_keys"])

    @contextmanager
    def _explained(self, trouble: str, what: str | None = None) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # what the library raises depends on which of a checkpoint's files is missing or broken
            if isinstance(error, ImportError):
                raise InputError(f"{self.name}: needs a library that is not installed: {' '.join(str(error).split())}") from error
            what = what or f"no checkpoint of {USUAL[self.modality]} or another {self.modality} encoder"
            demo = f"data/demo/encoders/{'clip' if self.modality == 'image' else 'bert'}"
            unreached = f". The hub cannot be reached from here: give a folder; for a trial {demo}, which scripts/demo.py makes"
            if inside := sorted(str(path.parent) for path in Path(self.name).glob("*/config.json")):
                raise InputError(f"{self.name}: {what}, but holds some: name {' or '.join(inside)}") from error
            raise InputError(
                f"{self.name}: {what}: neither a folder with its files ({trouble}) nor a name that the Hugging Face hub gives, or "
                f"its cache when there is no network{'' if self._reached else unreached}. "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error

    def _read_modules(self) -> list[dict]:
        """The parts of a sentence encoder, as sentence-transformers lists them."""
        return self._read_json("modules.json") or []

    def _module_path(self, kind: str) -> str:
        found = [module["path"] for module in self._modules if module["type"].rpartition(".")[2] == kind]
        return found[0] if found else ""

    def _read_json(self, file: str):
        options = {key: value for key, value in self._options.items() if key == "local_files_only"}
        try:
            path = cached_file(self.name, file, _raise_exceptions_for_missing_entries=False, **options)
            return json.loads(Path(path).read_text(encoding="utf-8")) if path else None
        except OSError:  # not in the cache, or no such name, which config.json will tell
            return None
        except ValueError as error:
            raise InputError(f"{self.name}/{file}: not JSON ({error}); copy the checkpoint again") from error


def fingerprint(model: nn.Module, vocabulary: str = "") -> str:
    """A hash of a model's weights and vocabulary."""
    # The values alone: the names of the weights change with the library's version.
    digest = xxhash.xxh3_64(vocabulary.encode())
    for _, weight in sorted(model.state_dict().items()):
        digest.update(weight.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _check_path(name: str):
    """Refuse a path where there is no folder without asking the hub, whose names have one slash at most."""
    path = Path(name)
    if path.is_file():
        raise InputError(f"{path}: a file; name the folder of the checkpoint, such as {path.parent}")
    if (name.startswith((".", "/", "~")) or len(path.parts) > 2) and not path.is_dir():
        beside = sorted(each.name for each in path.parent.glob("*/")) if path.parent.is_dir() else []
        there = f"; beside it there are {', '.join(beside[:5])}" if beside else ""
        demo = "; scripts/demo.py makes it" if path.is_relative_to("data/demo/encoders") else ""
        raise InputError(f"{path}: no such folder{there}{demo}")


def _reach_hub() -> bool:
    """Ask the hub for a sign of life, once."""
    try:
        get_session().head(huggingface_hub.constants.ENDPOINT, timeout=REACH_S)
    except Exception:  # which one depends on the library below the hub's, and on what is between
        return False
    return True


@contextmanager
def quiet() -> Iterator[None]:
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
