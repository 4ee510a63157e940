"""Train a model and evaluate it: `python -m odmt.train [CONFIG.yaml ...] [KEY=VALUE ...] [--resume | --overwrite]`.

Selection is by validation recall@10 of the fused score; the test set is looked at once, with the best epoch's weights.
"""

import logging
import os
import sys
import time
from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
import torch

from odmt.checkpoint import load_metadata, load_tensors, load_training, save_tensors, save_training
from odmt.cli import report_mistakes
from odmt.config import Config
from odmt.config_files import config_help, load_config
from odmt.distributed import barrier, in_main, open_world
from odmt.errors import InputError
from odmt.features.tables import read_encoders
from odmt.metrics import popularity_groups, summarize, summarize_groups
from odmt.run_folder import RunFolder
from odmt.sequential.interactions import Interactions
from odmt.trainer import Build, NonFiniteLossError, Trainer, build_model
from odmt.training_curve import draw_training_curve

log = logging.getLogger("odmt.train")  # not __name__, which is __main__ when this is the command

SELECTION = "valid/fused/recall@10"


@dataclass
class Progress:
    """Where a run stands after an epoch.

    Attributes:
        epoch: finished epochs.
        best_epoch: the one with the best validation.
        history: a line of metrics an epoch.
        scaler: state of the fp16 loss scaling.
        basis: what the numbers depend on beside the configuration, by name (`Run.basis`).
    """

    epoch: int = 0
    best_epoch: int = 0
    history: list[dict] = field(default_factory=list)
    scaler: dict = field(default_factory=dict)
    basis: dict[str, str] = field(default_factory=dict)

    def best(self) -> float:
        """The best validation recall@10 so far."""
        return self.history[self.best_epoch - 1][SELECTION] if self.best_epoch else -1.0


class Run:
    """A trainer, the folder it leaves its results in, and how far it is."""

    def __init__(self, trainer: Trainer, folder: RunFolder):
        self.trainer, self.folder = trainer, folder
        self.config, self.world = trainer.config, trainer.world
        self.encoders = read_encoders(self.config.data.folder, trainer.tables)
        self.progress = Progress(basis=self.basis())

    def basis(self) -> dict[str, str]:
        """What the numbers depend on beside the configuration: it stays the same from a run's first epoch to its last."""
        return {
            "interactions": self.trainer.interactions.fingerprint(),
            **{f"{source} features": header.fingerprint() for source, header in self.encoders.items()},
            "model": self.trainer.built_by,
            "processes": str(self.world.size),
            "precision": str(self.trainer.precision.dtype).removeprefix("torch."),
        }

    def resume(self):
        """Continue from the last checkpoint, where there is one.

        Raises:
            InputError: it was trained on other data or in another way than this process would.
        """
        if not self.folder.last.exists():
            return
        before, now = load_metadata(self.folder.last).get("basis", {}), self.progress.basis
        if differing := [f"{key} {before.get(key)} (now {value})" for key, value in now.items() if before.get(key) != value]:
            raise InputError(
                f"{self.folder.last}: trained with other {', '.join(differing)}; bring that back (data are now read from "
                f"{self.config.data.folder}), --overwrite the run, or set another name="
            )
        self.progress = Progress(**load_training(self.folder.last, self.trainer.model, self.trainer.optimizer))
        self.trainer.scaler.load_state_dict(self.progress.scaler)
        if self.world.is_main:  # the run may have been killed between the checkpoint and what follows it
            self._write_epoch()

    def fit(self):
        """Train epoch by epoch; every one is validated, checkpointed and logged.

        Deviation: the official code never evaluates its last epoch, and writes a checkpoint every 100th.

        Raises:
            NonFiniteLossError: training diverged.
        """
        patience = self.config.train.patience
        while self.progress.epoch < self.config.train.epochs:
            if patience and self.progress.epoch - self.progress.best_epoch >= patience:
                log.info("no better validation for %d epochs: stopping", patience)
                break
            self._finish_epoch(self._epoch(self.progress.epoch + 1))

    def _epoch(self, epoch: int) -> dict[str, float]:
        """Train and validate once; returns the losses, the metrics and the seconds."""
        started = time.perf_counter()
        try:
            losses = self.trainer.train_epoch(epoch)
        except NonFiniteLossError as error:
            last = self.folder.last
            kept = f"the last good checkpoint is {last}" if last.exists() else "there is no checkpoint yet"
            raise NonFiniteLossError(f"{error}; {kept}. Try a smaller train.lr, or train.precision=fp32") from error
        trained = time.perf_counter()
        splits = ("valid", "test") if self.config.train.test_curve else ("valid",)
        catalogue = self.trainer.catalogue()
        ranks = {split: self.trainer.rank(split, catalogue) for split in splits}
        metrics = {f"{split}/{name}": value for split in splits for name, value in summarize(ranks[split]).items()}
        seconds = {"train_seconds": trained - started, "valid_seconds": time.perf_counter() - trained}
        return {**{f"train/{name}": value for name, value in losses.items()}, **metrics, **seconds}

    def _finish_epoch(self, metrics: dict[str, float]):
        progress = self.progress
        progress.epoch += 1
        progress.history.append({"epoch": progress.epoch, **metrics})
        progress.scaler = self.trainer.scaler.state_dict()
        if metrics[SELECTION] > progress.best():
            progress.best_epoch = progress.epoch
        if self.world.is_main:
            save_training(self.folder.last, self.trainer.model, self.trainer.optimizer, asdict(progress))
            self._write_epoch()
            self.folder.write_scalars(progress.epoch, metrics)
            log.info(
                "epoch %d/%d  loss %.4f  valid recall@10 %.4f ndcg@10 %.4f%s  (%.1f s + %.1f s)",
                progress.epoch,
                self.config.train.epochs,
                metrics["train/loss"],
                metrics[SELECTION],
                metrics["valid/fused/ndcg@10"],
                " *" if progress.best_epoch == progress.epoch else "",
                metrics["train_seconds"],
                metrics["valid_seconds"],
            )
        barrier(self.world)

    def _write_epoch(self):
        """Write what follows from the checkpoint: the metrics so far, and the weights where they are the best ones."""
        progress = self.progress
        if progress.best_epoch == progress.epoch:
            save_tensors(self.folder.best, self.trainer.model.state_dict(), {"epoch": progress.epoch})
        self.folder.write_metrics(progress.history)

    def finish(self) -> dict:
        """Test the best epoch's weights, once; write the ranks, the training curve and the result."""
        weights, _ = load_tensors(self.folder.best)
        self.trainer.model.load_state_dict(weights)
        ranks = self.trainer.rank("test")
        targets = self.trainer.interactions.targets("test")
        best = self.progress.history[self.progress.best_epoch - 1]
        result = {
            "best_epoch": self.progress.best_epoch,
            "epochs": self.progress.epoch,
            "seconds": sum(line["train_seconds"] + line["valid_seconds"] for line in self.progress.history),
            "valid": {name.removeprefix("valid/"): value for name, value in best.items() if name.startswith("valid/")},
            "test": summarize(ranks),
            "test_groups": summarize_groups(ranks, popularity_groups(self.trainer.interactions.train_counts())[targets]),
        }
        if self.world.is_main:
            tensors = {f"test/{source}": torch.from_numpy(rank) for source, rank in ranks.items()}
            tensors["test/target"] = torch.from_numpy(targets.copy())
            save_tensors(self.folder.ranks, tensors, {"best_epoch": self.progress.best_epoch})
            draw_training_curve(self.folder.path)
            self.folder.write_result(result)
        return result


def train(config: Config, resume: bool = False, overwrite: bool = False, build: Build = build_model) -> dict:
    """Run one configuration to its end, or return the result of a finished run.

    Args:
        config: the run.
        resume: continue a run of the same configuration from its last epoch.
        overwrite: replace a run of the same name.
        build: makes the model; another one's is trained, validated, saved, continued and tested alike.

    Raises:
        InputError: a mistake in configuration or data, before anything is written.
        NonFiniteLossError: training diverged.
    """
    folder = RunFolder(config)
    folder.check(resume, overwrite)
    if resume and (result := folder.result()):
        log.info("%s: finished already", folder.path)
        return result
    with open_world(config.train.device) as world:
        run = Run(Trainer.load(config, world, build), folder)
        try:
            in_main(folder.reserve, world)
            in_main(lambda: folder.check(resume, overwrite), world)  # again, now that no other process can change it
            if resume:
                run.resume()
            in_main(lambda: folder.open(overwrite, run.encoders), world)
            log.info("%s: %s", folder.path, run.trainer)
            for remark in remarks(run.trainer.interactions):
                log.info(remark)
            if run.progress.epoch:
                log.info("continuing after epoch %d", run.progress.epoch)
            run.fit()
            return run.finish()
        finally:
            folder.close()


def remarks(interactions: Interactions) -> list[str]:
    """What a reader of the metrics should know of the data."""
    found = []
    if repeated := interactions.num_repeated("test"):
        found.append(
            f"{repeated} of {interactions.num_users} test items stand in their user's own history, which is masked: they are misses"
        )
    longest, wanted = int(np.diff(interactions.offsets).max()), interactions.max_seq_len + 3
    if longest < wanted:
        found.append(
            f"no user has more than {longest} interactions, though data.max_seq_len={interactions.max_seq_len} uses {wanted}; if "
            f"there were more, prepare.py --last {wanted} keeps them"
        )
    return found


def result_table(metrics: dict[str, float]) -> str:
    """Metrics by source (rows) as a Markdown table."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        source, metric = name.split("/")
        rows.setdefault(source, {})[metric] = value
    return pd.DataFrame.from_dict(rows, orient="index").to_markdown(floatfmt=".4f")


def main(args: list[str]) -> int:
    """The command line; returns the exit status."""
    if {"-h", "--help"} & set(args):
        print(config_help(), end="")
        return 0
    flags = {"--resume", "--overwrite"}
    is_main = int(os.environ.get("RANK", 0)) == 0
    logging.basicConfig(level=logging.INFO if is_main else logging.ERROR, format="%(message)s", stream=sys.stderr)
    result = train(load_config([arg for arg in args if arg not in flags]), "--resume" in args, "--overwrite" in args)
    if is_main:
        print(f"test metrics of epoch {result['best_epoch']}, the best of {result['epochs']} by validation recall@10:")
        print(result_table(result["test"]))
    return 0


if __name__ == "__main__":
    with report_mistakes(NonFiniteLossError, interrupted="interrupted; with --resume the same command goes on"):
        sys.exit(main(sys.argv[1:]))
