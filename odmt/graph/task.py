"""The models on the user-item graph as a `Task`: data, model, batches and scores of a run."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from odmt.config import Split
from odmt.distributed import World
from odmt.errors import InputError
from odmt.features.labels import Labels, read_labels
from odmt.features.tables import StoredTable, describe_encoders, feature_fingerprints, left_out_items, open_table, renamed_contents
from odmt.graph.builder import build_model
from odmt.graph.config import Config, DataConfig
from odmt.graph.models.host import Host
from odmt.graph.pairs import Pairs
from odmt.graph.published import published_metrics
from odmt.graph.sampling import PairBatch, PairSampler
from odmt.item_lists import ItemLists
from odmt.precision import Precision
from odmt.ranking import ScoreBlock, out_of_reach
from odmt.task import EpochBatches, People, Scorer, Task, Vectors, builder_name

SCORES = 1 << 22  # scores that are held at a time

Build = Callable[[Config, Pairs, Mapping[str, Tensor], Labels | None], Host]


def load(config: Config, world: World, build: Build | None = None) -> "GraphTask":
    """Read the pairs and what the model needs of the items, and build the model."""
    config.check_processes(world.size)
    pairs = load_pairs(config.data)
    tables = {modality: open_table(config.data.folder, modality, pairs.item_ids, True) for modality in config.model.reads}
    labels = read_labels(config.data.folder / "labels.tsv", pairs.item_ids) if config.model.needs_labels else None
    return GraphTask(config, world, pairs, tables, labels, build or build_model)


def load_pairs(data: DataConfig) -> Pairs:
    """Read a dataset's tables, without the items that the extraction of features left out."""
    return Pairs.load(data.folder, data.max_seq_len, data.min_seq_len, left_out_items(data.folder), data.leave_one_out)


class GraphTask(Task):
    """A host with its graph and the content of its items.

    Args:
        config: the run.
        world: one process.
        pairs: of users and items.
        tables: stored features by modality, of which an item's first token is read.
        labels: categories of the items, where they are learnt.
        build: makes the model.
    """

    config: Config
    model: Host

    def __init__(
        self,
        config: Config,
        world: World,
        pairs: Pairs,
        tables: Mapping[str, StoredTable],
        labels: Labels | None,
        build: Build = build_model,
    ):
        self.config, self.world, self.pairs = config, world, pairs
        self.tables, self.labels = tables, labels
        self.user_ids, self.item_ids, self.ordered = pairs.user_ids, pairs.item_ids, pairs.ordered
        self.precision = Precision.choose(config.train.precision, world.device)
        self.built_by = builder_name(build)
        self._check_splits()
        self.sampler = PairSampler(
            pairs.train.users,
            pairs.train.items,
            pairs.num_users,
            pairs.num_items,
            config.batch_size,
            config.num_negatives,
            config.train.seed,
        )
        features = {modality: table.cls()[1:] for modality, table in tables.items()}  # without the padding's row
        torch.manual_seed(config.train.seed)
        self.model = build(config, pairs, features, labels).to(world.device)
        self.dot_products = self.model.dot_products

    def __str__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        counts = {split: len(getattr(self.pairs, split).items) for split in ("train", "valid", "test")}
        sizes = ", ".join(f"{split} {count}" for split, count in counts.items())
        return f"{self.pairs.num_users} users, {self.pairs.num_items} items, pairs: {sizes}, {parameters:,} parameters"

    def optimizer(self) -> torch.optim.Adam:
        """Adam with its usual settings, as officially."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        # Fused: one pass over the tables, which on a CPU takes a tenth of the time and gives the same but for rounding.
        return torch.optim.Adam(trained, self.config.train.lr, weight_decay=self.config.train.weight_decay, fused=True)

    def fingerprint(self) -> dict[str, str]:
        """Pairs, features, categories and the model's builder."""
        found = {"interactions": self.pairs.fingerprint(), **feature_fingerprints(self.tables), "model": self.built_by}
        if self.labels is not None:
            found["labels"] = self.labels.fingerprint()
        return found

    def provenance(self) -> dict:
        """What the features were made with."""
        return describe_encoders(self.tables)

    def remarks(self) -> list[str]:
        """What limits the metrics of these data."""
        without = int((self.pairs.test.counts == 0).sum())
        unseen = np.setdiff1d(self.pairs.test.items, self.pairs.train.items)
        found = [f"{without} of {self.pairs.num_users} users have no test item and count in no metric"] if without else []
        found += out_of_reach(self.pairs.test, self._seen["test"])
        if len(unseen):
            share = np.isin(self.pairs.test.items, unseen).mean()
            found.append(f"{len(unseen)} items, {share:.1%} of the test pairs, never occur in train")
        return found

    def batches(self, epoch: int) -> EpochBatches:
        """Every train pair once, in an order that seed and epoch decide."""

        def describe(step: int) -> str:
            users = self.pairs.train.users[self.sampler.rows(epoch, step)]
            return "users " + ", ".join(self.pairs.user_ids[user] for user in users[:5]) + ", ..."

        batches = map(self._to_device, self.sampler.epoch(epoch))
        return EpochBatches(len(self.sampler), batches, describe, lambda batch: {"pairs": len(batch.positives)})

    def after_step(self):
        """What the host does after every step."""
        self.model.after_step()

    def scorer(self) -> Scorer:
        """Representations are worked out once; columns of the scores are items."""
        self.model.eval()
        self.model.prepared()
        return self._score_blocks

    def held_out(self, split: Split) -> ItemLists:
        """Any number of items a user."""
        return self.pairs.held_out(split)

    def seen(self, users: np.ndarray, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Train items, and for the test those of validation too."""
        return self._seen[split].of(users)

    def train_counts(self) -> np.ndarray:
        """How many users have each item in train [N]."""
        return self.pairs.train_counts()

    def published(self, scorer: Scorer, split: Split) -> dict[str, float]:
        """What the host's official evaluator would print, where `evaluation.published` asks for it."""
        if not self.config.evaluation.published:
            return {}
        return published_metrics(self.config.model.host, scorer(split), self._seen[split], self.pairs.held_out(split))

    def renamed(self) -> dict[str, str]:
        """Earlier versions noted what whole stores held."""
        return renamed_contents(self.tables)

    def item_vectors(self) -> Vectors:
        """The host's representations, its only source."""
        return {"fused": self._representations()[1]}

    def new_item_vectors(self, item_ids: Sequence[str]) -> Vectors:
        """None: every host adds to an item's content, or takes in its place, what it has learnt of the item's own row and edges."""
        return {}

    def user_vectors(self, people: People, vectors: Vectors) -> Vectors:
        """The host's representations."""
        return {"fused": self._representations()[0][self._users(people)]}

    def score(self, people: People, vectors: Vectors, sources: Collection[str]) -> Iterator[ScoreBlock]:
        """What the host makes of users; histories do not matter, since it knows them by the train edges."""
        self.model.eval()
        for block, scores in self._scores(self._users(people).cpu().numpy(), "users"):
            yield ScoreBlock(block, {"fused": scores})

    @torch.no_grad()
    def _representations(self) -> tuple[Tensor, Tensor]:
        self.model.eval()
        users, items, *_ = self.model.prepared()
        return users.detach(), items.detach()  # some hosts give the tables themselves, which are parameters

    def _users(self, people: People) -> Tensor:
        if people.users is None:
            host = self.config.model.host
            raise InputError(
                f"a history of somebody who is not in the data says nothing to {host}, which has learnt a vector of every user and "
                "the edges of the graph; name users of the dataset, add these people to it and train again, or take a sequential "
                "model, which knows a user by his history"
            )
        return torch.from_numpy(people.users).to(self.world.device)

    def _check_splits(self):
        split = self.config.evaluation.selection
        if not len(self.pairs.held_out(split).items):
            raise InputError(
                f"{self.config.data.folder}: no {split} pairs, by which the best epoch would be chosen; prepare the dataset with "
                "a validation split (without --validation none), or choose on the test set as the authors did: "
                "evaluation.selection=test"
            )
        if not len(self.pairs.test.items):
            raise InputError(f"{self.config.data.folder}: no test pairs; prepare the dataset with a test split")
        self._seen: dict[Split, ItemLists] = {"valid": self.pairs.seen("valid"), "test": self.pairs.seen("test")}

    def _score_blocks(self, split: Split) -> Iterator[ScoreBlock]:
        users = np.flatnonzero(self.pairs.held_out(split).counts)
        for places, scores in self._scores(users, split):
            yield ScoreBlock(users[places], {"fused": scores})

    def _scores(self, users: np.ndarray, shown: str) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Scores of all items for some users, block by block: places in `users` [B] and scores [B, N]."""
        step = max(1, SCORES // self.pairs.num_items)
        for begin in tqdm(range(0, len(users), step), desc=shown, leave=False, delay=2):
            block = users[begin : begin + step]
            scores = self.model.scores(torch.from_numpy(block).to(self.world.device))
            yield np.arange(begin, begin + len(block)), scores

    def _to_device(self, batch: PairBatch) -> PairBatch:
        device = self.world.device
        negatives = None if batch.negatives is None else batch.negatives.to(device)
        return PairBatch(batch.users.to(device), batch.positives.to(device), negatives)
