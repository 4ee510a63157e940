"""When a run is saved and how: from copies in RAM, by a thread, while training goes on.

The best weights are written under a name of their own, then the checkpoint, which says which epoch they are of, then they get
their name. So a kill at any moment leaves a checkpoint and the weights of the epoch that it calls the best.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict

import torch
from torch import Tensor, nn

from odmt import remedies
from odmt.checkpoint import load_metadata, save_tensors, training_state
from odmt.errors import InputError
from odmt.files import move
from odmt.progress import Progress
from odmt.run_folder import RunFolder


class Saver:
    """What writes a run's weights; in the main process alone.

    Args:
        folder: where to.

    Attributes:
        epoch: the last one that was saved, or is being saved.
    """

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.epoch = 0
        self._epochs, self._seconds = folder.config.train.save_interval
        self._since = time.monotonic()  # how old that epoch's end is
        self._writing_took = 0.0
        self._best: tuple[dict[str, Tensor], dict] | None = None  # a copy, of weights that are in no file yet
        self._thread = ThreadPoolExecutor(1, "saver")
        self._written: Future | None = None

    def continued(self, progress: Progress, model: nn.Module):
        """Go on from a checkpoint: bring in place the best weights that belong to it.

        Raises:
            InputError: there are none.
        """
        self.epoch = progress.epoch
        best, waiting = self.folder.best, self.folder.next_best
        if waiting.exists():
            if load_metadata(waiting)["epoch"] == progress.best_epoch:
                move(waiting, best, remedies.go_on())
            else:
                waiting.unlink()
        found = load_metadata(best).get("epoch") if best.exists() else None
        if found == progress.best_epoch:
            return
        if progress.epoch != progress.best_epoch:
            raise InputError(
                f"{best}: the weights of epoch {found}; the best one was {progress.best_epoch}; {remedies.train_anew()}"
            )
        save_tensors(best, model.state_dict(), _notes(progress))  # as earlier versions were killed before they wrote them

    def keep_best(self, progress: Progress, model: nn.Module):
        """Remember the weights of now as the best ones."""
        self._best = _in_ram(model.state_dict()), _notes(progress)

    def is_due(self, progress: Progress, epoch_seconds: float) -> bool:
        """Whether an epoch that has ended is to be saved, since after the next one it would be too late.

        The first always is: what cannot be written to is found early.
        """
        if not self.epoch or progress.epoch - self.epoch >= self._epochs:
            return True
        return time.monotonic() - self._since + epoch_seconds + self._writing_took > self._seconds

    def save(self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer):
        """Have the state of now written; what is written already is waited for, and so is the first.

        Raises:
            InputError: that could not be.
        """
        self.wait()
        first = not self.epoch
        self.epoch, self._since = progress.epoch, time.monotonic()
        tensors, metadata = _in_ram(training_state(model, optimizer)), asdict(progress)
        self._written = self._thread.submit(self._write, tensors, metadata, self._best)
        self._best = None
        if first:
            self.wait()  # nothing is told of a run before there is something to go on from

    def wait(self):
        """Wait until all that was to be written is.

        Raises:
            InputError: it could not be: the disk is full, the folder is gone or cannot be written to.
        """
        if self._written is not None:
            written, self._written = self._written, None
            self._writing_took = written.result()

    def finish(self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer):
        """Have the last epoch written too, and wait for it; raises as `wait`."""
        if self.epoch < progress.epoch:
            self.save(progress, model, optimizer)
        self.wait()

    def close(self):
        """End the thread when it has written; what it meets is not told."""
        self._thread.shutdown()

    def _write(self, tensors: dict[str, Tensor], metadata: dict, best: tuple[dict[str, Tensor], dict] | None) -> float:
        started = time.monotonic()
        if best is not None:
            save_tensors(self.folder.next_best, *best)
        save_tensors(self.folder.last, tensors, metadata)
        if best is not None:
            move(self.folder.next_best, self.folder.best, remedies.go_on())
        return time.monotonic() - started


def _notes(progress: Progress) -> dict:
    return {"epoch": progress.epoch, "basis": progress.basis, "described": progress.described}


def _in_ram(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
