"""The parts that a configuration can name: the one place to add a backbone or an item encoder to.

Settings, help, builder, figures and the tests of the contract take theirs from here. What a part asks of data and training stands
on its class: `reads` (of each modality: all tokens or the CLS token), `stochastic` (whether an item's vector is another one every
time it is encoded in training), `joint` (takes all sources at once, a modality among them) and `learns_categories`.

Legend: N items, W feature width, D width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from odmt.sequential.models.gru4rec import GRU4Rec
from odmt.sequential.models.imt import IdAwareMultimodalTransformer
from odmt.sequential.models.nextitnet import NextItNet
from odmt.sequential.models.sasrec import SASRec
from odmt.sequential.models.sgfd import SgfdSource, SgfdTowers
from odmt.sequential.models.towers import ClsTower, IdEmbedding, MoEAdaptor, PerSource, ProjectedId, TransformerTower, head

if TYPE_CHECKING:  # the settings know the parts' names
    from odmt.sequential.config import ModelConfig


@dataclass(frozen=True)
class Backbone:
    """A sequence backbone.

    Attributes:
        label: its name for readers.
        make: from the settings and the longest sequence L.
    """

    label: str
    make: Callable[["ModelConfig", int], nn.Module]


@dataclass(frozen=True)
class Ingredients:
    """What an item encoder is made of.

    Attributes:
        model: the settings.
        num_items: N.
        widths: W by modality, of those among the sources.
        initial: what a projected ID table starts from [N + 1, W]; None: there is none.
        sgfd: categories and settings of SGFD.
    """

    model: "ModelConfig"
    num_items: int
    widths: Mapping[str, int]
    initial: Tensor | None
    sgfd: SgfdSource | None

    def id_tower(self) -> nn.Module | None:
        """Make the ID's tower, where the ID is a source."""
        if "id" not in self.model.sources:
            return None
        return IdEmbedding(self.num_items, self.model.dim) if self.initial is None else ProjectedId(self.initial, self.model.dim)


@dataclass(frozen=True)
class ItemEncoderPart:
    """An item encoder, or the tower of one modality.

    Attributes:
        label: its name for readers.
        part: the class that says what it asks for; what it does not say is as with a plain module.
        make: the whole encoder.
    """

    label: str
    part: type[nn.Module]
    make: Callable[[Ingredients], nn.Module]

    @property
    def reads(self) -> Literal["tokens", "cls"]:
        """What it reads of each modality."""
        return getattr(self.part, "reads", "cls")

    @property
    def joint(self) -> bool:
        """Whether it takes all sources at once and needs a modality among them."""
        return getattr(self.part, "joint", False)

    @property
    def learns_categories(self) -> bool:
        """Whether it learns from the items' categories."""
        return getattr(self.part, "learns_categories", False)

    def is_stochastic(self, dropout: float) -> bool:
        """Whether an item's vector is another one every time that it is encoded in training, at this rate of dropout."""
        stochastic = getattr(self.part, "stochastic", None)
        return False if stochastic is None else stochastic(dropout)


def per_modality(tower: Callable[["ModelConfig", int], nn.Module]) -> Callable[[Ingredients], nn.Module]:
    """Make an encoder of towers, one a modality from the settings and the feature's width, beside the ID's."""

    def make(of: Ingredients) -> nn.Module:
        towers = {modality: tower(of.model, width) for modality, width in of.widths.items()}
        ids = of.id_tower()
        return PerSource(towers if ids is None else {"id": ids, **towers})

    return make


def _imt(of: Ingredients) -> nn.Module:
    model = of.model
    visible = bool(model.id_visible_to_modalities)
    return IdAwareMultimodalTransformer(dict(of.widths), model.dim, model.num_layers, of.initial, visible, model.dropout)


def _transformer(model: "ModelConfig", width: int) -> nn.Module:
    return TransformerTower(width, model.dim, model.num_layers, model.dropout)


def _moe(model: "ModelConfig", width: int) -> nn.Module:
    return ClsTower(MoEAdaptor(width, model.dim, dropout=model.dropout))


def _sgfd(of: Ingredients) -> nn.Module:
    assert of.sgfd is not None, "SGFD's students learn from categories"
    return SgfdTowers(of.widths, of.model.dim, of.sgfd, of.id_tower())


def _sasrec(model: "ModelConfig", max_seq_len: int) -> nn.Module:
    return SASRec(model.dim, max_seq_len, model.backbone_layers, model.backbone_heads, model.dropout)


ITEM_ENCODERS = {
    "imt": ItemEncoderPart("IMT", IdAwareMultimodalTransformer, _imt),
    "transformer": ItemEncoderPart("TRM+DNNs", TransformerTower, per_modality(_transformer)),
    "dnn": ItemEncoderPart("DNNs", ClsTower, per_modality(lambda model, width: ClsTower(head(width, model.dim)))),
    "moe": ItemEncoderPart("MoE adaptor", MoEAdaptor, per_modality(_moe)),
    "sgfd": ItemEncoderPart("SGFD", SgfdTowers, _sgfd),
}

BACKBONES = {
    "sasrec": Backbone("SASRec", _sasrec),
    "gru4rec": Backbone("GRU4Rec", lambda model, max_seq_len: GRU4Rec(model.dim)),
    "nextitnet": Backbone("NextItNet", lambda model, max_seq_len: NextItNet(model.dim)),
}
