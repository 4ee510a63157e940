"""What a step asks of a GPU, counted where nothing is computed and no value can be looked at."""

import json

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from odmt.bench.kernels import META, Counter, count, encode_items, kernels, make_batch, make_task, rank_users, train_step
from odmt.bench.synthetic import MAX_SEQ_LEN
from odmt.config_files import load_config
from odmt.distributed import World
from odmt.errors import InputError
from odmt.features import items as items_module
from odmt.optimizer import clip_norm
from odmt.precision import Precision
from odmt.report.odmt_paper import TABLE_2
from odmt.sequential.scoring import encode_block, load_items
from odmt.transfer import with_tensors

SIZES = [f"data.max_seq_len={MAX_SEQ_LEN}", "model.dim=8", "train.batch_size=4"]


GPU = torch.device("cuda", 0)


class Sent(TorchFunctionMode):
    """Notes what Python's lists are sent to the device by, unseen below.

    Attributes:
        calls: their names.
    """

    def __init__(self):
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        index = args[1] if len(args) > 1 else ()
        parts = index if isinstance(index, tuple) else (index,)
        indexing = func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
        if func in (torch.tensor, torch.as_tensor) or (indexing and any(isinstance(part, list | np.ndarray) for part in parts)):
            self.calls.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module", params=[row.key for row in TABLE_2])
def task(request):
    return make_task(load_config([f"configs/models/{request.param}.yaml", *SIZES]), "tiny")


def test_a_step_needs_no_value_from_the_device_and_leaves_its_gradients_there(task):
    batch = make_batch(task)
    with Counter() as counter, Sent() as sent:
        train_step(task, batch)
    assert (counter.uploads, sent.calls) == ([], []), "nothing is sent to the device that is not in the batch"
    gradients = [parameter.grad for parameter in task.model.parameters() if parameter.grad is not None]
    assert len(gradients) > 0
    assert {gradient.device.type for gradient in gradients} == {"meta"}
    assert {parameter.device.type for parameter in task.model.parameters()} == {"meta"}
    assert counter.dispatches > counter.kernels > 100


def test_a_step_of_the_paper_has_no_more_kernels_than_the_aim():
    """At the size of Arts: what a GPU's host launches beside AdamW."""
    task = make_task(load_config([f"data.max_seq_len={MAX_SEQ_LEN}"]), "arts-small")
    batch = make_batch(task)
    assert count("step", lambda: train_step(task, batch), 1).kernels <= 500


def test_an_evaluation_needs_no_value_from_the_device(task):
    with Sent() as sent:
        rank_users(task, list(encode_items(task)))
    assert sent.calls == []


@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch is built without CUDA")
@pytest.mark.parametrize("key", [row.key for row in TABLE_2 if row.key != "gru4rec"])
def test_a_step_and_an_evaluation_on_a_gpu_that_need_not_be_there(key, monkeypatch):
    """In half precision as on a card, by PyTorch's fake tensors, which refuse to mix devices and to give a value.

    Not on them but on the meta device, above, are held what asks for the card itself: backward passes, and cuDNN's GRU.
    """
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    task = make_task(load_config([f"configs/models/{key}.yaml", *SIZES]), "tiny")
    batch, items = make_batch(task), load_items(task.tables, torch.arange(1, 9), META, task.precision)
    monkeypatch.setattr(
        items_module, "to_gpu", lambda part, device: with_tensors(part, lambda tensor: tensor.to(device))
    )  # unpinned

    def on_gpu(part):
        return with_tensors(part, lambda tensor: torch.empty_like(tensor, device=GPU))

    with FakeTensorMode(allow_non_fake_inputs=True), Sent() as sent:
        task.world, task.precision = World(0, 1, GPU), Precision("cuda", torch.float16)
        task.model.to_empty(device=GPU).train()
        with task.precision.autocast():
            assert torch.is_autocast_enabled("cuda")
            loss = task.model(on_gpu(batch), 1)["loss"]
        assert (loss.device, loss.dtype) == (GPU, torch.float32)
        for parameter in task.model.parameters():
            parameter.grad = torch.empty_like(parameter)
        clip_norm(task.model.parameters(), 1.0)
        task.optimizer().step()
        task.model.eval()
        vectors = encode_block(task.model.encode_items, on_gpu(items), task.precision)
        assert {vector.device for vector in vectors.values()} == {GPU}
        rank_users(task, vectors)
        with pytest.raises(RuntimeError):
            loss.item()
    assert sent.calls == []


def test_what_looks_at_a_value_is_found():
    on_device = torch.ones(3, device="meta")
    with pytest.raises(RuntimeError, match=r"Tensor.item\(\) cannot be called on meta tensors"):
        count("a look", lambda: float(on_device.sum()), 1)
    with Counter() as counter:
        on_device[torch.tensor([0, 1])]
        on_device[0] = 2.0  # a number is part of the launch
    assert counter.uploads == ["aten.index.Tensor"]
    with Sent() as sent:
        on_device[[0, 1]]
        on_device[0] = 2.0
    assert sent.calls == ["__getitem__"]


def test_operations_are_counted():
    left, right = torch.ones(2, 3, device="meta"), torch.ones(4, 3, device="meta")
    counts = count("product", lambda: (left @ right.T).view(8).relu_(), 1)
    # t, mm, view, relu_: two launch, and relu_ makes nothing new.
    assert (counts.dispatches, counts.kernels) == (4, 2)
    assert (counts.flop, counts.bytes) == (2 * 2 * 3 * 4, 2 * 4 * 4)
    assert counts.host_ms > 0


def test_the_command_prints_and_writes(tmp_path, capsys):
    kernels("tiny", dim=8, batch=4, config=["configs/models/sasrec.yaml"], repeats=1, json=tmp_path / "kernels.json")
    step, encoding, ranking = json.loads((tmp_path / "kernels.json").read_text())
    assert set(step) == {"name", "kernels", "dispatches", "flop", "bytes", "host_ms"}
    assert step["name"] == "training step"
    assert min(step["flop"], step["bytes"], ranking["kernels"], encoding["kernels"], step["host_ms"]) > 0
    assert "training step" in capsys.readouterr().out


def test_models_on_a_graph_are_refused():
    with pytest.raises(InputError, match="kernels are counted of sequential models, and this is family=graph"):
        kernels("tiny", config=["family=graph"])
