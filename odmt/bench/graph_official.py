"""BM3, GRCN and MAML with SGFD computed the official way, in plain PyTorch: what `graph-step` measures against.

The mathematics is the package's, so that this is also the oracle of its exactness test. The pattern is the official code's: a
vector gathered for each end of every edge, GRCN's routing rounds though nothing comes of them, tables of all users and items where
a batch needs some, every layer of the teachers one after the other, and teachers and students anew for every slot of a batch,
however often an item occurs in it. The parameters are copies of a host's, under the same names.

Legend: U users, N items, E train pairs, B rows of a batch, M slots (items of a batch, repeated ones too), D width.
"""

import copy
from functools import reduce
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odmt.features.extractors import LinearChain, SgfdExtractor
from odmt.graph.models.bm3 import BM3
from odmt.graph.models.grcn import GRCN
from odmt.graph.models.maml import MAML
from odmt.graph.sampling import PairBatch

ROUTING_ROUNDS = 3

H = TypeVar("H", BM3, GRCN, MAML)


class OfficialPattern(nn.Module, Generic[H]):
    """The parameters of a host; subclasses compute its loss.

    Args:
        host: is copied.
    """

    def __init__(self, host: H):
        super().__init__()
        self.host: H = copy.deepcopy(host)
        extractor = self.host.extractor
        assert isinstance(extractor, SgfdExtractor)
        for modality, chain in list(extractor.teachers.items()):  # every layer of the chain, none folded
            assert isinstance(chain, LinearChain)
            extractor.teachers[modality] = nn.Sequential(*chain)

    def sgfd(self, slots: Tensor) -> Tensor:
        """SGFD's loss of slots int64 [M]."""
        losses = self.host.extractor.losses(self.host.content(slots), self.host.content.labels_of(slots))
        return reduce(torch.add, losses.values())


class OfficialBM3(OfficialPattern[BM3]):
    """Whole tables predicted, dropped and projected; then the batch's rows are picked."""

    def __init__(self, host: BM3):
        super().__init__(host)
        num_nodes = host.user_embedding.num_embeddings + host.item_embedding.num_embeddings
        rows = torch.repeat_interleave(host.adjacency.starts.diff())
        index = torch.stack([rows, host.adjacency.columns])
        size = (num_nodes, num_nodes)
        self.matrix = torch.sparse_coo_tensor(index, host.adjacency.values, size, check_invariants=True).coalesce()

    def forward(self, batch: PairBatch) -> Tensor:
        """The total of a batch."""
        host, settings = self.host, self.host.settings
        layers = [torch.cat([host.user_embedding.weight, host.item_embedding.weight])]
        for _ in range(settings.num_layers):
            layers.append(torch.sparse.mm(self.matrix, layers[-1]))
        sizes = [host.user_embedding.num_embeddings, host.item_embedding.num_embeddings]
        users, items = torch.stack(layers).mean(0).split(sizes)
        items = items + host.item_embedding.weight
        user_target, item_target = self._target(users)[batch.users], self._target(items)[batch.positives]
        online_users, online_items = host.predictor(users)[batch.users], host.predictor(items)[batch.positives]
        loss = _distance(online_users, item_target) + _distance(online_items, user_target)
        loss = loss + settings.reg_weight * (users.norm() + items.norm()) / len(items)
        for vectors in host.extractor(host.content()).values():
            online, target = host.predictor(vectors)[batch.positives], self._target(vectors)[batch.positives]
            loss = loss + settings.cl_weight * (_distance(online, item_target) + _distance(online, target))
        return loss + self.sgfd(batch.positives)

    def _target(self, vectors: Tensor) -> Tensor:
        return F.dropout(vectors.detach().clone(), self.host.settings.dropout, self.training)


class OfficialGRCN(OfficialPattern[GRCN]):
    """Messages of width D along every edge, in both directions."""

    def __init__(self, host: GRCN):
        super().__init__(host)
        users, items = host.edges.users, host.edges.items + host.sizes[0]
        self.users, self.items = users, items
        self.senders, self.receivers = torch.cat([users, items]), torch.cat([items, users])

    def forward(self, batch: PairBatch) -> Tensor:
        """The total of a batch of one negative a row."""
        host = self.host
        num_users = host.sizes[0]
        contents, weights = [], []
        vectors = host.extractor(host.content())
        for column, modality in enumerate(host.extractor.modalities):
            items = F.normalize(F.leaky_relu(vectors[modality], 0.01), dim=-1)
            users = F.normalize(host.preferences[modality], dim=-1)
            for _ in range(ROUTING_ROUNDS):  # the items receive, and the users' rows, which are 0, are added
                received, _ = self._attend(torch.cat([users, items]), self.users, self.items)
                users = F.normalize(users + received[:num_users], dim=-1)
            nodes = torch.cat([users, items])
            received, attention = self._attend(nodes, self.senders, self.receivers)
            contents.append(nodes + received)
            weights.append(attention * host.confidence[self.senders, column])
        weight = torch.stack(weights).amax(0)[:, None]
        layers = [F.normalize(host.id_embedding, dim=-1)]
        for _ in range(2):
            layers.append(_scatter(layers[-1][self.senders] * weight, self.receivers, len(host.id_embedding)))
        representation = torch.cat([reduce(torch.add, layers), *contents], -1)
        slots = _slots(batch)  # [B, 2]
        users, items = batch.users[:, None].expand_as(slots).flatten(), (slots + num_users).flatten()
        scores = (representation[users] * representation[items]).sum(-1).view(-1, 2)
        bpr = -F.logsigmoid(scores[:, 0] - scores[:, 1]).mean()
        reg = host.id_embedding[users].square().mean() + host.id_embedding[items].square().mean()
        reg = reg + reduce(torch.add, (table[users].square().mean() for table in host.preferences.values()))
        return bpr + host.settings.reg_weight * reg + self.sgfd(slots.flatten())

    def _attend(self, nodes: Tensor, senders: Tensor, receivers: Tensor) -> tuple[Tensor, Tensor]:
        """What every node [U + N, D] receives, and the attention of each edge among those that arrive at its receiver."""
        sent = nodes[senders]
        logits = (nodes[receivers] * sent).sum(-1)
        largest = logits.new_full((len(nodes),), -torch.inf).scatter_reduce(0, receivers, logits.detach(), "amax")
        powers = (logits - largest[receivers]).exp()
        attention = powers / _scatter(powers, receivers, len(nodes))[receivers]
        return _scatter(sent * attention[:, None], receivers, len(nodes)), attention


class OfficialMAML(OfficialPattern[MAML]):
    """The attention's input put together for every slot, and a matrix of covariances."""

    def forward(self, batch: PairBatch) -> Tensor:
        """The total of a batch."""
        host, settings = self.host, self.host.settings
        slots = _slots(batch)  # [B, K]
        projected = self._project()
        users = host.user_embedding(batch.users)[:, None].expand(*slots.shape, -1)
        items = host.item_embedding(slots)
        hidden = _unit(torch.cat([users, items, projected[slots]], -1))
        hidden = F.dropout(host.attention[0](hidden).tanh(), settings.attention_dropout, self.training)
        attention = host.attention[1](_unit(hidden)).relu().softmax(-1) * users.shape[-1]
        distances = (attention * users - attention * items).square().sum(-1)
        gaps = distances[:, :1] - distances[:, 1:] + settings.margin
        rank = torch.log1p(host.item_embedding.num_embeddings * (gaps > 0).float().mean(1))
        loss = (rank * gaps.amax(1).relu()).sum()
        loss = loss + settings.projection_weight * (host.item_embedding.weight - projected).square().sum()
        rows = torch.cat([host.item_embedding.weight, host.user_embedding.weight])
        rows = rows - rows.mean(0)
        covariances = rows.T @ rows / len(rows)
        loss = loss + settings.covariance_weight * (covariances.sum() - covariances.diagonal().sum())
        return loss / (1 if settings.summed else host.batch_size) + self.sgfd(slots.flatten())

    def _project(self) -> Tensor:
        host, settings = self.host, self.host.settings
        vectors = host.extractor(host.content())
        hidden = torch.cat([vectors[modality] for modality in host.extractor.modalities], -1)
        *layers, last = host.projection
        for layer in layers:
            hidden = F.dropout(layer(_unit(hidden)).relu(), settings.dropout, self.training)
        longest, projected = settings.clip, settings.scale * last(hidden)
        return projected * longest / projected.norm(dim=-1, keepdim=True).clamp(min=longest)


OFFICIAL = {BM3: OfficialBM3, GRCN: OfficialGRCN, MAML: OfficialMAML}


def _slots(batch: PairBatch) -> Tensor:
    """Each row's positive and its negatives."""
    assert batch.negatives is not None
    return torch.cat([batch.positives[:, None], batch.negatives], 1)


def _distance(vectors: Tensor, targets: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(vectors, targets).mean()


def _scatter(messages: Tensor, receivers: Tensor, num_nodes: int) -> Tensor:
    return messages.new_zeros(num_nodes, *messages.shape[1:]).index_add(0, receivers, messages)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
