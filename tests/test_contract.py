"""One behavioural contract that every row of every table and figure passes."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from ring_dataset import write_ring

from odmt.checkpoint import load_tensors, save_tensors
from odmt.config_files import load_config
from odmt.distributed import World, open_world
from odmt.errors import InputError
from odmt.features.items import Items, to_device
from odmt.features.tables import gather_features
from odmt.report import odmt_paper, recommended
from odmt.report.rows import Row
from odmt.sequential.batches import Sequences
from odmt.sequential.config import Config
from odmt.sequential.losses import fuse
from odmt.sequential.scoring import encode_catalogue
from odmt.trainer import Trainer

CONFIGS = Path(__file__).parents[1] / "configs"
REPORTS = odmt_paper.REPORTS | recommended.REPORTS
NUM_ITEMS, MAX_SEQ_LEN = 20, 6
ALONE = World(0, 1, torch.device("cpu"))
SETTINGS = (f"data.max_seq_len={MAX_SEQ_LEN}", "model.dim=24", "train.lr=0.005", "train.weight_decay=0", "train.device=cpu")


def distinct(*names: str) -> list[Row]:
    """The models of some tables and figures; Table 4's temperatures and Figure 2's curve make no other model."""
    found: dict[tuple, Row] = {}
    for row in (row for name in names for row in REPORTS[name].rows):
        found.setdefault((row.model, *(pair for pair in row.overrides if pair.startswith("model."))), row)
    return list(found.values())


TABLES = ("table2", "table3", "table4")
EVERY_MODEL = pytest.mark.parametrize("row", distinct(*REPORTS), ids=lambda row: row.key)
EVERY_ROW = pytest.mark.parametrize("row", distinct(*TABLES), ids=lambda row: row.key)
ROWS_AND_BACKBONES = distinct(*TABLES, "figure5", "sgfd_towers")
SEVERAL_PROCESSES = [*distinct(*TABLES), *(row for row in ROWS_AND_BACKBONES if row.key.endswith((":odmt", ":sgfd")))]
EVERY_ROW_AND_BACKBONE = pytest.mark.parametrize("row", ROWS_AND_BACKBONES, ids=lambda row: row.key)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A root with a dataset for each set of modalities."""
    root = tmp_path_factory.mktemp("data")
    for name, modalities in {"all": ("text", "image"), "id": (), "text": ("text",), "image": ("image",)}.items():
        write_ring(root / name, NUM_ITEMS, MAX_SEQ_LEN + 3, modalities)
    return root


def config_of(row: Row, root: Path, *overrides: str, dataset: str = "all") -> Config:
    place = (f"data.root={root}", f"data.dataset={dataset}", f"runs={root / 'runs'}")
    return load_config([str(CONFIGS / "models" / f"{row.model}.yaml"), *row.overrides, *SETTINGS, *place, *overrides])


def trainer_of(row: Row, root: Path, *overrides: str, world: World = ALONE, dataset: str = "all") -> Trainer:
    return Trainer.load(config_of(row, root, *overrides, dataset=dataset), world)


def catalogue_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return encode_catalogue(trainer.model, trainer.task.tables, NUM_ITEMS, ALONE, trainer.precision)


def states_of(trainer: Trainer, sequences: list[list[int]]) -> list[dict[str, torch.Tensor]]:
    """States [length, D] by source of every sequence of item numbers, all in one batch."""
    lengths = [len(sequence) for sequence in sequences]
    rows = torch.tensor([number for sequence in sequences for number in sequence])
    inputs = Sequences(rows, torch.tensor(lengths), max(lengths))
    with torch.no_grad():
        states = trainer.model.eval().encode_users(catalogue_of(trainer), inputs)
    split = {source: state.split(lengths) for source, state in states.items()}
    return [{source: parts[user] for source, parts in split.items()} for user in range(len(sequences))]


@EVERY_ROW_AND_BACKBONE
def test_learns_a_fixed_succession(row, data):
    trainer = trainer_of(row, data)
    for epoch in range(1, 201):
        trainer.train_epoch(epoch)
        if epoch % 20 == 0 and (trainer.rank("test")["fused"] == 1).all():
            return
    raise AssertionError(f"recall@1 is {(trainer.rank('test')['fused'] == 1).mean():.2f} after {epoch} epochs")


@EVERY_MODEL
def test_ranks_the_full_catalogue(row, data):
    trainer = trainer_of(row, data)
    catalogue, interactions = catalogue_of(trainer), trainer.task.interactions
    users = np.arange(interactions.num_users)
    history, lengths = interactions.histories(users, "test")
    last = np.split(interactions.inputs(users, "test")[0], len(users))
    ranks = trainer.rank("test")
    for user, seen in enumerate(np.split(history, np.cumsum(lengths)[:-1])):
        states = states_of(trainer, [last[user].tolist()])[0]
        scores = {source: catalogue[source] @ state[-1] for source, state in states.items()}
        target = interactions.targets("test")[user]
        candidates = np.setdiff1d(np.arange(1, NUM_ITEMS + 1), seen)
        scores = {"fused": fuse(scores), **scores}
        assert scores.keys() == ranks.keys()
        for source, score in scores.items():
            assert ranks[source][user] == 1 + (score[candidates] > score[target]).sum()


@EVERY_MODEL
def test_saves_and_loads_to_the_same_scores(row, data, tmp_path):
    trainer = trainer_of(row, data)
    trainer.train_epoch(1)
    save_tensors(tmp_path / "weights.safetensors", trainer.model.state_dict(), {})
    other = trainer_of(row, data, "train.seed=2")
    sequence = [[3, 4, 5, 6]]
    before, fresh = states_of(trainer, sequence)[0], states_of(other, sequence)[0]
    other.model.load_state_dict(load_tensors(tmp_path / "weights.safetensors")[0])
    after, catalogue = states_of(other, sequence)[0], catalogue_of(other)
    for source, state in before.items():
        assert not torch.allclose(state, fresh[source])
        assert torch.equal(state, after[source])
        assert torch.equal(catalogue_of(trainer)[source], catalogue[source])


@EVERY_MODEL
def test_is_causal(row, data):
    first, second = states_of(trainer_of(row, data), [[1, 2, 3, 4, 5], [1, 2, 3, 9, 8]])
    for source in first:
        torch.testing.assert_close(first[source][:3], second[source][:3])
        assert not torch.allclose(first[source][3:], second[source][3:], atol=1e-3)


@EVERY_MODEL
def test_ignores_padding(row, data):
    trainer = trainer_of(row, data)
    alone = states_of(trainer, [[7, 8]])[0]
    beside_longer = states_of(trainer, [[1, 2, 3, 4, 5, 6], [7, 8], [9]])[1]
    for source, state in alone.items():
        torch.testing.assert_close(beside_longer[source], state)
    # Item 3 has 2 tokens, item 2 has 4: the shorter is padded beside the longer.
    with torch.no_grad():
        one, both = (
            trainer.model.encode_items(
                to_device(Items(numbers, gather_features(trainer.task.tables, numbers)), torch.device("cpu"), torch.float32)
            )
            for numbers in (torch.tensor([3]), torch.tensor([2, 3]))
        )
    for source, vectors in one.items():
        torch.testing.assert_close(both[source][1], vectors[0])


@EVERY_MODEL
def test_every_parameter_gets_a_gradient(row, data):
    trainer = trainer_of(row, data)
    trainer.train_epoch(1)
    without = [name for name, p in trainer.model.named_parameters() if p.grad is None or not p.grad.to_dense().any()]
    assert without == []


# What runs on data with one source alone; the rest says why not when its configuration is read.
SINGLE_SOURCES = {
    "gru4rec": ("id", "text", "image"),
    "sasrec": ("id", "text", "image"),
    "nextitnet": ("id", "text", "image"),
    "unisrec": ("id", "text", "image"),
    "sasrec_ef": ("id", "text", "image"),
    "sasrec_lf": ("id", "text", "image"),
    "no_online_distillation": ("text", "image"),
    "no_distillation": ("text", "image"),
}


@EVERY_ROW
@pytest.mark.parametrize("source", ["id", "text", "image"])
def test_runs_on_data_with_one_source(row, data, source):
    overrides = (f"model.sources=[{source}]",)
    if source not in SINGLE_SOURCES.get(row.model, ()):
        with pytest.raises(InputError, match=r"config key model\.\w+: .*(needs|only in)"):
            config_of(row, data, *overrides, dataset=source)
        return
    trainer = trainer_of(row, data, *overrides, dataset=source)
    before = trainer.train_epoch(1)["loss"]
    for epoch in range(2, 10):
        after = trainer.train_epoch(epoch)["loss"]
    assert after < before
    assert trainer.rank("test")["fused"].shape == (NUM_ITEMS,)


def in_one_of_two_processes(rank: int, port: int, root: Path):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with open_world("cpu") as world:
        for row in SEVERAL_PROCESSES:
            trainer = trainer_of(row, root, world=world)
            # A parameter without a gradient makes the second step fail.
            for epoch in (1, 2):
                trainer.train_epoch(epoch)
            weights = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
            ranks = {f"ranks.{source}": torch.from_numpy(rank) for source, rank in trainer.rank("test").items()}
            save_tensors(root / f"{row.key}.{rank}.safetensors", weights | ranks, {})


def test_runs_under_two_processes(data):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(in_one_of_two_processes, (port, data), nprocs=2)
    for row in SEVERAL_PROCESSES:
        first, second = (load_tensors(data / f"{row.key}.{rank}.safetensors")[0] for rank in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first), row.key
        trainer = trainer_of(row, data)
        trainer.model.load_state_dict({n.removeprefix("model."): w for n, w in first.items() if n.startswith("model.")})
        for source, ranks in trainer.rank("test").items():
            assert torch.equal(torch.from_numpy(ranks), first[f"ranks.{source}"]), row.key
