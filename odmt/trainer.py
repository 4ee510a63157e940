"""A task with optimizer and precision: a step, an epoch and a ranking.

It knows neither files nor families of models; what becomes of a run is the matter of `odmt.train`.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from odmt.compilation import check_compiler
from odmt.config import RunConfig, Split
from odmt.distributed import World, mean_over_processes
from odmt.families import load_task
from odmt.optimizer import clip_norm, set_step_size, step_size
from odmt.ranking import Ranks, rank_held_out
from odmt.speed import Speed, Utilisation, in_words
from odmt.task import EpochBatches, Scorer, Task

CHECK_EVERY = 50  # steps between looks at the losses, so that a GPU is seldom waited for


class NonFiniteLossError(RuntimeError):
    """A loss or a weight that is not a finite number."""


class Trainer:
    """What one process trains.

    Args:
        task: data and model.

    Raises:
        InputError: the step cannot be compiled here.

    Attributes:
        speed: of the last epoch, as `odmt.speed` measures it.
    """

    def __init__(self, task: Task):
        check_compiler(task.compilation, task.world.device)
        self.task, self.config, self.world = task, task.config, task.world
        self.model, self.precision = task.model, task.precision
        self.parallel = self._in_parallel() if self.world.size > 1 else self.model
        self.optimizer = task.optimizer()
        self.scaler = self.precision.loss_scaler()
        self.utilisation = Utilisation(self.world.device, self.precision, task.compilation != "none")
        self.speed: dict[str, float] = {}

    @classmethod
    def load(cls, config: RunConfig, world: World, build=None) -> "Trainer":
        """Read the data of a run and build its model, by `build` where it is given (`odmt.families.load_task`)."""
        return cls(load_task(config, world, build))

    def __str__(self) -> str:
        return f"{self.task}, {self.world.size} x {self.world.device}, {self.precision.dtype}"

    def _in_parallel(self) -> DistributedDataParallel:
        tables = set(self.task.sparse_tables)
        apart = [name for name, parameter in self.model.named_parameters() if parameter in tables]
        apart += [name for name, _ in self.model.named_buffers()]  # the data's, the same in all processes
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, apart)
        return DistributedDataParallel(self.model)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training data; returns the mean losses by name.

        An epoch is a function of weights, optimizer, seed, epoch and rank alone: what makes a resumed run the same.
        """
        train, world = self.config.train, self.world
        torch.manual_seed(int(np.random.SeedSequence((train.seed, epoch, world.rank)).generate_state(1)[0]))
        self.parallel.train()
        steps = self.task.batches(epoch)
        speed = Speed(steps, world.device, world.size)
        totals: Tensor | None = None
        pending: list[Tensor] = []
        bar = tqdm(speed.batches(), f"epoch {epoch}", steps.num_steps, leave=False, disable=None if world.is_main else True)
        for step, batch in enumerate(bar, 1):
            # The middle of a step: the first is no step of size zero, nor is the last.
            set_step_size(self.optimizer, step_size(train, epoch - 1 + (step - 0.5) / steps.num_steps))
            losses = self.utilisation.count(partial(self.train_step, batch, epoch))
            pending.append(torch.stack(list(losses.values())))
            if step % CHECK_EVERY == 0 or step == steps.num_steps:
                block = torch.stack(pending).cpu().double()
                self._check_finite(block, list(losses), steps, step, epoch)
                totals = block.sum(0) if totals is None else totals + block.sum(0)
                pending = []
                self.speed = speed.measure()
                self.speed |= self.utilisation.measure(self.speed["step_seconds"])
                bar.set_postfix_str(in_words(self.speed))
        self._check_weights(epoch)
        assert totals is not None, "an epoch has a step"
        means = mean_over_processes(totals.to(world.device).float() / steps.num_steps, world).tolist()
        return dict(zip(losses, means))

    def train_step(self, batch, epoch: int) -> dict[str, Tensor]:
        """One step of the optimizer; returns the losses by name, detached."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast():
            losses = self.parallel(batch, epoch)
        self.scaler.scale(losses["loss"]).backward()
        if self.world.size > 1:
            self.task.average_gradients(batch)
        self.scaler.unscale_(self.optimizer)
        if self.config.train.clip_norm is not None:
            clip_norm(self.model.parameters(), self.config.train.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.task.after_step()
        return {name: loss.detach() for name, loss in losses.items()}

    def rank(self, split: Split, scorer: Scorer | None = None) -> Ranks:
        """Rank all users' held-out items by source, under the weights of now or those of a scorer that was made before."""
        scorer = scorer or self.task.scorer()
        held_out = self.task.held_out(split)
        return rank_held_out(scorer(split), held_out, lambda users: self.task.seen(users, split), self.world)

    def _check_finite(self, losses: Tensor, names: list[str], steps: EpochBatches, step: int, epoch: int):
        bad = torch.nonzero(~losses.isfinite().all(1)).flatten().tolist()
        if not bad:
            return
        index = step - len(losses) + bad[0]
        values = ", ".join(f"{name} {value:g}" for name, value in zip(names, losses[bad[0]].tolist()))
        raise NonFiniteLossError(
            f"epoch {epoch}, step {index + 1} of {steps.num_steps}: the loss is not finite ({values}); {steps.describe(index)}"
        )

    def _check_weights(self, epoch: int):
        """Refuse what the last step of an epoch left, which no loss has shown yet, before it is saved."""
        finite = torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()])
        if not finite.all():
            raise NonFiniteLossError(f"epoch {epoch}, after the last step: weights are not finite")
