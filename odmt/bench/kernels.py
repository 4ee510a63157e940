"""What a training step and an evaluation block ask of a GPU, counted on PyTorch's meta device, where nothing is computed.

A step that looked at a value could not run there: `Tensor.item()` fails. So what is counted also never waits for the device.

Legend: B users, N items, W feature width.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from odmt.bench.results import print_table, write_rows
from odmt.bench.synthetic import COUNTS, MAX_SEQ_LEN, Shape, synthetic_interactions, synthetic_tables
from odmt.config_files import load_config
from odmt.distributed import World
from odmt.errors import InputError
from odmt.features.tables import FeatureTable
from odmt.optimizer import clip_norm
from odmt.ranking import rank_block
from odmt.sequential.batches import Batch
from odmt.sequential.config import Config
from odmt.sequential.models.builder import build_recommender
from odmt.sequential.models.sgfd import SgfdSource
from odmt.sequential.scoring import ITEM_BLOCK, encode_block, load_items, score_blocks
from odmt.sequential.task import SequentialTask

META = torch.device("meta")
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh", "resize_"}
CATEGORIES = 30  # that a model which learns them is given


class Counter(TorchDispatchMode):
    """Counts the operations that reach a device.

    Attributes:
        dispatches: all of them.
        kernels: those that would launch a kernel on a GPU, which views and bare allocations do not; an operation on a list of
            tensors is one, and so is one that a GPU needs several for.
        bytes: of the tensors made.
        uploads: operations that mix tensors of the CPU with those of the device, which a GPU would be sent and may wait for.
    """

    def __init__(self):
        super().__init__()
        self.dispatches = self.kernels = self.bytes = 0
        self.uploads: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Count one operation."""
        made = func(*args, **(kwargs or {}))
        given = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        tensors = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        self.dispatches += 1
        if func.is_view or not tensors:
            return made
        self.kernels += func.overloadpacket.__name__ not in NO_KERNEL
        self.bytes += sum(tensor.nbytes for tensor in tensors if id(tensor) not in given and not tensor.is_sparse)
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor) and leaf.dim()}
        if len(devices) > 1:
            self.uploads.append(str(func))
        return made


@dataclass
class Counts:
    """What one part of a run asks of a GPU.

    Attributes:
        name: of the part.
        kernels: operations that would launch one.
        dispatches: operations, views and allocations too.
        flop: of matrix products, PyTorch's count.
        bytes: of the tensors made.
        host_ms: milliseconds of a CPU core, the least of some repeats, that it takes where nothing is computed.
    """

    name: str
    kernels: int
    dispatches: int
    flop: int
    bytes: int
    host_ms: float


def make_task(config: Config, shape: Shape) -> SequentialTask:
    """Make a model on the meta device, with the windows of a dataset's counts."""
    counts = COUNTS[shape]

    def build(config: Config, interactions, tables):
        sgfd = None
        if config.model.learns_categories:
            labels = torch.arange(interactions.num_items + 1) % CATEGORIES
            sgfd = SgfdSource(config.sgfd.settings("bm3"), labels, CATEGORIES)
        widths = {source: table.width for source, table in tables.items()}
        with META:
            return build_recommender(
                config.model,
                interactions.num_items,
                config.data.max_seq_len,
                widths,
                lambda source: torch.empty(interactions.num_items + 1, widths[source]),
                sgfd,
            )

    return SequentialTask(
        config, World(0, 1, META), synthetic_interactions(counts), needed_tables(config, counts.items, META), build
    )


def needed_tables(config: Config, num_items: int, device: torch.device) -> dict[str, FeatureTable]:
    """Random features of all items, as much of them as a model reads: of some modalities the first token alone."""
    tables = synthetic_tables(np.arange(num_items), device)
    for source, need in config.model.needs.items():
        if need == "cls":
            tables[source].lengths = np.minimum(tables[source].lengths, 1)
    return {source: tables[source] for source in config.model.needs}


def make_batch(task: SequentialTask) -> Batch:
    """The first batch of an epoch, its tensors on the device."""
    return next(task.batches(1).batches)


def train_step(task: SequentialTask, batch: Batch):
    """Forward, losses, backward and clipping; AdamW, which is a launch for many parameters, does not know the meta device."""
    task.model.train()
    task.model.zero_grad(set_to_none=True)
    task.model(batch, 1)["loss"].backward()
    clip_norm(task.model.parameters(), task.config.train.clip_norm)


def encode_items(task: SequentialTask) -> dict[str, Tensor]:
    """Encode a block of the catalogue; returns vectors by source."""
    numbers = torch.arange(1, min(ITEM_BLOCK, task.interactions.num_items) + 1)
    task.model.eval()
    return encode_block(task.model.encode_items, load_items(task.tables, numbers, META, task.precision), task.precision)


def rank_users(task: SequentialTask, sources: Iterable[str]):
    """Encode a block of users, score as many of them as are scored at a time by all items' vectors, rank their targets."""
    columns = task.interactions.num_items + 1
    catalogue = {source: torch.empty(columns, task.config.model.dim, device=task.world.device) for source in sources}
    block = next(score_blocks(task.model, catalogue, task.interactions, "valid", task.world))
    with torch.inference_mode():
        rank_block(block, task.held_out("valid"), lambda users: task.seen(users, "valid"), {})


def count(name: str, run: Callable[[], None], repeats: int) -> Counts:
    """Count what a call asks of the device, then time it."""
    run()  # what is made once
    with FlopCounterMode(display=False) as flop, Counter() as counter:
        run()
    milliseconds = []
    for _ in range(repeats):
        started = time.process_time()
        run()
        milliseconds.append(1000 * (time.process_time() - started))
    return Counts(name, counter.kernels, counter.dispatches, flop.get_total_flops(), counter.bytes, min(milliseconds))


def kernels(
    shape: Shape = "arts",
    dim: int = 768,
    batch: int = 128,
    config: list[str] = [],  # noqa: B006
    repeats: int = 5,
    json: Path | None = None,
):
    """Count what a training step, a block of the catalogue and a block of users ask of a GPU, without one: in float32, uncompiled.

    A step includes forward, losses, backward and clipping, not AdamW, a few launches more. Under bf16 the casts come on top.
    Where nothing is computed PyTorch works out shapes in Python, so that host_ms compares with itself alone, before a change and
    after.

    Args:
        shape: the dataset whose counts and distributions the random data have.
        dim: model width D.
        batch: users of a step.
        config: what else the run is, YAML files and KEY=VALUE, such as configs/models/fdsa.yaml or model.dropout=0.
        repeats: calls of each part, of which the fastest counts.
        json: file for the numbers.
    """
    sizes = [f"model.dim={dim}", f"train.batch_size={batch}", f"data.max_seq_len={MAX_SEQ_LEN}"]
    settings = load_config([*config, *sizes])
    if not isinstance(settings, Config):
        raise InputError(f"--config: kernels are counted of sequential models, and this is family={settings.family}")
    task = make_task(settings, shape)
    given, sources = make_batch(task), list(encode_items(task))
    parts = {
        "training step": lambda: train_step(task, given),
        f"catalogue, {ITEM_BLOCK} items": lambda: encode_items(task),
        "users of a block": lambda: rank_users(task, sources),
    }
    counts = [asdict(count(name, run, repeats)) for name, run in parts.items()]
    print_table(counts)
    write_rows(counts, json)
