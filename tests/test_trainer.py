"""The trainer: what a batch holds, and what a step of it changes."""

import numpy as np
import pytest
import torch

from odmt.config_files import load_config
from odmt.distributed import World
from odmt.trainer import Trainer

ALONE = World(0, 1, torch.device("cpu"))


def test_the_first_half_precision_step_moves_the_weights(arguments):
    """The loss scaling starts at 65536, more than half precision holds, and must not be taken for an overflow."""
    trainer = Trainer.load(load_config(arguments("train.precision=fp16")), ALONE)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    scale = trainer.scaler.get_scale()
    trainer.parallel.train()
    trainer.train_step(next(trainer.task.build_batches([[np.arange(8)]])), 1)
    assert trainer.scaler.get_scale() == scale
    assert not all(torch.equal(parameter, old) for parameter, old in zip(trainer.model.parameters(), before))


@pytest.mark.parametrize(("dropout", "shared"), [(0.1, False), (0.0, True)])
def test_repeats_share_a_vector_only_without_dropout(arguments, dropout, shared):
    trainer = Trainer.load(load_config(arguments(f"model.dropout={dropout}")), ALONE)
    batch = next(trainer.task.build_batches([[np.arange(8)]]))
    assert (batch.items.owners is None) == shared
    tokens = trainer.task.token_counts[batch.items.numbers]
    assert (np.diff(tokens) >= 0).all()
    assert tokens[0] < tokens[-1]


def test_the_id_table_has_a_sparse_gradient_in_one_process(arguments):
    trainer = Trainer.load(load_config(arguments()), ALONE)
    assert trainer.model.item_encoder.id_table.sparse
