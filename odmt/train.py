"""Train a model and evaluate it: `python -m odmt.train [CONFIG.yaml ...] [KEY=VALUE ...] [--resume | --overwrite]`.

Selection is by validation recall@10 of the fused score; the test set is looked at once, with the best epoch's weights.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from odmt.checkpoint import load_metadata, load_tensors, load_training, save_tensors, save_training
from odmt.cli import report_mistakes
from odmt.config import Config
from odmt.config_files import config_parser, load_config
from odmt.data.batches import Batch, epoch_users, to_device, train_batch
from odmt.data.features import FeatureTable, count_tokens, gather_features, left_out_items, load_features
from odmt.data.interactions import Interactions
from odmt.distributed import World, barrier, mean_over_processes, open_world
from odmt.errors import InputError
from odmt.evaluate import encode_catalogue, rank_targets
from odmt.losses import Objective
from odmt.metrics import popularity_groups, summarize, summarize_groups
from odmt.models.builder import build_recommender
from odmt.models.recommender import Recommender
from odmt.models.towers import ItemTable
from odmt.optimizer import RowwiseAdamW
from odmt.precision import Precision
from odmt.prefetch import one_ahead
from odmt.run_folder import RunFolder

log = logging.getLogger("odmt.train")  # not __name__, which is __main__ when this is the command

SELECTION = "valid/fused/recall@10"
CHECK_EVERY = 50  # steps between looks at the losses, so that a GPU is seldom waited for


class NonFiniteLossError(RuntimeError):
    """A loss that is not a finite number: the run stops, the last good checkpoint stays."""


@dataclass
class Progress:
    """Where a run stands after an epoch.

    Attributes:
        epoch: finished epochs.
        best_epoch: the one with the best validation.
        history: a line of metrics an epoch.
        scaler: state of the fp16 loss scaling.
        data: fingerprint of the interactions.
    """

    epoch: int = 0
    best_epoch: int = 0
    history: list[dict] = field(default_factory=list)
    scaler: dict = field(default_factory=dict)
    data: str = ""

    def best(self) -> float:
        """The best validation recall@10 so far."""
        return self.history[self.best_epoch - 1][SELECTION] if self.best_epoch else -1.0


class Trainer:
    """One run: its data, model, optimizer and progress."""

    def __init__(self, config: Config, world: World, interactions: Interactions, tables: Mapping[str, FeatureTable]):
        self.config, self.world = config, world
        self.interactions, self.tables = interactions, tables
        self.token_counts = count_tokens(tables, interactions.num_items)
        train = config.train
        self.folder = RunFolder(config)
        torch.manual_seed(train.seed)
        self.model = self._build().to(world.device)
        self.parallel = self.model if world.size == 1 else DistributedDataParallel(self.model)
        for module in self.model.modules():
            if isinstance(module, ItemTable):
                # Several processes cannot sum sparse gradients, and a GPU would have to wait to count their rows.
                module.sparse = world.size == 1 and world.device.type == "cpu"
        self.objective = self._objective()
        self.optimizer = RowwiseAdamW(self.model.parameters(), train.lr, train.weight_decay)
        self.precision = Precision.choose(train.precision, world.device)
        self.scaler = self.precision.loss_scaler()
        self.progress = Progress(data=interactions.fingerprint())

    @classmethod
    def load(cls, config: Config, world: World) -> "Trainer":
        """Read the dataset and build the run."""
        data = config.data
        interactions = Interactions.load(data.folder, data.max_seq_len, data.min_seq_len, left_out_items(data.folder))
        return cls(config, world, interactions, load_features(data, interactions, config.model.needs, world.device))

    def __str__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"{self.interactions.num_users} users, {self.interactions.num_items} items, {parameters:,} parameters, "
            f"{self.world.size} x {self.world.device}, {self.precision.dtype}"
        )

    def _build(self) -> Recommender:
        widths = {source: table.width for source, table in self.tables.items()}
        return build_recommender(
            self.config.model,
            self.interactions.num_items,
            self.config.data.max_seq_len,
            widths,
            lambda source: self.tables[source].cls(),
        )

    def _objective(self) -> Objective:
        popularity = torch.from_numpy(self.interactions.popularity(self.config.data.popularity_power))
        log_popularity = popularity.log().float().to(self.world.device)
        separate = self.config.model.fusion == "separate" and self.config.distillation.constant_weight != 0
        return Objective(log_popularity, self.config.model.fusion == "late", self.config.distillation if separate else None)

    def resume(self):
        """Continue from the last checkpoint, where there is one.

        Raises:
            InputError: it was trained on other interactions.
        """
        if self.folder.last.exists():
            if load_metadata(self.folder.last)["data"] != self.progress.data:
                raise InputError(
                    f"{self.folder.last}: trained on other users, items or interactions than {self.config.data.folder} holds now; "
                    "bring these back, --overwrite the run, or set another name="
                )
            self.progress = Progress(**load_training(self.folder.last, self.model, self.optimizer))
            self.scaler.load_state_dict(self.progress.scaler)
            if self.world.is_main:  # the run may have been killed between the checkpoint and the metrics
                self.folder.write_metrics(self.progress.history)

    def fit(self):
        """Train epoch by epoch; every one is validated, checkpointed and logged."""
        patience = self.config.train.patience
        splits = ("valid", "test") if self.config.train.test_curve else ("valid",)
        while self.progress.epoch < self.config.train.epochs:
            if patience and self.progress.epoch - self.progress.best_epoch >= patience:
                log.info("no better validation for %d epochs: stopping", patience)
                break
            started = time.perf_counter()
            losses = self.train_epoch(self.progress.epoch + 1)
            trained = time.perf_counter()
            catalogue = self.catalogue()
            ranks = {split: self.rank(split, catalogue) for split in splits}
            metrics = {f"{split}/{name}": value for split in splits for name, value in summarize(ranks[split]).items()}
            seconds = {"train_seconds": trained - started, "valid_seconds": time.perf_counter() - trained}
            self._finish_epoch({**{f"train/{name}": value for name, value in losses.items()}, **metrics, **seconds})

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the users; returns the mean losses by name.

        An epoch is a function of weights, optimizer, seed, epoch and rank alone: what makes a resumed run the same.
        """
        train, world = self.config.train, self.world
        torch.manual_seed(int(np.random.SeedSequence((train.seed, epoch, world.rank)).generate_state(1)[0]))
        self.parallel.train()
        users = list(epoch_users(self.interactions.num_users, train.batch_size, train.seed, epoch, world.rank, world.size))
        totals, pending = None, []
        bar = tqdm(self.batches(users), f"epoch {epoch}", len(users), leave=False, disable=None if world.is_main else True)
        for step, batch in enumerate(bar, 1):
            losses = self.train_step(batch, epoch)
            pending.append(torch.stack(list(losses.values())))
            if step % CHECK_EVERY == 0 or step == len(users):
                block = torch.stack(pending).cpu().double()
                self._check_finite(block, list(losses), users, step, epoch)
                totals = block.sum(0) if totals is None else totals + block.sum(0)
                pending = []
        self._check_weights(epoch)
        means = mean_over_processes(totals.to(world.device).float() / len(users), world).tolist()
        return dict(zip(losses, means))

    def batches(self, users: list[np.ndarray]) -> Iterator[Batch]:
        """Build batches with their features, for a GPU one step ahead, in a thread."""

        def build(block: np.ndarray) -> Batch:
            batch = train_batch(self.interactions, block, not self.config.model.noisy_items, self.token_counts)
            batch.items.features = gather_features(self.tables, batch.items.numbers)
            return to_device(batch, self.world.device, self.precision.dtype)

        device, built = self.world.device, map(build, users)
        if device.type == "cpu":  # every core computes already, and would wait for the one that builds
            return built
        return one_ahead(built, partial(torch.cuda.set_device, device))  # threads start on the first GPU

    def train_step(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """One step of the optimizer; returns the losses by name, detached."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast():
            states, vectors = self.parallel(batch)
        losses = self.objective(states, vectors, batch, epoch)
        self.scaler.scale(losses["loss"]).backward()
        self.scaler.unscale_(self.optimizer)
        self.optimizer.clip_norm(self.config.train.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {name: loss.detach() for name, loss in losses.items()}

    def catalogue(self) -> dict[str, Tensor]:
        """Vectors of all items [N + 1, D] by source, under the weights of now; row 0 is the padding's."""
        return encode_catalogue(self.model, self.tables, self.interactions.num_items, self.world, self.precision)

    def rank(self, split: str, catalogue: dict[str, Tensor] | None = None) -> dict[str, np.ndarray]:
        """Ranks of all users' held-out items by source, in a catalogue that is encoded here where none is given."""
        return rank_targets(self.model, catalogue or self.catalogue(), self.interactions, split, self.world)

    def _check_finite(self, losses: Tensor, names: list[str], users: list[np.ndarray], step: int, epoch: int):
        bad = torch.nonzero(~losses.isfinite().all(1)).flatten().tolist()
        if not bad:
            return
        index = step - len(losses) + bad[0]
        values = ", ".join(f"{name} {value:g}" for name, value in zip(names, losses[bad[0]].tolist()))
        batch = ", ".join(self.interactions.user_ids[user] for user in users[index][:5])
        raise NonFiniteLossError(
            f"epoch {epoch}, step {index + 1} of {len(users)}: the loss is not finite ({values}); users {batch}, ...; "
            f"{self._remedy()}"
        )

    def _check_weights(self, epoch: int):
        """Refuse what the last step of an epoch left, which no loss has shown yet, before it is saved."""
        finite = torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()])
        if not finite.all():
            raise NonFiniteLossError(f"epoch {epoch}, after the last step: weights are not finite; {self._remedy()}")

    def _remedy(self) -> str:
        last = self.folder.last
        kept = f"the last good checkpoint is {last}" if last.exists() else "there is no checkpoint yet"
        return f"{kept}. Try a smaller train.lr, or train.precision=fp32"

    def _finish_epoch(self, metrics: dict[str, float]):
        progress = self.progress
        progress.epoch += 1
        progress.history.append({"epoch": progress.epoch, **metrics})
        progress.scaler = self.scaler.state_dict()
        is_best = metrics[SELECTION] > progress.best()
        if is_best:
            progress.best_epoch = progress.epoch
        if self.world.is_main:
            if is_best:
                save_tensors(self.folder.best, self.model.state_dict(), {"epoch": progress.epoch, SELECTION: metrics[SELECTION]})
            save_training(self.folder.last, self.model, self.optimizer, asdict(progress))
            self.folder.write_metrics(progress.history)
            self.folder.write_scalars(progress.epoch, metrics)
            log.info(
                "epoch %d/%d  loss %.4f  valid recall@10 %.4f ndcg@10 %.4f%s  (%.1f s + %.1f s)",
                progress.epoch,
                self.config.train.epochs,
                metrics["train/loss"],
                metrics[SELECTION],
                metrics["valid/fused/ndcg@10"],
                " *" if is_best else "",
                metrics["train_seconds"],
                metrics["valid_seconds"],
            )
        barrier(self.world)

    def finish(self) -> dict:
        """Test the best epoch's weights, once; write the ranks and the result."""
        weights, _ = load_tensors(self.folder.best)
        self.model.load_state_dict(weights)
        ranks = self.rank("test")
        targets = self.interactions.targets("test")
        best = self.progress.history[self.progress.best_epoch - 1]
        result = {
            "best_epoch": self.progress.best_epoch,
            "epochs": self.progress.epoch,
            "seconds": sum(line["train_seconds"] + line["valid_seconds"] for line in self.progress.history),
            "valid": {name.removeprefix("valid/"): value for name, value in best.items() if name.startswith("valid/")},
            "test": summarize(ranks),
            "test_groups": summarize_groups(ranks, popularity_groups(self.interactions.train_counts())[targets]),
        }
        if self.world.is_main:
            tensors = {f"test/{source}": torch.from_numpy(rank) for source, rank in ranks.items()}
            tensors["test/target"] = torch.from_numpy(targets.copy())
            save_tensors(self.folder.ranks, tensors, {"best_epoch": self.progress.best_epoch})
            self.folder.write_result(result)
        return result


def train(config: Config, resume: bool = False, overwrite: bool = False) -> dict:
    """Run one configuration to its end, or return the result of a finished run.

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
        trainer = Trainer.load(config, world)
        folder = trainer.folder
        if resume:
            trainer.resume()
        if world.is_main:
            folder.open(overwrite)
        try:
            barrier(world)
            log.info("%s: %s", folder.path, trainer)
            if trainer.progress.epoch:
                log.info("continuing after epoch %d", trainer.progress.epoch)
            trainer.fit()
            return trainer.finish()
        finally:
            folder.close()


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
        config_parser().print_help()
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
    with report_mistakes(NonFiniteLossError):
        sys.exit(main(sys.argv[1:]))
