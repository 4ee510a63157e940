"""What the official SGFD code was given and what it computed, as the classes of this project take it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from odmt.features.extractors import SgfdExtractor
from odmt.features.sgfd_settings import BM3_COPY, GRCN_COPY, MAML_COPY, SgfdSettings
from odmt.graph.models.official import from_official, official_name

RESPONSE_TOLERANCE = 5e-5  # a small difference of softmaxes has few digits in float32
COPIES = {"bm3": BM3_COPY, "grcn": GRCN_COPY, "maml": MAML_COPY}


@dataclass
class SgfdGolden:
    """What the official code was given (`meta`) and what it computed (`arrays`).

    Attributes:
        host: bm3, grcn or maml.
    """

    host: str
    meta: dict
    arrays: dict[str, Tensor]

    @classmethod
    def load(cls, path: Path) -> "SgfdGolden":
        meta = json.loads(path.read_text())
        title = meta.get("host") or meta["model"]
        host = next(name for name in COPIES if name.upper() in title)
        return cls(host, meta, load_file(path.with_suffix(".safetensors")))

    @cached_property
    def args(self) -> dict:
        return self.meta["args"]

    @property
    def has_sgfd(self) -> bool:
        return any(name.startswith("state.") and "extractor.teachers" in official_name_or_none(name[6:]) for name in self.arrays)

    @cached_property
    def features(self) -> dict[str, Tensor]:
        return {"image": self.arrays["features.image"], "text": self.arrays["features.text"]}

    @cached_property
    def widths(self) -> dict[str, int]:
        return {modality: table.shape[1] for modality, table in self.features.items()}

    @property
    def labels(self) -> Tensor:
        return self.arrays["labels"]

    @property
    def dim(self) -> int:
        return next(self.args[key] for key in ("embedding_size", "dim_E", "embed_dim") if key in self.args)

    @property
    def num_labels(self) -> int:
        return self.args["num_labels"] if "num_labels" in self.args else self.args["labels"]

    def section(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}

    def official_gradients(self) -> dict[str, Tensor]:
        """Gradients of the total by the names of this project, of the parameters that have one."""
        return {ours: tensor for name, tensor in self.section("grad.").items() if (ours := official_name_or_none(name))}

    def state(self, prefix: str = "state.") -> dict[str, Tensor]:
        """Tensors of all parameters by the names of this project."""
        return from_official(self.section(prefix))

    def settings(self) -> SgfdSettings:
        args = self.args
        return replace(
            COPIES[self.host],
            class_weight=args["ce_weight"],
            response_weight=args["kd_weight"],
            feature_weight=args["kd_weight"],
            temperature=args["t_decay"],
            **({"class_outputs": args["modal_labels"]} if "modal_labels" in args else {}),
        )

    def extractor(self) -> SgfdExtractor:
        """The extractor alone, with the initial weights."""
        extractor = SgfdExtractor(self.widths, self.dim, self.num_labels, self.settings())
        state = {official_name_or_none(name): tensor for name, tensor in self.section("state.").items()}
        prefix = "extractor."
        extractor.load_state_dict({name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)})
        return extractor


def official_name_or_none(name: str) -> str:
    try:
        return official_name(name)
    except KeyError:
        return ""


def assert_near(got: Tensor | float | None, expected: Tensor | float, tolerance: float, what: str = ""):
    """||got - expected|| <= tolerance * ||expected||; where that is 0, exactly 0, and no gradient (None) is 0 too."""
    expected = torch.as_tensor(expected).detach().double()
    got = torch.zeros_like(expected) if got is None else torch.as_tensor(got).detach().double()
    assert got.shape == expected.shape, f"{what}: shape {tuple(got.shape)} instead of {tuple(expected.shape)}"
    error, norm = float((got - expected).norm()), float(expected.norm())
    if norm == 0:
        assert error == 0, f"{what}: not exactly 0"
    else:
        assert error <= tolerance * norm, f"{what}: relative error {error / norm:.1e}"


def assert_all_near(got: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float):
    """The same of every tensor; names must be the same."""
    assert sorted(got) == sorted(expected)
    for name, tensor in expected.items():
        assert_near(got[name], tensor, tolerance, name)
