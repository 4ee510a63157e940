"""Checkpoints: the same numbers back, whole files or none, nothing that runs."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from odmt.checkpoint import load_metadata, load_tensors, load_training, save_tensors, training_state
from odmt.errors import InputError
from odmt.files import write_text


def test_tensors_and_metadata_come_back(tmp_path):
    tensors = {
        "float": torch.randn(3, 4),
        "transposed": torch.randn(3, 4).T,
        "half": torch.randn(2).half(),
        "brain": torch.randn(2).bfloat16(),
        "numbers": torch.tensor([[1, -2]]),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
    }
    metadata = {"epoch": 3, "history": [{"valid/fused/recall@10": 0.1}], "scaler": {}}
    save_tensors(tmp_path / "a.safetensors", tensors, metadata)
    loaded, loaded_metadata = load_tensors(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert loaded_metadata == metadata
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.fixture
def power_cut(monkeypatch):
    """Nothing is moved in place any more."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)


@pytest.mark.parametrize("kind", ["tensors", "text"])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, kind, request):
    path = tmp_path / "file"

    def write(value: int):
        if kind == "tensors":
            save_tensors(path, {"x": torch.tensor(value)}, {})
        else:
            write_text(path, str(value))

    write(1)
    old = path.read_bytes()
    request.getfixturevalue("power_cut")
    with pytest.raises(KeyboardInterrupt):
        write(2)
    assert path.read_bytes() == old
    assert (tmp_path / "file.partial").exists()


def test_what_an_interrupted_write_left_is_no_obstacle(tmp_path):
    (tmp_path / "a.safetensors.partial").write_bytes(b"half")
    save_tensors(tmp_path / "a.safetensors", {"x": torch.ones(1)}, {})
    assert load_tensors(tmp_path / "a.safetensors")[0]["x"].item() == 1
    assert not (tmp_path / "a.safetensors.partial").exists()


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_files_that_are_no_checkpoints(tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_tensors(whole, {"x": torch.ones(1000)}, {})
    contents = {
        "cut.safetensors": whole.read_bytes()[:-100],
        "empty.safetensors": b"",
        "pickle.safetensors": pickle.dumps(Trap(tmp_path / "trap")),
        "text.safetensors": b"hello",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    torch.save(Trap(tmp_path / "trap"), tmp_path / "zip.safetensors")
    save_file({"x": torch.ones(2)}, tmp_path / "weights alone.safetensors")
    with pytest.raises(InputError, match="it has weights alone, without what this program notes"):
        load_tensors(tmp_path / "weights alone.safetensors")
    for name in [*contents, "zip.safetensors", "weights alone.safetensors", "missing.safetensors"]:
        with pytest.raises(InputError, match=rf"{name}: cannot be read as a checkpoint: .*; train the run anew with overwrite"):
            load_tensors(tmp_path / name)
    assert not (tmp_path / "trap").exists()


def make_training(seed: int):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    return model, torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1, fused=True)


def train_steps(model, optimizer, first: int, last: int):
    for step in range(first, last):
        torch.manual_seed(step)
        optimizer.zero_grad(set_to_none=True)
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()


def test_training_continues_bit_for_bit(tmp_path):
    path = tmp_path / "last.safetensors"
    straight, straight_optimizer = make_training(1)
    train_steps(straight, straight_optimizer, 0, 6)
    model, optimizer = make_training(1)
    train_steps(model, optimizer, 0, 3)
    save_tensors(path, training_state(model, optimizer), {"epoch": 3})
    model, optimizer = make_training(2)  # a new process, other weights
    assert load_training(path, model, optimizer) == {"epoch": 3}
    train_steps(model, optimizer, 3, 6)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    for parameter, expected in zip(model.parameters(), straight.parameters(), strict=True):
        for key, value in straight_optimizer.state[expected].items():
            assert torch.equal(optimizer.state[parameter][key], value), key


def test_training_continues_with_parameters_that_had_no_gradient_yet(tmp_path):
    model, optimizer = make_training(1)
    model[0].requires_grad_(False)
    train_steps(model, optimizer, 0, 2)
    save_tensors(tmp_path / "last.safetensors", training_state(model, optimizer), {})
    other, other_optimizer = make_training(2)
    load_training(tmp_path / "last.safetensors", other, other_optimizer)
    assert torch.equal(other[0].weight, model[0].weight)
    assert len(other_optimizer.state_dict()["state"]) == 4
    train_steps(other, other_optimizer, 2, 3)


def test_one_module_for_two_sources_is_saved_and_continued(tmp_path):
    def make():
        tower = nn.Linear(3, 3)
        model = nn.Sequential(tower, nn.ReLU(), tower)
        return model, torch.optim.AdamW(model.parameters(), 1e-2)

    model, optimizer = make()
    train_steps(model, optimizer, 0, 2)
    save_tensors(tmp_path / "last.safetensors", training_state(model, optimizer), {})
    other, other_optimizer = make()
    load_training(tmp_path / "last.safetensors", other, other_optimizer)
    for trained, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        train_steps(trained, its_optimizer, 2, 4)
    assert torch.equal(other[0].weight, model[0].weight)
    assert other[0].weight is other[2].weight


def test_a_flipped_bit_is_found(tmp_path):
    path = tmp_path / "best.safetensors"
    save_tensors(path, {"x": torch.ones(100), "y": torch.zeros(3, dtype=torch.bfloat16)}, {"epoch": 12})
    whole = path.read_bytes()
    places = [whole.index(b"12}"), len(whole) - 1, len(whole) - 200, whole.index(b"xxh3") + 9]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"best.safetensors: cannot be read as a checkpoint: .*; train the run anew"):
            load_tensors(path)


def test_files_without_a_checksum_are_read(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "old.safetensors", metadata={"metadata": '{"epoch": 1}'})
    tensors, metadata = load_tensors(tmp_path / "old.safetensors")
    assert tensors["x"].tolist() == [1, 1]
    assert metadata == {"epoch": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("model.0.bias"), "the weights of another model, which differ by 0.bias"),
        (lambda tensors: tensors.update({"model.9.weight": torch.ones(1)}), "the weights of another model, which differ by 9"),
        (lambda tensors: tensors.update({"model.0.bias": torch.ones(5)}), r"0.bias is \(5,\), and the model's is \(4,\)"),
        (lambda tensors: tensors["model.0.bias"].fill_(float("nan")), "0.bias holds values that are not finite"),
        (lambda tensors: tensors.update({"optimizer.exp_avg.9": torch.ones(1)}), "optimizer.exp_avg.9 fits no parameter"),
        (lambda tensors: tensors.update({"optimizer.exp_avg.0.bias": torch.ones(9)}), "optimizer.exp_avg.0.bias fits no"),
    ],
)
def test_weights_of_another_model_are_named(tmp_path, change, message):
    path = tmp_path / "last.safetensors"
    model, optimizer = make_training(1)
    train_steps(model, optimizer, 0, 1)
    save_tensors(path, training_state(model, optimizer), {})
    tensors, metadata = load_tensors(path)
    change(tensors)
    save_tensors(path, tensors, metadata)
    with pytest.raises(InputError, match=message):
        load_training(path, *make_training(2))


@pytest.mark.parametrize("metadata", [b"[]", b"3", b"{", b"null", b"9" * 5000])
def test_metadata_that_are_no_mapping(tmp_path, metadata):
    path = tmp_path / "last.safetensors"
    save_file({"x": torch.ones(2)}, path, metadata={"metadata": metadata.decode()})
    with pytest.raises(InputError, match=r"last.safetensors: cannot be read as a checkpoint"):
        load_metadata(path)
