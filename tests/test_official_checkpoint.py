"""`epoch-N.pt` as the official code saves it loads into this model, and nothing in such a file is ever run."""

import os
import pickle

import numpy as np
import pytest
import torch
from goldens import SOURCES

from odmt.distributed import World
from odmt.errors import InputError
from odmt.precision import Precision
from odmt.ranking import OUT_OF_REACH
from odmt.sequential.models.official import load_official
from odmt.sequential.scoring import encode_catalogue, rank_targets

WORLD, PRECISION = World(0, 1, torch.device("cpu")), Precision("cpu", torch.float32)


@pytest.fixture
def checkpoint(golden, tmp_path):
    """Write the golden's weights with an optimizer after a step, RNG states and loss scaling; returns the path."""

    def write(prefix: str = "", zipped: bool = True):
        state = {name: tensor.clone() for name, tensor in golden.section("state.").items()}
        parameters = [torch.nn.Parameter(tensor) for tensor in state.values() if tensor.is_floating_point()]
        optimizer = torch.optim.AdamW([{"params": parameters, "lr": 1e-4, "weight_decay": 0.1}])
        sum(parameter.square().sum() for parameter in parameters).backward()
        optimizer.step()
        content = {
            "model_state_dict": {prefix + name: tensor for name, tensor in golden.section("state.").items()},
            "optimizer": optimizer.state_dict(),
            "rng_state": torch.get_rng_state(),
            "cuda_rng_state": torch.get_rng_state(),
            "scaler_state": torch.amp.GradScaler("cpu").state_dict(),
        }
        path = tmp_path / "epoch-7.pt"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        return path

    return write


@pytest.mark.parametrize(("prefix", "zipped"), [("", True), ("module.", True), ("", False)])
def test_every_weight_is_loaded(golden, checkpoint, prefix, zipped):
    """Also as saved from under DistributedDataParallel, and by an old PyTorch."""
    model = golden.untrained_model()
    model.load_state_dict(load_official(checkpoint(prefix, zipped)))
    for name, tensor in golden.model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_ranks_are_those_of_the_official_model(golden, checkpoint):
    model, interactions = golden.untrained_model(), golden.interactions
    model.load_state_dict(load_official(checkpoint()))
    catalogue = encode_catalogue(model, golden.tables, interactions.num_items, WORLD, PRECISION)
    ranks = rank_targets(model, catalogue, interactions, "test", WORLD)
    for source in ("fused", *SOURCES):
        reachable = ranks[source] != OUT_OF_REACH
        expected = golden.arrays[f"eval.test.{source}"][:, 0].numpy()
        np.testing.assert_array_equal(ranks[source][reachable], expected[reachable])
        assert reachable.sum() > len(reachable) / 2


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_hostile_files_are_refused_and_not_run(tmp_path):
    trap, plain, path = tmp_path / "trap", tmp_path / "plain.pkl", tmp_path / "epoch-7.pt"
    torch.save({"model_state_dict": {}, "optimizer": Hostile(trap)}, path)
    plain.write_bytes(pickle.dumps({"model_state_dict": Hostile(trap)}, protocol=2))
    for file in (path, plain):
        with pytest.raises(InputError, match=f"{file.name}: no checkpoint of the official code"):
            load_official(file)
    assert not trap.exists()
    pickle.loads(plain.read_bytes())
    assert trap.exists(), "the trap does not work"


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.pt: no such checkpoint"):
        load_official(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("text.pt", "other.pt", "list.pt"):
        with pytest.raises(InputError, match=rf"{name}: no checkpoint of the official code, a dict with model_state_dict"):
            load_official(tmp_path / name)
