"""What a run leaves behind, RUNS/DATASET/NAME/, and how it is opened, continued and closed."""

import fcntl
import json
import logging
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import IO

import torch

from odmt.config import RunConfig
from odmt.config_files import flatten, load_config, save_config
from odmt.errors import InputError
from odmt.files import write_text

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:  # the extra `tensorboard` is not installed
    SummaryWriter = None

log = logging.getLogger(__name__)

# Where the same run may be continued with another value: they decide where it runs, not what it computes.
FREE_KEYS = {"runs", "data.root", "data.placement", "data.device_budget_gb", "data.pinned_budget_gb", "train.device"}
LOCKS = {"lock", "reserved"}  # held by the run itself; by the launcher that has taken it


def reserve(folder: Path, name: str = "lock") -> IO | None:
    """Make a run's folder and hold a file of it until that is closed here and wherever it is inherited; None: somebody holds it.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("a")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error}); set runs= to a folder that can") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        log.warning("%s: the file system cannot lock (%s), so nobody stops a second process from training this run", folder, error)
    return file


class RunFolder:
    """The files of one run; only the main process writes.

    config.yaml (resolved), environment.json (versions, commit, machine, encoders), train.log, metrics.jsonl (a line an epoch),
    last.safetensors (everything the next epoch depends on), best.safetensors (weights of the best epoch), tensorboard/,
    ranks.safetensors (test rank of every user), training_curve.png, result.json (written last: the run is finished), lock (held
    while the run is trained) and, with a launcher, reserved (held while it has the run).
    """

    def __init__(self, config: RunConfig):
        self.config = config
        self.path = config.folder
        self._lock: IO | None = None
        self._log: logging.Handler | None = None
        self._writer: SummaryWriter | None = None

    @property
    def last(self) -> Path:
        """The checkpoint to continue from."""
        return self.path / "last.safetensors"

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.path / "best.safetensors"

    @property
    def ranks(self) -> Path:
        """The test ranks."""
        return self.path / "ranks.safetensors"

    def result(self) -> dict | None:
        """The result of a finished run, None where there is none yet or more epochs are asked for now."""
        path = self.path / "result.json"
        if not path.is_file() or self.config.train.epochs > self._started_with().train.epochs:
            return None
        return json.loads(path.read_text(encoding="utf-8"))

    def _started_with(self) -> RunConfig:
        return load_config([str(self.path / "config.yaml")])

    def check(self, resume: bool, overwrite: bool):
        """Refuse to mix two runs; but a run may be continued for more epochs.

        Raises:
            InputError: the folder holds a run and neither flag is set, or both are, or it was started with another
                configuration.
        """
        if resume and overwrite:
            raise InputError("--resume continues a run, --overwrite replaces it: give one of them")
        started = self.path / "config.yaml"
        if overwrite or not started.exists():
            return
        if not resume:
            raise InputError(
                f"{self.path}: holds a run already; continue it with --resume, replace it with --overwrite, or set name="
            )
        before, now = dict(flatten(self._started_with())), dict(flatten(self.config))
        free = FREE_KEYS | ({"train.epochs"} if now["train.epochs"] > before["train.epochs"] else set())
        differing = [f"{key}={before[key]} (now {now[key]})" for key in now if before[key] != now[key] and key not in free]
        if differing:
            raise InputError(f"{started}: the run was started with {', '.join(differing)}; --overwrite it or set another name=")

    def reserve(self):
        """Make the folder and hold it until `close`.

        Raises:
            InputError: another process trains this run; the folder cannot be made.
        """
        self._lock = self._lock or reserve(self.path)
        if self._lock is None:
            raise InputError(f"{self.path}: another process trains this run; wait for it, end it, or set another name=")

    def open(self, overwrite: bool, provenance: dict):
        """Note what runs where and on what, and send the log to the folder too; to overwrite, empty the folder first."""
        self.reserve()
        if overwrite:
            self._empty()
        (self.path / "result.json").unlink(missing_ok=True)  # of a run that is continued for more epochs
        save_config(self.config, self.path / "config.yaml")
        self._write_environment(provenance)
        self._log = logging.FileHandler(self.path / "train.log", encoding="utf-8")
        self._log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("odmt").addHandler(self._log)

    def _empty(self):
        """Delete the checkpoint first and the configuration last: killed in between, nothing is continued as what it is not."""
        order = sorted(self.path.iterdir(), key=lambda path: (path == self.path / "config.yaml", path != self.last))
        for path in order:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in LOCKS:
                path.unlink()

    def _write_environment(self, provenance: dict):
        """Write environment.json; of a run that is continued, what it held before stays, under `before`."""
        path = self.path / "environment.json"
        now = environment() | provenance
        if path.exists():
            earlier = json.loads(path.read_text(encoding="utf-8"))
            now["before"] = [*earlier.pop("before", []), earlier]
        write_text(path, json.dumps(now, indent=2) + "\n")

    def note(self, text: str):
        """Write to train.log alone what is shown elsewhere."""
        if self._log is not None:
            self._log.emit(logging.makeLogRecord({"msg": text, "levelno": logging.INFO}))

    def close(self):
        """End what `open` began and let the folder go: the next run of this process has one of its own."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._log is not None:
            logging.getLogger("odmt").removeHandler(self._log)
            self._log.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write_metrics(self, history: list[dict]):
        """Write metrics.jsonl anew: a killed run never leaves half a line or an epoch twice."""
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history))

    def write_scalars(self, epoch: int, metrics: dict[str, float]):
        """Write TensorBoard scalars, where TensorBoard is installed."""
        if SummaryWriter is None:
            return
        if self._writer is None:
            self._writer = SummaryWriter(self.path / "tensorboard", purge_step=epoch)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def write_result(self, result: dict):
        """Write result.json, which says that the run is finished."""
        write_text(self.path / "result.json", json.dumps(result, indent=2) + "\n")


def environment() -> dict:
    """Versions, commit, machine and command of this process."""
    packages = {name: version(name) for name in ("odmt", "torch", "transformers", "numpy", "lmdb", "safetensors")}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "command": sys.argv,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": packages,
        "machine": {"system": platform.platform(), "cpu_threads": torch.get_num_threads(), "gpus": gpus},
    }


def _commit() -> str | None:
    """The commit of the project's own checkout, None where it is installed without one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
