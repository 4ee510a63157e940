"""The model, its losses and its evaluation against the numbers of the official implementation, stored as goldens.

`pytest tests/test_official_parity.py --golden-dir DIR` takes the goldens of another folder; sizes and arguments are theirs.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import SOURCES, Golden
from torch import Tensor

from odmt.distributed import World
from odmt.optimizer import SparseGradAdamW, clip_norm
from odmt.precision import Precision
from odmt.ranking import OUT_OF_REACH
from odmt.sequential.config import ModelConfig
from odmt.sequential.interactions import Interactions
from odmt.sequential.losses import candidates_of_rows, in_batch_logits
from odmt.sequential.models.builder import initial_id_table
from odmt.sequential.models.official import official_name
from odmt.sequential.models.recommender import Recommender
from odmt.sequential.scoring import encode_catalogue, rank_targets

TOLERANCE = 1e-4
NEGLIGIBLE = 1e-6  # a gradient so much smaller than the largest is zero but for rounding
WORLD, PRECISION = World(0, 1, torch.device("cpu")), Precision("cpu", torch.float32)


def assert_close(got: Tensor, expected: Tensor, negligible: float = 0.0, what: str = ""):
    """||got - expected|| / ||expected|| < TOLERANCE, or both norms negligible."""
    assert got.shape == expected.shape
    got, expected = got.detach().double(), expected.double()
    error, norm = float((got - expected).norm()), float(expected.norm())
    if norm <= negligible:
        assert float(got.norm()) <= negligible, what
    else:
        assert error < TOLERANCE * norm, f"{what}: relative error {error / norm:.1e}"


def losses_of(golden: Golden, model: Recommender, item_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sum, the cross-entropies and the weighted distillation of a batch."""
    batch = golden.batch(item_ids)
    losses = golden.objective()(*model.encode(batch), batch, golden.meta["epoch"])
    return losses["loss"], sum(losses[f"ce_{source}"] for source in SOURCES), losses["distillation"]


def test_every_official_parameter_has_its_place(golden):
    """What has a gradient in the official code is a parameter here, and the reverse."""
    parameters = dict(golden.model().named_parameters())
    assert {official_name(name) for name in golden.section("grad.")} == parameters.keys()


def test_id_table_starts_from_the_same_features(golden):
    init = {0: "random", 1: "mean", 2: "image", 3: "text"}[golden.args["init"]]
    if init == "random":
        pytest.skip("a random table is no matter of parity")
    widths = {source: table.width for source, table in golden.tables.items()}
    table = initial_id_table(
        ModelConfig(dim=4, id_init=init), golden.meta["n_items"], widths, lambda source: golden.tables[source].cls()
    )
    assert_close(table[1:], golden.arrays["state.id_encoder.weight"][1:])


def test_logits(golden):
    item_ids, model = golden.arrays["batch.item_ids"], golden.model()
    batch = golden.batch(item_ids)
    numbers = batch.items.numbers
    users = torch.repeat_interleave(batch.inputs.lengths)
    log_popularity = golden.arrays["item_popularity"].float().log()[numbers]
    log_counts = candidates_of_rows(batch.log_candidates(torch.float32), users, batch.targets)
    columns = torch.searchsorted(numbers, item_ids.flatten()).clamp(max=len(numbers) - 1)  # distinct item of a position
    with torch.no_grad():
        states, vectors = model.encode(batch)
        for source in SOURCES:
            expected = golden.arrays[f"logits.{source}"]
            unmasked = expected > -1e3
            got = in_batch_logits(states[source], vectors[source], log_popularity)
            assert_close(got[:, columns][unmasked], expected[unmasked])
            copies = torch.zeros_like(got).index_add_(1, columns, unmasked.float())
            assert torch.equal(log_counts.exp().round(), copies), "other candidates than the official code's"


def test_losses_and_gradients(golden):
    model = golden.model()
    loss, cross_entropy, distillation = losses_of(golden, model, golden.arrays["batch.item_ids"])
    assert_close(cross_entropy, golden.arrays["loss.ce"])
    assert_close(distillation, golden.arrays["loss.kl_weighted"])
    loss.backward()
    expected = {official_name(name): gradient for name, gradient in golden.section("grad.").items()}
    negligible = NEGLIGIBLE * max(float(gradient.norm()) for gradient in expected.values())
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, expected[name], negligible, name)


def test_trajectory(golden):
    model = golden.model()
    model.item_encoder.id_table.sparse = True
    optimizer = SparseGradAdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    got = []
    for _, item_ids in sorted(golden.section("trajectory.batch.").items()):
        optimizer.zero_grad(set_to_none=True)
        loss, cross_entropy, distillation = losses_of(golden, model, item_ids)
        loss.backward()
        norm = clip_norm(model.parameters(), 5)
        optimizer.step()
        got.append([cross_entropy.item(), distillation.item(), norm.item()])
    expected = golden.arrays["trajectory.losses"]
    for step, (row, expected_row) in enumerate(zip(got, expected, strict=True)):
        for name, value, expected_value in zip(("ce", "kl", "norm"), row, expected_row):
            assert value == pytest.approx(expected_value.item(), rel=TOLERANCE), f"{name} of step {step}"


def test_item_vectors(golden):
    catalogue = encode_catalogue(golden.model(), golden.tables, golden.meta["n_items"], WORLD, PRECISION)
    for source in SOURCES:
        assert_close(catalogue[source][1:], golden.arrays[f"items.{source}"][1:])


@pytest.mark.parametrize("split", ["valid", "test"])
def test_ranks(golden, split):
    model, interactions = golden.model(), golden.interactions
    catalogue = encode_catalogue(model, golden.tables, interactions.num_items, WORLD, PRECISION)
    ranks = rank_targets(model, catalogue, interactions, split, WORLD)
    held_out = {"valid": -2, "test": -1}[split]
    in_history = np.array([window[held_out] in window[:held_out] for window in golden.meta["sequences"].values()])
    assert list(ranks) == ["fused", *SOURCES]
    for source, rank in ranks.items():
        expected_rank, expected_hit, expected_gain = golden.arrays[f"eval.{split}.{source}"].numpy().T
        np.testing.assert_array_equal(rank[~in_history], expected_rank[~in_history])
        assert (rank[in_history] == OUT_OF_REACH).all()
        np.testing.assert_array_equal(rank <= 10, expected_hit)
        np.testing.assert_allclose(np.where(rank <= 10, 1 / np.log2(rank + 1.0), 0), expected_gain, rtol=1e-6)


def test_corpus(golden_dir):
    folder: Path = golden_dir / "corpus"
    if not folder.is_dir():
        pytest.skip(f"{golden_dir} holds no corpus")
    expected = json.loads((folder / "expected.json").read_text())
    interactions = Interactions.load(folder, expected["max_seq_len"], expected["min_seq_len"])
    assert interactions.num_items == expected["item_num"]
    assert dict(zip(interactions.item_ids, range(1, interactions.num_items + 1))) == expected["item_index"]
    assert interactions.num_users == len(expected["train"])
    np.testing.assert_allclose(interactions.popularity(), expected["item_popularity"], rtol=1e-6)
    for index in range(interactions.num_users):
        user, key = np.array([index]), str(index)
        assert interactions.histories(user, "train")[0].tolist() == expected["train"][key]
        for split in ("valid", "test"):
            window = [*interactions.inputs(user, split)[0].tolist(), int(interactions.targets(split)[index])]
            assert window == expected[split][key]
            assert interactions.histories(user, split)[0].tolist() == expected[f"history_{split}"][key]
