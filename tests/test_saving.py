"""When a run is saved, by a thread, and what a kill leaves. Killed processes are real ones."""

import re
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from waiting import ENDLESS, end_after, epochs_of, num_epochs, wait_until

from odmt import saving
from odmt.checkpoint import load_metadata, load_tensors, save_tensors
from odmt.config_files import load_config
from odmt.errors import InputError
from odmt.progress import Progress
from odmt.run_folder import RunFolder
from odmt.saving import Saver
from odmt.train import train


@pytest.mark.parametrize(
    ("text", "epochs", "seconds"),
    [("1min", float("inf"), 60), ("5epochs", 5, float("inf")), ("1 epoch", 1, float("inf")), ("0.5 minutes", float("inf"), 30)],
)
def test_epochs_or_minutes(text, epochs, seconds):
    assert load_config([f"train.save_every={text}"]).train.save_interval == (epochs, seconds)


@pytest.mark.parametrize("text", ["5", "0epochs", "0min", "0.5epochs", "-1min", "1h", "min"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(InputError, match=r"config key train.save_every: .* is no time; 1min, 5epochs"):
        load_config([f"train.save_every={text}"])


@pytest.fixture
def saver(arguments, monkeypatch):
    """The function that makes a saver whose clock the test sets."""
    clock = [0.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: clock[0])

    def make(save_every: str) -> tuple[Saver, list[float]]:
        return Saver(RunFolder(load_config(arguments(f"train.save_every={save_every}")))), clock

    return make


def saved_epochs(saver: Saver, clock: list[float], lengths: list[float]) -> list[int]:
    saved = []
    for epoch, seconds in enumerate(lengths, 1):
        clock[0] += seconds
        if saver.is_due(Progress(epoch), seconds):
            saved.append(epoch)
            saver.epoch, saver._since = epoch, clock[0]
    return saved


@pytest.mark.parametrize(
    ("save_every", "lengths", "saved"),
    [
        ("1epoch", [5, 5, 5], [1, 2, 3]),
        ("3epochs", [500] * 8, [1, 4, 7]),
        ("1min", [25] * 7, [1, 3, 5, 7]),  # after another one 75 s would be at stake
        ("1min", [20] * 8, [1, 4, 7]),
        ("1min", [61] * 3, [1, 2, 3]),
        ("10min", [25] * 30, [1, 25]),
    ],
)
def test_an_epoch_is_saved_before_more_than_that_is_at_stake(saver, save_every, lengths, saved):
    assert saved_epochs(*saver(save_every), lengths) == saved


def test_what_is_written_is_what_was(saver):
    """Training changes the weights while they are written."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    ours, _ = saver("1epoch")
    ours.folder.reserve()
    ours.epoch = 1  # the first would be waited for
    written, gate = model.weight.detach().clone(), threading.Event()
    ours._thread.submit(gate.wait)
    progress = Progress(2, 2, [{"epoch": 1}, {"epoch": 2}])
    ours.keep_best(progress, model)
    ours.save(progress, model, optimizer)
    model.weight.data.zero_()
    progress.history[1]["epoch"] = 9
    assert not ours.folder.last.exists(), "the thread has not come to it"
    gate.set()
    ours.wait()
    assert torch.equal(load_tensors(ours.folder.best)[0]["weight"], written)
    assert torch.equal(load_tensors(ours.folder.last)[0]["model.weight"], written)
    assert load_metadata(ours.folder.last)["history"] == [{"epoch": 1}, {"epoch": 2}]


def start(args: list[str], **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "odmt.train", *args]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)


def test_a_kill_loses_no_more_than_is_said(arguments, tmp_path):
    """Epochs between two saves are trained again, bit for bit, and the best weights are those of the epoch that is called so."""
    folder = tmp_path / "ring" / "run"
    process = start(arguments(f"train.epochs={ENDLESS}", "train.save_every=4epochs"))
    try:
        wait_until(lambda: num_epochs(folder) >= 8, process)
    finally:
        process.kill()
        process.communicate()
    told, saved = num_epochs(folder), load_metadata(folder / "last.safetensors")
    assert told - 4 <= saved["epoch"] <= told + 1
    assert saved["epoch"] % 4 == 1
    epochs = end_after(folder, 3)
    train(load_config(arguments(f"train.epochs={epochs}", "train.save_every=4epochs")), resume=True)
    train(load_config(arguments(f"train.epochs={epochs}", "name=straight", "train.save_every=1epoch")))
    for name in ("best", "last", "ranks"):
        (tensors, noted), (expected, its) = (
            load_tensors(place / f"{name}.safetensors") for place in (folder, folder.with_name("straight"))
        )
        assert all(torch.equal(tensor, expected[key]) for key, tensor in tensors.items()), name
        assert (noted.get("epoch"), noted.get("best_epoch")) == (its.get("epoch"), its.get("best_epoch"))
    assert epochs_of(folder) == list(range(1, epochs + 1))


def small_run(arguments, folder: Path):
    train(load_config(arguments("train.epochs=2")))
    return load_config(arguments("train.epochs=3")), folder / "ring" / "run"


def test_best_weights_that_no_checkpoint_knows_of_are_dropped(arguments, tmp_path):
    longer, folder = small_run(arguments, tmp_path)
    best, waiting = folder / "best.safetensors", folder / "best.next.safetensors"
    tensors, noted = load_tensors(best)
    save_tensors(waiting, {name: tensor + 1 for name, tensor in tensors.items()}, noted | {"epoch": 3})
    train(longer, resume=True)
    assert not waiting.exists()
    train(load_config(arguments("train.epochs=3", "name=straight")))
    found, expected = (load_tensors(folder.with_name(name) / "best.safetensors")[0] for name in ("run", "straight"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_best_weights_of_another_epoch_are_refused(arguments, tmp_path):
    longer, folder = small_run(arguments, tmp_path)
    last = folder / "last.safetensors"
    tensors, progress = load_tensors(last)
    progress["best_epoch"] = 1
    save_tensors(last, tensors, progress)
    best, noted = load_tensors(folder / "best.safetensors")
    save_tensors(folder / "best.safetensors", best, noted | {"epoch": 2})
    with pytest.raises(InputError, match=r"best.safetensors: the weights of epoch 2; the best one was 1; train the run anew"):
        train(longer, resume=True)


def test_a_disk_that_is_full_ends_the_run(arguments, tmp_path):
    """As large a file as the checkpoint cannot be written: found by the thread, told by the process."""
    process = start(
        arguments("train.epochs=9"), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    )
    _, errors = process.communicate()
    assert process.returncode == 2
    wanted = (
        r"error: .*/ring/run/best.next.safetensors: cannot be written \(.*; larger than this process may write: raise ulimit -f\); "
        r"with --resume the same command goes on"
    )
    assert re.search(wanted, errors.splitlines()[-1]), errors
    assert "Traceback" not in errors
    assert not (tmp_path / "ring" / "run" / "last.safetensors").exists()
