"""Parameters of the official BM3, GRCN and MAML, plain and with SGFD, in the names of this project."""

import re

from torch import Tensor

_EXTRACTOR = r"([vt])_(?:feature_extractor|gcn\.feature_extractor_model)"
# Official name -> name here; v and t are image and text.
_RULES = [
    # SGFD's extractor: in BM3 and GRCN
    (rf"{_EXTRACTOR}\.category_classification\.(\w+)", "extractor.classifiers.{0}.{1}"),
    (rf"{_EXTRACTOR}\.teacher_model\.transfer_multilayer\.(\d+)\.(\w+)", "extractor.teachers.{0}.{1}.{2}"),
    (rf"{_EXTRACTOR}\.student_model\.MLP\.(\w+)", "extractor.students.{0}.{1}"),
    (r"feature_fusion_model\.feature_transfer_layer\.(\w+)", "extractor.fusion.0.{0}"),
    (r"feature_fusion_model\.category_classification\.(\w+)", "extractor.fusion.2.{0}"),
    # the same in MAML, whose variables have no names of their own: those of the goldens
    (r"classifier\.(\w+)", "extractor.classifiers.shared.{0}"),
    (r"(image|text)\.teacher\.(\d+)\.(\w+)", "extractor.teachers.{0}.{1}.{2}"),
    (r"(image|text)\.student\.(\w+)", "extractor.students.{0}.{1}"),
    (r"fusion\.0\.(\w+)", "extractor.fusion.0.{0}"),
    (r"fusion\.1\.(\w+)", "extractor.fusion.2.{0}"),
    # BM3
    (r"user_embedding\.weight", "user_embedding.weight"),
    (r"item_id_embedding\.weight", "item_embedding.weight"),
    (r"predictor\.(\w+)", "predictor.{0}"),
    (r"(image|text)_embedding\.weight", "content.features.{0}"),
    (r"(image|text)_trs\.(\w+)", "extractor.projections.{0}.{1}"),
    # GRCN
    (r"id_gcn\.id_embedding", "id_embedding"),
    (r"([vt])_gcn\.preference", "preferences.{0}"),
    (r"model_specific_conf", "confidence"),
    (r"([vt])_gcn\.MLP\.(\w+)", "extractor.projections.{0}.{1}"),
    # MAML
    (r"(item_embedding|(?:projection|attention)\.\d)\.(\w+)", "{0}.{1}"),
]
_MODALITY = {"v": "image", "t": "text"}


def official_name(name: str) -> str:
    """Translate an official parameter's name.

    Raises:
        KeyError: it belongs to none of the hosts.
    """
    for pattern, target in _RULES:
        if match := re.fullmatch(pattern, name):
            return target.format(*(_MODALITY.get(group, group) for group in match.groups()))
    raise KeyError(name)


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename an official state dict."""
    return {official_name(name): tensor for name, tensor in state.items()}
