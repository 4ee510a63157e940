"""Sequence backbones and the MoE adaptor against RecBole's and UniSRec's numbers, which are stored as goldens."""

import pytest
import torch
from safetensors.torch import load_file

from odmt.sequential.models.gru4rec import GRU4Rec
from odmt.sequential.models.nextitnet import NextItNet
from odmt.sequential.models.packing import Packing
from odmt.sequential.models.sasrec import SASRec
from odmt.sequential.models.towers import MoEAdaptor

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden(golden_dir) -> dict[str, torch.Tensor]:
    return load_file(golden_dir / "backbones.safetensors")


def states_at_valid(backbone, golden: dict[str, torch.Tensor], extra: int = 0) -> torch.Tensor:
    """States on the golden's left-padded grid, zero where it is padded; the backbone's own grid is `extra` columns wider."""
    valid = golden["valid"].bool()
    lengths = valid.sum(1)
    packing = Packing.left_padded(lengths, int(lengths.sum()), valid.shape[1])
    assert torch.equal(packing.valid(), valid)
    with torch.no_grad():
        return packing.pad(backbone.eval()(packing.pack(golden["input"]), lengths, int(lengths.max()) + extra))


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def section(golden: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in golden.items() if name.startswith(prefix)}


def gru4rec(golden) -> GRU4Rec:
    weights = section(golden, "gru4rec.")
    backbone = GRU4Rec(golden["input"].shape[-1], hidden_dim=weights["dense.weight"].shape[1])
    names = {"gru.weight_ih_l0": "gru.weight_ih_l0", "gru.weight_hh_l0": "gru.weight_hh_l0"}
    names |= {f"dense.{part}": f"out.{part}" for part in ("weight", "bias")}
    backbone.load_state_dict({names[name]: tensor for name, tensor in weights.items() if name in names})
    return backbone


def nextitnet(golden) -> NextItNet:
    backbone = NextItNet(golden["input"].shape[-1])
    state = {}
    for name, tensor in section(golden, "nextitnet.").items():
        if name != "states_at_valid":
            # RecBole convolves images of height 1.
            name = name.replace(".ln", ".norm").replace("final.", "out.")
            state[name] = tensor.squeeze(2) if tensor.dim() == 4 else tensor
    backbone.load_state_dict(state)
    return backbone


BACKBONES = {"gru4rec": gru4rec, "nextitnet": nextitnet}


@pytest.mark.parametrize("name", BACKBONES)
def test_states_are_recboles(golden, name):
    states = states_at_valid(BACKBONES[name](golden), golden)
    assert relative_error(states, golden[f"{name}.states_at_valid"]) < TOLERANCE


@pytest.mark.parametrize("name", ["sasrec", *BACKBONES])
def test_states_do_not_depend_on_padding(golden, name):
    torch.manual_seed(0)
    dim, width = golden["input"].shape[-1], golden["input"].shape[1]
    backbone = SASRec(dim, width + 7) if name == "sasrec" else BACKBONES[name](golden)
    narrow = states_at_valid(backbone, golden)
    assert narrow.abs().sum() > 0
    assert relative_error(states_at_valid(backbone, golden, extra=7), narrow) < TOLERANCE


def test_adaptor_is_unisrecs(golden):
    weights = section(golden, "moe_adaptor.")
    experts = range(sum(name.endswith("lin.weight") for name in weights))
    dim, width = weights["experts.0.lin.weight"].shape
    adaptor = MoEAdaptor(width, dim, num_experts=len(experts))
    adaptor.load_state_dict(
        {
            "shift": torch.stack([weights[f"experts.{expert}.bias"] for expert in experts]),
            "weight": torch.stack([weights[f"experts.{expert}.lin.weight"] for expert in experts]),
            "gate": weights["w_gate"],
            "noise": weights["w_noise"],
        }
    )
    with torch.no_grad():
        assert relative_error(adaptor.eval()(weights["input"]), weights["output"]) < TOLERANCE
        noisy = adaptor.train()(weights["input"])
    assert relative_error(noisy, weights["output"]) > 1e-3


def test_settings_are_recboles():
    """GRU4Rec.yaml and NextItNet.yaml of RecBole, embedding width apart."""
    backbone = GRU4Rec(64)
    assert (backbone.gru.hidden_size, backbone.gru.num_layers, backbone.gru.bias, backbone.dropout.p) == (128, 1, False, 0.3)
    backbone = NextItNet(64)
    convolutions = [conv for block in backbone.blocks for conv in (block.conv1, block.conv2)]
    assert [conv.dilation[0] for conv in convolutions] == [1, 2, 4, 8] * 5
    assert {conv.kernel_size[0] for conv in convolutions} == {3}
    assert torch.equal(backbone.out.bias, torch.full((64,), 0.1))
