"""A compiled step has the numbers of one that is not, and is compiled once a shape."""

import shutil

import pytest
import torch
from test_padding import make_task, step
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from odmt.checkpoint import load_tensors, save_tensors
from odmt.compilation import choose_mode
from odmt.config_files import load_config
from odmt.distributed import World
from odmt.errors import InputError
from odmt.sequential import task as task_module
from odmt.sequential.task import SequentialTask
from odmt.train import train
from odmt.trainer import Trainer

SMALL = ("model.num_layers=1", "model.backbone_layers=1", "model.backbone_heads=1")
with_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles for a CPU by a C++ compiler")
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
    next(fast.batches(1).batches)  # what has them compiled
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


@with_compiler
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
    assert make_task("train.compile=auto").compilation == "none"


@with_compiler
@pytest.mark.usefixtures("fresh")
def test_a_step_is_compiled_on_a_card_whose_peak_is_known(monkeypatch):
    """Where the first step's operations would be counted; what is compiled here is the least of it."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def compiled(function, mode):
        last = torch.compile(lambda loss: 1 * loss, backend=backend)
        return lambda batch, epoch: {name: last(loss) for name, loss in function(batch, epoch).items()}

    monkeypatch.setattr(task_module, "compiled", compiled)
    monkeypatch.setattr("odmt.speed.peak_of", lambda card, dtype: 1e12)
    trainer = Trainer(make_task(*SMALLEST, "train.compile=default"))
    trainer.train_epoch(1)
    assert graphs
    assert "flops_utilisation" not in trainer.speed


def test_what_is_only_read_is_not_compiled():
    task = make_task("model.sources=[id,text]", "train.compile=default")
    assert task.padding is None
    assert "forward" not in vars(task.model)
    next(task.batches(1).batches)
    padding, forward = task.padding, task.model.forward
    assert "forward" in vars(task.model)
    next(task.batches(2).batches)
    assert task.padding is padding
    assert task.model.forward is forward, "compiled once"


def test_no_run_begins_without_a_compiler(arguments, tmp_path):
    config = load_config(arguments("train.compile=default"))
    wanted = r"config key train.compile: default takes a C\+\+ compiler on a CPU \(.*\): install g\+\+, or take train.compile=none"
    with inductor.patch({"cpp.cxx": (None, str(tmp_path / "none"))}), pytest.raises(InputError, match=wanted):
        train(config)
    assert not config.folder.exists()


def test_a_run_goes_on_as_it_was_compiled(arguments):
    train(load_config(arguments("train.epochs=1")))
    last = load_config(arguments()).folder / "last.safetensors"
    tensors, progress = load_tensors(last)
    assert progress["basis"]["compilation"] == "none"
    progress["basis"]["compilation"] = "default"
    save_tensors(last, tensors, progress)
    with pytest.raises(
        InputError, match=r"trained with other compilation default \(now none\); .*set train.compile as it was, default"
    ):
        train(load_config(arguments("train.epochs=2")), resume=True)


def test_several_processes_are_refused():
    task = make_task("train.compile=default")
    with pytest.raises(InputError, match=r"config key train.compile: default is for one process, and these are 2; take none"):
        SequentialTask(task.config, World(0, 2, task.world.device), task.interactions, task.tables)
