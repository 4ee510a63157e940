"""From the settings of a run to a model, of the hosts in `odmt.graph.hosts`."""

from collections.abc import Mapping

from torch import Tensor

from odmt.features.labels import Labels
from odmt.graph.config import Config
from odmt.graph.hosts import HOSTS, Ingredients
from odmt.graph.models.host import Host
from odmt.graph.pairs import Pairs


def build_model(config: Config, pairs: Pairs, features: Mapping[str, Tensor], labels: Labels | None) -> Host:
    """Build the model that the configuration describes.

    Args:
        config: what to build.
        pairs: of users and items.
        features: raw features [N, W] by modality, in the order of `config.model.modalities`.
        labels: categories of the items; None: they are not learnt.
    """
    return HOSTS[config.model.host].make(Ingredients(config, pairs, features, labels))
