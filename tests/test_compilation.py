"""A compiled step has the numbers of one that is not, and is compiled once a shape."""

import shutil

import pytest
import torch
from test_padding import make_task, step
from torch._dynamo.utils import counters

from odmt.compilation import choose_mode
from odmt.distributed import World
from odmt.errors import InputError
from odmt.sequential import task as task_module
from odmt.sequential.task import SequentialTask

SMALL = ("model.num_layers=1", "model.backbone_layers=1", "model.backbone_heads=1")
SMALLEST = ("model.sources=[id]", "model.item_encoder=dnn", "model.id_encoder=embedding", "model.fusion=sum", *SMALL)


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # each process of its pool would take seconds to begin
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compare(*settings: str):
    """Losses and gradients of two batches of one shape, in two epochs, which weigh the distillation differently."""
    plain, fast = make_task(*settings), make_task(*settings, "train.compile=default")
    fast.model.load_state_dict(plain.model.state_dict())
    batches = [batch for batch, _ in zip(plain.batches(1).batches, range(2))]
    room = max(map(fast.padding.room, batches), key=lambda room: room["items"])
    for epoch, batch in enumerate(batches, 1):
        expected, got = step(plain.model, batch, epoch), step(fast.model, fast.padding.pad(batch, room), epoch)
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            scale = tensor.detach().abs().max().item()
            torch.testing.assert_close(
                got[name], tensor, rtol=1e-4, atol=1e-5 * scale, msg=lambda text, name=name: f"{name}: {text}"
            )
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.usefixtures("fresh")
def test_a_traced_step_has_the_numbers_of_one_that_is_not(monkeypatch):
    """All of the compiler but what writes C++, which takes two minutes."""
    monkeypatch.setattr(task_module, "compiled", lambda function, mode: torch.compile(function, backend="aot_eager", dynamic=False))
    compare(*SMALL)


@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles for a CPU by a C++ compiler")
@pytest.mark.usefixtures("fresh")
def test_a_compiled_step_has_the_numbers_of_one_that_is_not():
    compare(*SMALLEST)


def test_auto_compiles_for_a_gpu():
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert [choose_mode("auto", World(0, size, device)) for size, device in ((1, cpu), (1, gpu), (2, gpu))] == [
        "none",
        "default",
        "none",
    ]
    assert choose_mode("reduce-overhead", World(0, 1, cpu)) == "reduce-overhead"
    assert make_task("train.compile=auto").padding is None


def test_several_processes_are_refused():
    task = make_task("train.compile=default")
    with pytest.raises(InputError, match=r"config key train.compile: default is for one process, and these are 2; take none"):
        SequentialTask(task.config, World(0, 2, task.world.device), task.interactions, task.tables)
