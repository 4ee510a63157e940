"""What one process trains: data, model, losses, optimizer and precision, and a step, an epoch and a ranking with them.

It knows no files but the dataset's; what becomes of a run is the matter of `odmt.train`.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from odmt.config import Config
from odmt.distributed import World, mean_over_processes
from odmt.errors import InputError
from odmt.evaluate import encode_catalogue, rank_targets
from odmt.features.items import to_device
from odmt.features.tables import FeatureTable, count_tokens, gather_features, left_out_items, load_features
from odmt.optimizer import RowwiseAdamW
from odmt.precision import Precision
from odmt.prefetch import one_ahead
from odmt.sequential.batches import Batch, epoch_users, train_batch
from odmt.sequential.interactions import Interactions
from odmt.sequential.losses import Objective
from odmt.sequential.models.builder import build_recommender
from odmt.sequential.models.recommender import Recommender
from odmt.sequential.models.towers import ItemTable

CHECK_EVERY = 50  # steps between looks at the losses, so that a GPU is seldom waited for


class NonFiniteLossError(RuntimeError):
    """A loss or a weight that is not a finite number."""


def build_model(config: Config, interactions: Interactions, tables: Mapping[str, FeatureTable]) -> Recommender:
    """Build the model that the configuration describes, for these items and features."""
    widths = {source: table.width for source, table in tables.items()}
    return build_recommender(
        config.model, interactions.num_items, config.data.max_seq_len, widths, lambda source: tables[source].cls()
    )


Build = Callable[[Config, Interactions, Mapping[str, FeatureTable]], Recommender]


class Trainer:
    """A model and everything that a step of its training needs.

    Args:
        config: the run.
        world: the processes.
        interactions: of all users.
        tables: the features of their items by modality.
        build: makes the model.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        interactions: Interactions,
        tables: Mapping[str, FeatureTable],
        build: Build = build_model,
    ):
        if min(interactions.num_users, interactions.num_items) < world.size:
            raise InputError(
                f"{world.size} processes for {interactions.num_users} users and {interactions.num_items} items: start no more "
                "processes than there are of either"
            )
        self.config, self.world = config, world
        self.interactions, self.tables = interactions, tables
        self.token_counts = count_tokens(tables, interactions.num_items)
        train = config.train
        torch.manual_seed(train.seed)
        self.built_by = f"{build.__module__}.{getattr(build, '__qualname__', type(build).__qualname__)}"
        self.model = build(config, interactions, tables).to(world.device)
        self.parallel = self.model if world.size == 1 else DistributedDataParallel(self.model)
        for module in self.model.modules():
            if isinstance(module, ItemTable):
                # Several processes cannot sum sparse gradients, and a GPU would have to wait to count their rows.
                module.sparse = world.size == 1 and world.device.type == "cpu"
        self.objective = self._objective()
        self.optimizer = RowwiseAdamW(self.model.parameters(), train.lr, train.weight_decay)
        self.precision = Precision.choose(train.precision, world.device)
        self.scaler = self.precision.loss_scaler()

    @classmethod
    def load(cls, config: Config, world: World, build: Build = build_model) -> "Trainer":
        """Read the dataset and the features that `config.model` needs, and build the model."""
        data = config.data
        interactions = Interactions.load(data.folder, data.max_seq_len, data.min_seq_len, left_out_items(data.folder))
        tables = load_features(data, interactions, config.model.needs, world.device)
        return cls(config, world, interactions, tables, build)

    def __str__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"{self.interactions.num_users} users, {self.interactions.num_items} items, {parameters:,} parameters, "
            f"{self.world.size} x {self.world.device}, {self.precision.dtype}"
        )

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
            f"epoch {epoch}, step {index + 1} of {len(users)}: the loss is not finite ({values}); users {batch}, ..."
        )

    def _check_weights(self, epoch: int):
        """Refuse what the last step of an epoch left, which no loss has shown yet, before it is saved."""
        finite = torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()])
        if not finite.all():
            raise NonFiniteLossError(f"epoch {epoch}, after the last step: weights are not finite")

    def _objective(self) -> Objective:
        popularity = torch.from_numpy(self.interactions.popularity(self.config.data.popularity_power))
        log_popularity = popularity.log().float().to(self.world.device)
        separate = self.config.model.fusion == "separate" and self.config.distillation.constant_weight != 0
        return Objective(log_popularity, self.config.model.fusion == "late", self.config.distillation if separate else None)
