"""The sequential models as a `Task`: data, model, losses, batches and scores of a run."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import islice
from operator import add
from typing import cast

import numpy as np
import torch
from torch import Tensor

from odmt.compilation import as_tensor, choose_mode, compiled
from odmt.config import Split
from odmt.distributed import World, reduce_rows
from odmt.errors import InputError
from odmt.features.dataset import may_be_cut
from odmt.features.items import to_device
from odmt.features.labels import Labels, read_labels
from odmt.features.tables import (
    FeatureTable,
    count_tokens,
    describe_encoders,
    feature_fingerprints,
    gather_features,
    left_out_items,
    load_features,
    open_table,
    renamed_contents,
)
from odmt.item_lists import ItemLists
from odmt.optimizer import SparseGradAdamW
from odmt.precision import Precision
from odmt.ranking import ScoreBlock, out_of_reach
from odmt.sequential.batches import Batch, Sequences, epoch_users, history_inputs, join, touched_items, train_batch
from odmt.sequential.config import Config, DataConfig
from odmt.sequential.interactions import Interactions
from odmt.sequential.losses import Objective
from odmt.sequential.models.builder import build_recommender
from odmt.sequential.models.recommender import Recommender
from odmt.sequential.models.sgfd import SgfdSource
from odmt.sequential.models.towers import ItemTable
from odmt.sequential.padding import Padding
from odmt.sequential.scoring import encode_catalogue, encode_new_items, held_out, score_blocks, score_states, user_states
from odmt.task import EpochBatches, People, Scorer, Task, Vectors, builder_name
from odmt.transfer import prepared

EXAMPLES = 64  # batches whose mean sizes those of all are multiples of


def build_model(config: Config, interactions: Interactions, tables: Mapping[str, FeatureTable]) -> Recommender:
    """Build the model that the configuration describes, for these items and features."""
    widths, sgfd = {source: table.width for source, table in tables.items()}, None
    if config.model.learns_categories:
        labels = load_labels(config, interactions)
        numbers = torch.from_numpy(np.append(-1, labels.numbers))  # 0 is padding
        sgfd = SgfdSource(config.sgfd.settings("bm3"), numbers, len(labels.names))
    return build_recommender(
        config.model, interactions.num_items, config.data.max_seq_len, widths, lambda source: tables[source].cls(), sgfd
    )


def load_labels(config: Config, interactions: Interactions) -> Labels:
    """Read the categories of the items."""
    return read_labels(config.data.folder / "labels.tsv", interactions.item_ids)


Build = Callable[[Config, Interactions, Mapping[str, FeatureTable]], Recommender]


def load(config: Config, world: World, build: Build | None = None) -> "SequentialTask":
    """Read the dataset and the features that `config.model` needs, and build the model."""
    interactions = load_interactions(config.data)
    tables = load_features(config.data, interactions.item_ids, config.model.needs, world.device)
    return SequentialTask(config, world, interactions, tables, build or build_model)


def load_interactions(data: DataConfig) -> Interactions:
    """Read a dataset's tables, without the items that the extraction of features left out."""
    return Interactions.load(data.folder, data.max_seq_len, data.min_seq_len, left_out_items(data.folder))


class SequentialTask(Task):
    """A sequential recommender and everything that a step of its training needs.

    Args:
        config: the run.
        world: the processes.
        interactions: of all users.
        tables: the features of their items by modality.
        build: makes the model.
    """

    config: Config
    model: Recommender

    first_item = 1  # 0 is padding

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
        self.compilation = choose_mode(config.train.compile, world)
        self.config, self.world = config, world
        self.interactions, self.tables = interactions, tables
        self.token_counts = count_tokens(tables, interactions.num_items)
        self.user_ids, self.item_ids = interactions.user_ids, interactions.item_ids
        self.precision = Precision.choose(config.train.precision, world.device)
        self.built_by = builder_name(build)
        torch.manual_seed(config.train.seed)
        self.model = build(config, interactions, tables)
        self.model.objective = self._objective()
        self.model.to(world.device)
        of_ids = [module for module in self.model.modules() if isinstance(module, ItemTable)]
        for module in of_ids:
            # A single GPU would have to wait to count the rows; what is compiled has no sparse gradients.
            module.sparse = world.size > 1 or (world.device.type == "cpu" and self.compilation == "none")
        self.sparse_tables = [module.weight for module in of_ids]
        self.padding: Padding | None = None

    def __str__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return f"{self.interactions.num_users} users, {self.interactions.num_items} items, {parameters:,} parameters"

    def optimizer(self) -> SparseGradAdamW:
        """AdamW on every parameter, as the official code has it."""
        return SparseGradAdamW(self.model.parameters(), self.config.train.lr, self.config.train.weight_decay)

    def fingerprint(self) -> dict[str, str]:
        """Interactions, features, categories where they are learnt from, and the model's builder."""
        found = {"interactions": self.interactions.fingerprint(), **feature_fingerprints(self.tables), "model": self.built_by}
        if self.config.model.learns_categories:
            found["labels"] = load_labels(self.config, self.interactions).fingerprint()
        return found

    def provenance(self) -> dict:
        """What the features were made with."""
        return describe_encoders(self.tables)

    def remarks(self) -> list[str]:
        """What limits the metrics of these data."""
        return remarks(self.interactions, may_be_cut(self.config.data.folder))

    def batches(self, epoch: int) -> EpochBatches:
        """Every user once, in an order that seed and epoch decide."""
        train, world = self.config.train, self.world
        users = [
            epoch_users(self.interactions.num_users, train.batch_size, train.seed, epoch, rank, world.size)
            for rank in range(world.size)
        ]
        steps = list(zip(*users, strict=True))

        def describe(step: int) -> str:
            return "users " + ", ".join(self.interactions.user_ids[user] for user in steps[step][world.rank][:5]) + ", ..."

        return EpochBatches(len(steps), self.build_batches(steps), describe, lambda batch: batch.sizes)

    def build_batches(self, steps: Iterable[Sequence[np.ndarray]]) -> Iterator[Batch]:
        """Build this process's batches with their features, for a GPU one step ahead, in a thread.

        Args:
            steps: the users of every process.
        """
        if self.compilation != "none" and self.padding is None:
            self.padding = self._compile()
        rank, several = self.world.rank, self.world.size > 1
        together = several and self.config.data.negatives == "global"

        def build(users: Sequence[np.ndarray]) -> Batch:
            batch = self._train_batch(users[rank])
            if together:
                batch.everyone = join(
                    [batch if process == rank else self._train_batch(block) for process, block in enumerate(users)], rank
                )
            if several:
                batch.touched = touched_items(self.interactions, users)
            batch.items.features = gather_features(self.tables, batch.items.numbers)
            batch.sizes = batch.items.sizes
            there = to_device(batch, self.world.device, self.precision.dtype)
            return there if self.padding is None else self.padding.pad(there, self.padding.room(batch))

        return prepared(map(build, steps), self.world.device)

    def average_gradients(self, batch: Batch):
        """Of the ID tables, by the rows that some process's batch has looked up."""
        assert batch.touched is not None, "of several processes"
        for table in self.sparse_tables:
            reduce_rows(table, batch.touched, self.world)

    def catalogue(self) -> dict[str, Tensor]:
        """Vectors of all items [N + 1, D] by source, under the weights of now; row 0 is the padding's."""
        return encode_catalogue(self.model, self.tables, self.interactions.num_items, self.world, self.precision)

    def scorer(self) -> Scorer:
        """Encode the catalogue once, for all splits; columns of the scores are item numbers, 0 the padding's."""
        catalogue = self.catalogue()
        return lambda split: score_blocks(self.model, catalogue, self.interactions, split, self.world)

    def held_out(self, split: Split) -> ItemLists:
        """One target a user."""
        return held_out(self.interactions, split)

    def seen(self, users: np.ndarray, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """The users' histories."""
        return self.interactions.histories(users, split)

    def train_counts(self) -> np.ndarray:
        """Occurrences in the training parts [N + 1], 0 for padding."""
        return self.interactions.train_counts()

    def renamed(self) -> dict[str, str]:
        """Earlier versions noted what whole stores held."""
        return renamed_contents(self.tables)

    def item_vectors(self) -> Vectors:
        """The catalogue."""
        return self.catalogue()

    def new_item_vectors(self, item_ids: Sequence[str]) -> Vectors:
        """What text and image say of items without an ID; the fused vector, where items have but one, is theirs alone."""
        needs, folder = self.config.model.needs, self.config.data.folder
        tables = {source: open_table(folder, source, list(item_ids), need == "cls") for source, need in needs.items()}
        return encode_new_items(self.model, tables, len(item_ids), self.world, self.precision) if tables else {}

    def user_vectors(self, people: People, vectors: Vectors) -> Vectors:
        """The states after the histories, whoever the people are."""
        blocks = [states for _, states in self._states(people, vectors)]
        return {source: torch.cat([block[source] for block in blocks]) for source in blocks[0]}

    def score(self, people: People, vectors: Vectors, sources: Collection[str]) -> Iterator[ScoreBlock]:
        """Scores after the histories."""
        counts: dict[str, Tensor] = {}
        for block in score_states(self._states(people, vectors), vectors, self.world, sources):
            scored = [source for source in block.scores if source != "fused"]
            if not counts and len(scored) > 1:
                columns = torch.arange(block.scores["fused"].shape[1], device=self.world.device)
                counts["fused"] = reduce(add, ((columns < len(vectors[source])).float() for source in scored))
            if counts:
                block.scores["fused"] /= counts["fused"]
            yield ScoreBlock(block.users, {source: block.scores[source] for source in sources})

    def _states(self, people: People, vectors: Vectors) -> Iterator[tuple[np.ndarray, Vectors]]:
        longest = self.config.data.max_seq_len

        def inputs(block: np.ndarray) -> Sequences:
            return history_inputs(people.histories, block, longest)

        return user_states(self.model, vectors, np.arange(len(people)), inputs, self.world, "users")

    def _train_batch(self, users: np.ndarray) -> Batch:
        return train_batch(self.interactions, users, not self.config.model.noisy_items, self.token_counts)

    def _compile(self) -> Padding:
        """Have the model's losses compiled, which is for training alone; returns what pads the batches to few shapes."""
        train, model = self.config.train, self.model
        losses = compiled(model.forward, self.compilation)
        like = cast(Objective, model.objective).log_popularity

        def forward(batch: Batch, epoch: int) -> dict[str, Tensor]:
            return losses(batch, as_tensor(epoch, like))

        model.forward = forward  # type: ignore[method-assign, assignment]
        first = epoch_users(self.interactions.num_users, train.batch_size, train.seed, 1)
        examples = [self._train_batch(users) for users in islice(first, EXAMPLES)]
        return Padding(examples, self.tables, self.config.data.max_seq_len)

    def _objective(self) -> Objective:
        config = self.config
        log_popularity = torch.from_numpy(self.interactions.popularity(config.data.popularity_power)).log().float()
        separate = config.model.fusion == "separate" and config.distillation.constant_weight != 0
        return Objective(log_popularity, config.model.fusion == "late", config.distillation if separate else None)


def remarks(interactions: Interactions, cut: bool) -> list[str]:
    """What a reader of the metrics should know of the data, whose older interactions may have been `cut` off."""
    histories = ItemLists.of_counts(*interactions.histories(np.arange(interactions.num_users), "test"))
    found = out_of_reach(held_out(interactions, "test"), histories)
    longest, wanted = int(np.diff(interactions.offsets).max()), interactions.max_seq_len + 3
    if cut and longest < wanted:
        found.append(
            f"no user has more than {longest} interactions, though data.max_seq_len={interactions.max_seq_len} uses {wanted}: "
            f"prepare.py --last {wanted} keeps older ones"
        )
    return found
