"""Models side by side whose scores are averaged (deep ensembles, Lakshminarayanan et al. 2017).

Members begin at other weights and share nothing but the batches. Each has one vector an item, a backbone and a loss of its own;
what one has learnt by chance, the mean of their scores leaves out.

Legend: M items, V vectors, D width.
"""

from collections.abc import Callable

from torch import Tensor, nn

from odmt.features.items import Items
from odmt.sequential.models.towers import ItemEncoder, encode_new, losses_of


def member_names(ensemble: int) -> list[str]:
    """Names of the members among the sources; one alone is the fused score itself."""
    return ["fused"] if ensemble == 1 else [f"fused{number}" for number in range(1, ensemble + 1)]


class ItemEnsemble(ItemEncoder):
    """The item encoders of the members, each of one vector an item, `fused`."""

    def __init__(self, members: list[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, items: Items) -> dict[str, Tensor]:
        """Encode M items; returns [V, D] as `fused1`, `fused2` and so on."""
        return self._each(lambda member: member(items))

    def encode_new(self, items: Items) -> dict[str, Tensor]:
        """What each member makes of items without an ID."""
        return self._each(lambda member: encode_new(member, items))

    def losses(self, items: Items) -> dict[str, Tensor]:
        """Those of the members."""
        return self._each(lambda member: losses_of(member, items))

    def _each(self, of: Callable[[nn.Module], dict[str, Tensor]]) -> dict[str, Tensor]:
        found = enumerate(map(of, self.members), 1)
        return {f"{name}{number}": tensor for number, of_member in found for name, tensor in of_member.items()}
