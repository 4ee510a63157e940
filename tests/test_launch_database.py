"""Launchers on a real PostgreSQL server, of this file's own; skipped where PostgreSQL or its driver is not installed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from ring_dataset import write_ring
from waiting import ENDLESS, end_after, epochs_of, wait_until

from odmt.errors import InputError
from odmt.launch.queue import TrialQueue

PASSWORD = "s3cret"
CONFIG = """
data: {dataset: ring, max_seq_len: 6}
model: {sources: [id], item_encoder: dnn, id_encoder: embedding, fusion: early, dim: 8}
train: {epochs: 1, lr: 0.01, device: cpu}
"""


class Server:
    """A server on a port of its own, its data in a folder of its own."""

    def __init__(self, programs: Path, folder: Path):
        self.programs, self.folder = programs, folder
        self.user = {"user": "postgres"} if os.getuid() == 0 else {}  # it refuses to run as root
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen | None = None

    def make(self):
        """Make the data folder, with a user `me` who has a password."""
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if self.user:
            for path in (self.folder, secret):
                shutil.chown(path, **self.user)
        auth = ["-U", "me", "--pwfile", str(secret), "-A", "scram-sha-256", "--no-sync"]
        subprocess.run([self.programs / "initdb", "-D", self.folder / "data", *auth], check=True, capture_output=True, **self.user)

    def start(self):
        """Start it and wait until it answers."""
        places = ["-D", self.folder / "data", "-k", self.folder, "-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        quick = ["-c", "fsync=off"]
        self.process = subprocess.Popen([self.programs / "postgres", *places, *quick], stderr=subprocess.DEVNULL, **self.user)
        ready = [self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        wait_until(lambda: subprocess.run(ready).returncode == 0, self.process)

    def stop(self, how: signal.Signals = signal.SIGINT):
        """End it: SIGINT breaks all connections first."""
        self.process.send_signal(how)
        self.process.wait()

    def url(self, database: str = "postgres", user: str = "me", password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = found[-1] if found else shutil.which("initdb")
    if not initdb:
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp())
    own = Server(Path(initdb).parent, folder)
    try:
        own.make()
        own.start()
        yield own
        own.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def launcher(tmp_path):
    """The function that starts a launcher of two points as a process."""
    write_ring(tmp_path / "data" / "ring", 30, 9, ())
    (tmp_path / "ring.yaml").write_text(CONFIG)
    script = "from odmt.launch.sweep import launch\n\nlaunch('ring.yaml', {'train.lr': [0.01, 0.001]})\n"
    (tmp_path / "run_ring.py").write_text(script)
    processes = []

    def start(*args: str) -> subprocess.Popen:
        command = [sys.executable, "run_ring.py", *args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=tmp_path, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_what_a_server_refuses_is_one_sentence_without_the_password(server):
    refused = {
        server.url(password="s3crat"): 'password authentication failed for user "me"; see to the server',
        server.url(user="nobody"): 'password authentication failed for user "nobody"; see to',
        server.url(database="nosuch"): 'database "nosuch" does not exist; see to',
        f"postgresql://127.0.0.1:{server.port}/postgres?user=me&password=s3crat": 'failed for user "me"; see to',
        server.url() + "?sslmode=require": "server does not support SSL, but SSL was required; see to",
        server.url(): "--storage: postgresql at 127.0.0.1: no trials of this dataset yet; start them without --show",
    }
    for url, words in refused.items():
        with pytest.raises(InputError, match=r"^--storage: postgresql at 127\.0\.0\.1: ") as error:
            TrialQueue(url, "ring", {}, read_only=True)
        assert words in str(error.value)
        assert len(str(error.value).splitlines()) == 1
        assert "s3cr" not in str(error.value)


def test_a_server_that_stops_in_the_middle_of_a_grid_ends_it_and_it_goes_on(server, launcher, tmp_path):
    config, folder = tmp_path / "ring.yaml", tmp_path / "runs" / "ring" / "odmt,lr-0.01"
    config.write_text(CONFIG.replace("epochs: 1", f"epochs: {ENDLESS}"))
    launched = launcher("--storage", server.url())
    wait_until((folder / "metrics.jsonl").exists, launched)
    server.stop()
    out, errors = launched.communicate()
    server.start()
    assert launched.returncode == 2
    assert errors.splitlines()[-1].startswith("error: --storage: postgresql at 127.0.0.1: ")
    assert "Traceback" not in errors
    assert PASSWORD not in out + errors

    epochs = end_after(folder, 3)
    config.write_text(CONFIG.replace("epochs: 1", f"epochs: {epochs}"))
    launched = launcher("--storage", server.url())
    out, errors = launched.communicate()
    assert launched.returncode == 0, errors
    assert out.count("| finished |") == 2
    assert epochs_of(folder) == list(range(1, epochs + 1))
    assert "continuing after epoch" in (folder / "output.log").read_text()


def test_a_server_that_was_started_anew_between_two_looks_is_connected_to_again(server):
    """The launcher looks every few seconds; a server that is back by then is no failure."""
    queue = TrialQueue(server.url(), "again", {})
    server.stop()
    server.start()
    queue.enqueue()
    assert queue.newest() == {}
    assert "again" in optuna.get_all_study_names(server.url())
