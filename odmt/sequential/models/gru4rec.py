"""GRU4Rec (Hidasi et al. 2016) with the settings of RecBole.

Legend: P packed positions, B users, L columns, D width.
"""

from torch import Tensor, nn

from odmt.sequential.models.dropout import Dropout
from odmt.sequential.models.packing import Packing


class GRU4Rec(nn.Module):
    """Dropout on the input, one bias-free GRU layer, a linear back to D.

    Choice: RecBole's dropout of 0.3 stays whatever the pipeline's is.
    """

    def __init__(self, dim: int, hidden_dim: int = 128, dropout: float = 0.3):
        super().__init__()
        self.dropout = Dropout(dropout)
        self.gru = nn.GRU(dim, hidden_dim, bias=False, batch_first=True)
        self.out = nn.Linear(hidden_dim, dim)
        for weight in self.gru.parameters():  # of the input, then of the state
            nn.init.xavier_uniform_(weight)

    def forward(self, rows: Tensor, lengths: Tensor, longest: int) -> Tensor:
        """Item vectors [P, D] of users with `lengths` [B] items -> states [P, D]."""
        # Padding behind a sequence is never seen from within it.
        packing = Packing.right_padded(lengths, len(rows), longest)
        hidden, _ = self.gru(packing.pad(self.dropout(rows)))
        return self.out(packing.pack(hidden))
