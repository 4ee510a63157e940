"""Two gloo processes: the gradients and ranks of one process, and a whole run; by torchrun and by `--processes`."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import two_processes
from torch import Tensor
from waiting import ENDLESS, epochs_of, num_epochs, wait_until

from odmt.checkpoint import load_tensors
from odmt.cli import report_mistakes
from odmt.config_files import load_config
from odmt.distributed import World, choose_device, gather_shares, open_world, share
from odmt.errors import InputError
from odmt.local_processes import check_devices, has_to_start, run_in_processes
from odmt.remedies import by_command
from odmt.run_folder import RunFolder, reserve
from odmt.train import main, train
from odmt.trainer import Trainer

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TRAIN = [sys.executable, "-m", "odmt.train", "--processes", "2"]
ALONE = World(0, 1, torch.device("cpu"))


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def args(ring_root, tmp_path_factory) -> list[str]:
    """31 users, so that the two processes' shares differ, of 6 to 8 items; no dropout, whose noise is each process's own."""
    root = tmp_path_factory.mktemp("uneven")
    shutil.copytree(ring_root / "ring", root / "ring")
    behaviours = root / "ring" / "behaviours.tsv"
    users = [line.rsplit(" ", number % 3)[0] for number, line in enumerate(behaviours.read_text().splitlines())]
    behaviours.write_text("\n".join(users) + "\n")
    places = [f"data.root={root}", "data.dataset=ring", "train.device=cpu"]
    return [
        *places,
        "data.max_seq_len=5",
        "model.dim=8",
        "model.num_layers=2",
        "model.dropout=0",
        "train.batch_size=6",
        "train.clip_norm=1000",
    ]


def on_two_nodes(*args: str):
    """Two agents of torchrun's that find each other by a port, as those of two nodes do, each with one process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"localhost:{free.getsockname()[1]}"
    node = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={place}", "--local-addr=localhost"]
    command = [sys.executable, "-m", "torch.distributed.run", *node, *args]
    agents = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for agent in agents:
            _, said = agent.communicate(timeout=240)
            assert agent.returncode == 0, said
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()


@pytest.fixture(scope="module")
def measured(args, tmp_path_factory) -> list[dict[str, Tensor]]:
    """What each of the two processes measured, of two nodes."""
    folder = tmp_path_factory.mktemp("two")
    on_two_nodes(str(Path(two_processes.__file__)), str(folder), *args)
    return [load_tensors(folder / f"{rank}.safetensors")[0] for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(args) -> Trainer:
    return Trainer.load(load_config(args), ALONE)


def section(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def test_ranks_are_those_of_one_process(measured, alone):
    expected = two_processes.ranks(alone)
    assert len(expected) == 8
    for name, ranks in expected.items():
        assert len(ranks) == alone.task.interactions.num_users
        assert torch.equal(measured[0][f"ranks.{name}"], ranks)
        assert torch.equal(measured[1][f"ranks.{name}"], ranks)


def test_a_step_is_that_of_one_process_that_sees_the_same_two_batches(measured, args):
    """The mean of the two batches' gradients, each with negatives of its own; then the same weights everywhere."""
    alone = Trainer.load(load_config(args), ALONE)
    alone.model.train()
    local = []
    for users in two_processes.first_users(alone, 2):
        loss = alone.model(two_processes.batch_of(alone, [users]), two_processes.EPOCH)["loss"]
        gradients = torch.autograd.grad(loss, list(alone.model.parameters()))
        local.append([gradient.to_dense() for gradient in gradients])
    parameters = dict(alone.model.named_parameters())
    for (name, parameter), first, second in zip(parameters.items(), *local, strict=True):
        assert not torch.allclose(first, second, rtol=0.1), "the two batches do not differ"
        parameter.grad = (first + second) / 2
        torch.testing.assert_close(section(measured[0], "local.gradient.")[name], parameter.grad, rtol=1e-5, atol=1e-7)
    alone.optimizer.step()
    for name, parameter in parameters.items():
        torch.testing.assert_close(section(measured[0], "local.weight.")[name], parameter.data, rtol=1e-4, atol=1e-6)


def test_negatives_of_all_processes_make_the_step_of_one_with_the_whole_batch(measured, args):
    """The two batches, which have not as many predictions, as one: losses, gradients and weights."""
    alone = Trainer.load(load_config(args), ALONE)
    users = two_processes.first_users(alone, 2)
    lengths = [alone.task.interactions.histories(block, "train")[1].sum() for block in users]
    assert lengths[0] != lengths[1]
    alone.model.train()
    losses = alone.train_step(two_processes.batch_of(alone, [np.concatenate(users)]), two_processes.EPOCH)
    for name, loss in losses.items():
        mean = (measured[0][f"global.loss.{name}"] + measured[1][f"global.loss.{name}"]) / 2
        torch.testing.assert_close(mean, loss, rtol=1e-5, atol=1e-6)
    for name, parameter in alone.model.named_parameters():
        gradient = parameter.grad.to_dense()
        torch.testing.assert_close(section(measured[0], "global.gradient.")[name], gradient, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(section(measured[0], "local.gradient.")[name], gradient, rtol=0.01), "local negatives are others"
        torch.testing.assert_close(section(measured[0], "global.weight.")[name], parameter.data, rtol=1e-3, atol=1e-5)


def test_both_processes_end_a_step_with_the_same_weights(measured):
    assert measured[0].keys() == measured[1].keys()
    same = [name for name in measured[0] if not name.startswith(("bytes.", "sharded.")) and ".loss." not in name]
    assert all(torch.equal(measured[0][name], measured[1][name]) for name in same)


def test_a_table_may_be_sharded_over_the_processes(measured):
    """Each has every other row and its moments; ranks and the step are those of two processes with the whole table each."""
    table = "item_encoder.id_table.weight"
    for rank, of_process in enumerate(measured):
        sharded, whole = section(of_process, "sharded."), section(of_process, "local.")
        for name, expected in whole.items():
            expected = expected[rank::2] if name.endswith(table) else expected
            torch.testing.assert_close(sharded[name], expected, rtol=1e-5, atol=1e-7)
        moments = [sharded[f"state.{name}"] for name in ("exp_avg", "exp_avg_sq")]
        assert all(moment.shape == sharded[f"weight.{table}"].shape and moment.any() for moment in moments)
        for name, ranks in section(of_process, "ranks.").items():
            assert torch.equal(sharded[f"ranks.{name}"], ranks)


def test_of_a_table_the_rows_are_sent_that_have_gradients(measured):
    """Two processes: a sum is sent once. The system counts what gloo adds, too."""
    for of_process in measured:
        assert torch.equal(of_process["table.rows"], of_process["table.dense"])
        dense, rows = (4 * two_processes.WIDTH * number for number in (two_processes.NUM_ROWS, 150))
        assert dense <= of_process["bytes.dense"] < 1.1 * dense
        assert rows <= of_process["bytes.rows"] < 2 * rows


def test_a_whole_run(args, tmp_path):
    """One process writes; what it wrote is what one process would find."""
    args = [*args, f"runs={tmp_path}", "train.epochs=2", "model.dropout=0.1", "train.lr=0.003"]
    done = run(*TORCHRUN, "-m", "odmt.train", *args)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| fused ") == 1
    folder = tmp_path / "ring" / "odmt"
    log = (folder / "train.log").read_text()
    assert log.count("epoch 2/2") == 1
    assert "2 x cpu" in log
    trainer = Trainer.load(load_config(args), ALONE)
    trainer.model.load_state_dict(load_tensors(folder / "best.safetensors")[0])
    saved = load_tensors(folder / "ranks.safetensors")[0]
    for source, rank in trainer.rank("test").items():
        assert saved[f"test/{source}"].tolist() == rank.tolist()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    other_number = r"last.safetensors: trained by 2 processes \(now 1\), .*; start 2 processes again "
    with by_command(), pytest.raises(InputError, match=other_number + r"\(--processes 2, or torchrun on several machines\), "):
        train(load_config([*args, "train.epochs=3"]), resume=True)


def test_a_run_that_another_process_trains_ends_all_processes(args, tmp_path):
    args = [*args, f"runs={tmp_path}"]
    holder = RunFolder(load_config(args))
    holder.reserve()
    done = run(*TRAIN, *args)
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == [
        f"error: {tmp_path}/ring/odmt: another process trains this run; wait for it, end it, or set another name=odmt-2"
    ], "once for all processes, without a traceback"
    assert [path.name for path in (tmp_path / "ring" / "odmt").iterdir()] == ["lock"]
    holder.close()


def test_any_error_of_the_main_process_ends_all(args, tmp_path):
    """A folder where a file is to be written: no mistake in the configuration, found by the main process alone."""
    args = [*args, f"runs={tmp_path}", "train.epochs=2"]
    (tmp_path / "ring" / "odmt" / "metrics.jsonl").mkdir(parents=True)
    done = run(*TRAIN, *args)
    assert done.returncode == 2
    assert done.stderr.count("metrics.jsonl: cannot be written (") == 1
    assert "Traceback" not in done.stderr


LOST = "failed: process {} of 2 was ended by SIGKILL, probably out of memory; with --resume the same command goes on"
INTERRUPTED = "interrupted; with --resume the same command goes on"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "kills",
    [
        [("0", signal.SIGKILL, 1, LOST.format(0)), ("1", signal.SIGKILL, 1, LOST.format(1))],
        [(None, signal.SIGINT, 130, INTERRUPTED), (None, signal.SIGTERM, 143, ""), (None, signal.SIGKILL, -9, "")],
    ],
    ids=["ranks", "the one that started them"],
)
def test_a_killed_process_ends_all_and_the_run_goes_on(args, tmp_path, kills):
    """What is told is all that is told."""
    args, folder = [*args, f"runs={tmp_path}"], tmp_path / "ring" / "odmt"
    for victim, number, status, said in kills:
        ended, lines = start_and_kill([*args, f"train.epochs={ENDLESS}", "--resume"], victim, number, tmp_path / "stderr")
        usual = ("features: ", str(folder), "epoch ", "continuing after epoch ")
        assert (ended, [line for line in lines if not line.startswith(usual)]) == (status, [said] if said else [])
        with reserve(folder) as free:
            assert free, "nothing of the run is left"
    assert (folder / "train.log").read_text().count("continuing after epoch ") == len(kills) - 1
    assert epochs_of(folder) == list(range(1, num_epochs(folder) + 1))


def start_and_kill(args: list[str], victim: str | None, number: signal.Signals, errors: Path) -> tuple[int, list[str]]:
    """Send a signal to a rank, or to the process that started all, once there is an epoch; its status, what was said."""
    with errors.open("w") as stderr:
        running = subprocess.Popen([*TRAIN, *args], stdout=subprocess.DEVNULL, stderr=stderr)
    try:
        wait_until(lambda: "\nepoch " in errors.read_text(), running)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        ranks = {re.search(rb"\0RANK=(\d)", Path(f"/proc/{pid}/environ").read_bytes())[1].decode(): pid for pid in children}
        assert ranks.keys() == {"0", "1"}
        os.kill(int(ranks[victim]) if victim else running.pid, number)
        status = running.wait()
    finally:
        running.kill()
        running.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    return status, errors.read_text().splitlines()


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (["train.lr=1e-3", "--processes"], "error: --processes : expected how many processes of this machine"),
        (["--processes=0"], "error: --processes 0: expected how many processes of this machine"),
        (["--processes", "2", "data.datset=ring"], "error: data.datset=ring: unknown key"),
        (["--processes", "2", "family=graph"], "error: 2 processes: a model on the graph trains in one, since"),
        (["--processes", "2", "train.device=cuda"], "error: train.device=cuda: PyTorch sees no GPU here"),
        (["--processes", "2", "train.compile=default"], "error: config key train.compile: default is for one process, and these"),
    ],
)
def test_what_can_be_refused_is_before_a_process_starts(refused, message, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended, report_mistakes():
        main(refused)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(message)


def test_one_of_several_starts_none(monkeypatch):
    for there, number, starts in (("1", 1, False), ("1", 2, True), ("2", 2, False), ("2", 1, False)):
        monkeypatch.setenv("WORLD_SIZE", there)
        assert has_to_start(number) == starts
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"^--processes 2: this is one of 4 processes already \(WORLD_SIZE\); leave"):
        has_to_start(2)


def test_what_starts_several_goes_on_under_nohup_and_leaves_nothing_behind(tmp_path, monkeypatch):
    """Where a cluster has set a single process's variables."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)}
    before = dict(os.environ)
    script = """import os, pathlib, signal, sys
os.kill(os.getppid(), signal.SIGHUP)
pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(os.environ["WORLD_SIZE"])"""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_in_processes(2, ["-c", script, str(tmp_path)], "") == 0
        assert signal.signal(signal.SIGHUP, handlers[signal.SIGHUP]) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, handlers[signal.SIGHUP])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "2", "1": "2"}
    assert {each: signal.getsignal(each) for each in handlers} == handlers
    assert dict(os.environ) == before


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(2, "auto")
    check_devices(3, "cpu")
    with pytest.raises(InputError, match=r"--processes 3: each needs a GPU of its own, of which there are 2"):
        check_devices(3, "auto")


@pytest.mark.parametrize("num_rows", [0, 1, 5, 6, 7])
def test_shares_cover_all_rows_once(num_rows):
    worlds = [World(rank, 3, torch.device("cpu")) for rank in range(3)]
    shares = [range(num_rows)[share(num_rows, world)] for world in worlds]
    assert [row for rows in shares for row in rows] == list(range(num_rows))
    assert min(map(len, shares)) == num_rows // 3, "nobody waits for rows that another has twice"


def test_more_processes_than_users_or_items_are_refused(args):
    alone = Trainer.load(load_config(args), ALONE)
    crowd = World(0, alone.task.interactions.num_items + 1, ALONE.device)
    with pytest.raises(InputError, match=r"\d+ processes for \d+ users and \d+ items: start no more processes than"):
        Trainer.load(load_config(args), crowd)


def test_one_process_needs_no_group():
    with open_world("cpu") as world:
        assert world == ALONE
        rows = torch.randn(4, 2)
        assert gather_shares(rows, 4, world) is rows


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(InputError, match=r"train.device=cuda: PyTorch sees no GPU here; take train.device=cpu"), open_world("cuda"):
        pass


def test_a_gpu_has_its_number(monkeypatch):
    """A device without one cannot be made current, which the thread that builds batches does."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for local_rank, index in (("0", 0), ("1", 1), ("2", 0)):
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", index)
    assert choose_device("cpu") == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match=r"train.device=cuda: PyTorch sees no GPU here; take train.device=cpu"):
        choose_device("cuda", "train.device=")
