"""Train a model and evaluate it: `python -m odmt.train [CONFIG.yaml ...] [KEY=VALUE ...] [--resume | --overwrite] [--processes N]`.

Selection is by the family's metric on validation (`RunConfig.selection`); the test set is looked at once, with the best epoch's
weights.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from odmt import remedies
from odmt.checkpoint import load_metadata, load_tensors, load_training, put_weights, save_tensors
from odmt.cli import report_mistakes
from odmt.config import RunConfig, Split
from odmt.config_files import config_help, load_config
from odmt.cores import rank_and_size
from odmt.distributed import World, in_main, open_world
from odmt.local_processes import check_devices, has_to_start, run_in_processes, split_processes
from odmt.metrics import chosen_by
from odmt.progress import Progress, check_basis
from odmt.ranking import Ranks
from odmt.result import MOST_POPULAR, result_table, summary, work_out_result
from odmt.run_folder import RunFolder
from odmt.saving import Saver
from odmt.speed import in_words
from odmt.trainer import NonFiniteLossError, Trainer

log = logging.getLogger("odmt.train")  # not __name__, which is __main__ when this is the command

REMEDIES = "try a larger train.lr, a smaller train.batch_size (more steps an epoch) or more train.epochs"
TIES_WORTH_A_WORD = 1e-3  # share of held-out items with rivals of equal score


class Run:
    """A trainer, the folder it leaves its results in, and how far it is."""

    def __init__(self, trainer: Trainer, folder: RunFolder):
        self.trainer, self.task, self.folder = trainer, trainer.task, folder
        self.config, self.world = trainer.config, trainer.world
        self.progress = Progress(basis=self.fingerprint(), described=str(self.task))
        self.saver = Saver(folder)
        self._said: dict[str, float] = {}  # shares of ties that were told of

    def fingerprint(self) -> dict[str, str]:
        """What the numbers depend on beside the configuration: it stays the same from a run's first epoch to its last."""
        return {
            **self.task.fingerprint(),
            "processes": str(self.world.size),
            "precision": str(self.trainer.precision.dtype).removeprefix("torch."),
            "compilation": self.task.compilation,
        }

    def resume(self):
        """Continue from the last checkpoint, where there is one.

        Raises:
            InputError: it was trained on other data or in another way than this process would.
        """
        if not self.folder.last.exists():
            return
        noted, now = load_metadata(self.folder.last), self.progress.basis
        noted["basis"] = Progress.read(noted, self.folder.last, self.config.selection).basis
        instead = f"replace the run with {remedies.overwrite()}, or {self.folder.another_name()}"
        check_basis(self.folder.last, noted, now, self.task, instead)
        metadata = load_training(self.folder.last, self.trainer.model, self.trainer.optimizer)
        self.progress = Progress.read(metadata, self.folder.last, self.config.selection)
        self.progress.basis, self.progress.described = now, str(self.task)
        self.trainer.scaler.load_state_dict(self.progress.scaler)
        self.task.load_state_dict(self.progress.task)

        def bring_in_line():
            self.saver.continued(self.progress, self.trainer.model)
            self.folder.write_metrics(self.progress.history)

        in_main(bring_in_line, self.world)  # the run may have been killed between any two files

    def fit(self):
        """Train epoch by epoch; every one is validated and logged, and those that `train.save_every` asks for are saved.

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
        in_main(lambda: self.saver.finish(self.progress, self.trainer.model, self.trainer.optimizer), self.world)

    def _epoch(self, epoch: int) -> dict[str, float]:
        """Train and validate once; returns the losses, the metrics and the seconds."""
        started = time.perf_counter()
        try:
            losses = self.trainer.train_epoch(epoch)
        except NonFiniteLossError as error:
            self.saver.wait()
            last = self.folder.last
            kept = f"the last good checkpoint is {last}" if last.exists() else "there is no checkpoint yet"
            other = "" if self.trainer.precision.dtype == torch.float32 else ", or train.precision=fp32"
            raise NonFiniteLossError(f"{error}; {kept}. Try a smaller train.lr{other}") from error
        trained = time.perf_counter()
        scorer = self.task.scorer()
        ranks = {split: self.trainer.rank(split, scorer) for split in self._splits()}
        metrics = {f"{split}/{name}": value for split in ranks for name, value in summary(self.config, ranks[split]).items()}
        self._remark_ties(ranks[next(iter(ranks))], epoch)
        seconds = {"train_seconds": trained - started, "valid_seconds": time.perf_counter() - trained}
        return {**{f"train/{name}": value for name, value in losses.items()}, **metrics, **seconds, **self.trainer.speed}

    def _splits(self) -> list[Split]:
        """What is ranked after every epoch: the split that selects first."""
        ranked = [self.config.selecting_split]
        if self.config.train.test_curve and "test" not in ranked:
            ranked.append("test")
        return ranked

    def _remark_ties(self, ranks: Ranks, epoch: int):
        for source, share in ranks.tied.items():
            if share > max(TIES_WORTH_A_WORD, 2 * self._said.get(source, 0.0)):
                self._said[source] = share
                log.info(
                    "epoch %d: %.1f %% of the held-out items have rivals of equal %s score; they rank at the mean of these places",
                    epoch,
                    100 * share,
                    source,
                )

    def _finish_epoch(self, metrics: dict[str, float]):
        progress = self.progress
        progress.epoch += 1
        progress.history.append({"epoch": progress.epoch, **metrics})
        progress.scaler = self.trainer.scaler.state_dict()
        progress.task = self.task.state_dict()
        selection = self.config.selection
        if metrics[selection] > progress.best(selection):
            progress.best_epoch = progress.epoch
        in_main(lambda: self._keep(metrics), self.world)

    def _keep(self, metrics: dict[str, float]):
        """Save what is due of the epoch, and tell of it."""
        progress, selection, model = self.progress, self.config.selection, self.trainer.model
        self.saver.wait()  # so that no more is told of than a kill may lose
        if progress.best_epoch == progress.epoch:
            self.saver.keep_best(progress, model)
        if self.saver.is_due(progress, metrics["train_seconds"] + metrics["valid_seconds"]):
            self.saver.save(progress, model, self.trainer.optimizer)
        self.folder.write_metrics(progress.history)
        self.folder.write_scalars(progress.epoch, metrics)
        split, source, name = selection.split("/")
        cutoff = name.partition("@")[2]
        shown = " ".join(f"{kind}@{cutoff} {metrics[f'{split}/{source}/{kind}@{cutoff}']:.4f}" for kind in self._shown())
        log.info(
            "epoch %d/%d  loss %.4f  %s %s%s  (%.1f s + %.1f s; %s)",
            progress.epoch,
            self.config.train.epochs,
            metrics["train/loss"],
            split,
            shown,
            " *" if progress.best_epoch == progress.epoch else "",
            metrics["train_seconds"],
            metrics["valid_seconds"],
            in_words(self.trainer.speed),
        )

    def _shown(self) -> Sequence[str]:
        """The metrics of an epoch's line in the log."""
        return self.config.evaluation.metrics[:2]

    def finish(self) -> dict:
        """Test the best epoch's weights, once; write the ranks, the training curve and the result."""
        weights, _ = load_tensors(self.folder.best)
        put_weights(self.trainer.model, weights, self.folder.best)
        scorer = self.task.scorer()
        ranks = self.trainer.rank("test", scorer)
        result = work_out_result(self.task, scorer, ranks, self.progress)
        split, _, metric = self.config.selection.split("/")
        popular = result["most_popular"]

        def write():
            from odmt.training_curve import draw_training_curve  # with Matplotlib, which nothing before the end of a run needs

            tensors = {f"test/{source}": torch.from_numpy(rank) for source, rank in ranks.items()}
            tensors["test/target"] = torch.from_numpy(self.task.held_out("test").items)
            tensors["test/offsets"] = torch.from_numpy(ranks.offsets)
            save_tensors(self.folder.ranks, tensors, {"best_epoch": self.progress.best_epoch})
            baseline = popular[split][f"{MOST_POPULAR}/{metric}"]
            draw_training_curve(self.folder.curve, self.progress.history, self.config.selection, {MOST_POPULAR: baseline})
            self.folder.track_result(result)
            self.folder.write_result(result)
            self.folder.note(f"test, {result['test_users']} users:\n{result_table(result)}")
            if result["test"][f"fused/{metric}"] <= popular["test"][f"{MOST_POPULAR}/{metric}"]:
                log.info("test %s is no better than that of the most popular items for everybody: %s", metric, REMEDIES)

        in_main(write, self.world)
        return result


def train(config: RunConfig, resume: bool = False, overwrite: bool = False, build: Callable | None = None) -> dict:
    """Run one configuration to its end, or return the result of a finished run.

    Args:
        config: the run.
        resume: continue a run of the same configuration from its last epoch.
        overwrite: replace a run of the same name.
        build: makes the model instead of the family's own builder, which has the same arguments
            (`odmt.sequential.task.build_model`); such a model is trained, validated, saved, continued and tested alike.

    Raises:
        InputError: a mistake in configuration or data, before anything is written.
        NonFiniteLossError: training diverged.
    """
    folder = RunFolder(config)
    folder.check(resume, overwrite)
    if resume and (result := folder.finished()):
        log.info("%s: finished already", folder.path)
        return result
    with open_world(config.train.device) as world, _shown_epochs(world):
        run = Run(Trainer.load(config, world, build), folder)
        try:
            in_main(folder.reserve, world)
            in_main(lambda: folder.check(resume, overwrite), world)  # again, now that no other process can change it
            if resume:
                run.resume()
            in_main(lambda: folder.open(overwrite, run.task.provenance()), world)
            log.info("%s: %s", folder.path, str(run.trainer))  # whoever keeps the record keeps no model
            for remark in run.task.remarks():
                log.info(remark)
            if run.progress.epoch:
                log.info("continuing after epoch %d", run.progress.epoch)
            run.fit()
            return run.finish()
        finally:
            run.saver.close()
            folder.close()


@contextmanager
def _shown_epochs(world: World) -> Iterator[None]:
    """Let a line an epoch reach the screen and train.log, of one process and unless the caller has chosen another level."""
    logger, shown = logging.getLogger("odmt"), logging.StreamHandler()
    quiet, handled = logger.level == logging.NOTSET and world.is_main, logger.hasHandlers()
    if quiet:
        logger.setLevel(logging.INFO)
    if not handled:
        logger.addHandler(shown)
    try:
        yield
    finally:
        logger.removeHandler(shown)
        if quiet:
            logger.setLevel(logging.NOTSET)


def main(args: list[str]) -> int:
    """The command line; returns the exit status."""
    if {"-h", "--help"} & set(args):
        print(config_help([arg for arg in args if arg not in ("-h", "--help")]), end="")
        return 0
    num_processes, rest = split_processes(args)
    flags = {"--resume", "--overwrite"}
    is_main = rank_and_size()[0] == 0
    logging.basicConfig(level=logging.INFO if is_main else logging.ERROR, format="%(message)s", stream=sys.stderr)
    config = load_config([arg for arg in rest if arg not in flags])
    resume, overwrite = "--resume" in args, "--overwrite" in args
    if has_to_start(num_processes):
        config.check_processes(num_processes)
        check_devices(num_processes, config.train.device)
        folder = RunFolder(config)
        folder.check(resume, overwrite)
        if not (resume and folder.finished()):
            return run_in_processes(num_processes, ["-m", "odmt.train", *args], remedies.go_on())
    result = train(config, resume, overwrite)
    if is_main:
        best = f"epoch {result['best_epoch']}, the best of {result['epochs']} by {chosen_by(config.selection)}"
        users = f" ({result['test_users']} users)" if "test_users" in result else ""  # not of an earlier version's runs
        print(f"test metrics{users} of {best}:")
        print(result_table(result))
        if published := result.get("published"):
            print("\nas the official evaluator works them out, which are no standard metrics:")
            for name, value in published.items():
                print(f"{name}: {value:.4f}")
    return 0


if __name__ == "__main__":
    with report_mistakes(NonFiniteLossError, interrupted="interrupted; with --resume the same command goes on"):
        sys.exit(main(sys.argv[1:]))
