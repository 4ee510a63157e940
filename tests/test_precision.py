"""In which types a run computes and ranks."""

import torch
from torch import nn

from odmt.features.items import Items
from odmt.precision import Precision, in_full_precision
from odmt.sequential.scoring import encode_block

CPU = torch.device("cpu")


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.linear = nn.Embedding(9, 16), nn.Linear(16, 16)

    def encode_items(self, items: Items) -> dict[str, torch.Tensor]:
        return {"id": self.linear(self.table(items.numbers))}


def test_float32_is_float32():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    assert Precision.choose("auto", CPU).dtype == torch.float32
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_vectors_that_are_ranked_are_those_of_the_runs_type():
    items, encoder = Items(torch.arange(9), {}), Encoder()
    rounded = encode_block(encoder.encode_items, items, Precision.choose("bf16", CPU))["id"]
    exact = encode_block(encoder.encode_items, items, Precision.choose("fp32", CPU))["id"]
    assert rounded.dtype == exact.dtype == torch.float32
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert not torch.equal(exact, exact.bfloat16().float())
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02)


def test_what_is_to_be_exact_is_so_within_a_run_of_another_type():
    left = torch.randn(4, 4)
    with Precision.choose("bf16", CPU).autocast():
        assert (left @ left).dtype == torch.bfloat16
        with in_full_precision(CPU):
            assert (left @ left).dtype == torch.float32
    with in_full_precision(torch.device("meta")):
        assert (left.to("meta") @ left.to("meta")).dtype == torch.float32
