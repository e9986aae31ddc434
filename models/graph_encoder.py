"""Graph embeddings of items, and of users where they are nodes: features and sampled neighbours.

Notable here:
- an item is its features, its ID row, or both; with features alone the encoder is inductive: items
  of tomorrow are embedded by what they are and where they were put;
- a node and its neighbours are fused by a convolution, a transformer or propagation alone;
- several objectives train one trunk; every row of a batch says which it is for;
- negatives are shared by the batch, hard ones are a row's own.

Shapes: B examples, U distinct items, N item nodes and Q user nodes of T neighbours, P pool, H hard
negatives an example, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.contract.schema import OBJECTIVES
from data.contract.settings import Count, Dropout, NonNegative, Positive, UserError
from models.embeddings import Table
from models.export import NUM_ITEMS, Program
from models.features import FeatureEncoder, RowDropout, keep_likeness
from models.interaction import perceptron
from models.losses import (
    max_margin,
    pooled_softmax,
    sampled_softmax,
    total_weight,
    weighted_mean,
)
from models.neighborhood_fusion import (
    Convolution,
    Fusion,
    FusionTransformer,
    Pooling,
    Propagation,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from data.contract.schema import Feature, Vocabulary
    from models.batch import Batch

STEPS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNegatives:
    """What the positive of an example is told apart from.

    Attributes:
        in_batch: positives of the batch in the shared pool, popular items more often; by default
            512, and none where nodes are ID rows alone.
        random: items drawn uniformly into the shared pool of a batch; by default 1,024, and 2,048
            for light_gcn.
        hard: most hard negatives an example, items of its query's rank band by visits.
        hard_from: epoch from which there are hard negatives: one more each epoch (PinSage §3.2).
        band: first and last rank of the band, as shares of the catalogue.
        log_q: correct the softmax for how often an item is in the pool.
    """

    in_batch: NonNegative | None = None
    random: NonNegative | None = None
    hard: NonNegative = 0
    hard_from: NonNegative = 1
    band: tuple[float, float] = (0.01, 0.05)
    log_q: bool = True

    def __post_init__(self) -> None:
        """Refuses an empty pool and a band that is none."""
        if self.in_batch == self.random == 0:
            raise ValueError("set in_batch or random above 0: there is nothing to learn against")
        if not 0 <= self.band[0] < self.band[1] <= 1:
            raise ValueError(f"band must be two rising shares of the catalogue, not {self.band}")

    def resolved(self, in_batch: int, random: int) -> GraphNegatives:
        """The same with these numbers where none are set."""
        return replace(
            self,
            in_batch=in_batch if self.in_batch is None else self.in_batch,
            random=random if self.random is None else self.random,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphModelSettings:
    """The graph encoder.

    Attributes:
        encoder: over sampled neighbourhoods convolution (PinSage), transformer (early fusion of
            node and neighbours) or propagation (a weighted sum); or light_gcn, which reads ID rows
            alone and all edges at every step. By default convolution; where items have no declared
            columns light_gcn up to 20 million events, else propagation.
        pooling: how the convolution pools neighbours.
        dim: width of the embeddings; where nodes have ID rows a multiple of 4.
        hidden: width of hidden layers.
        num_heads: attention heads of the transformer.
        num_layers: hops that light_gcn spreads rows over.
        id_rows: whether nodes have a learnt row beside their features; by default only where they
            have no features.
        id_dropout: share of the rows that are zeroed in training.
        neighbor_dropout: share of the items that are without neighbours in training, so that
            columns alone carry those that are on no board yet; not where ID rows are all there is.
        loss: sampled softmax, or PinSage's max-margin.
        margin: of max-margin.
        temperature: of the softmax. It is not learnt: on ID rows it fell until they were learnt by
            heart.
        own_feature: weight of the objective that an embedding finds its own features again
            (0: none), which keeps content in it.
        negatives: what positives are told apart from.
        batch_size: examples a step on each worker; by default 512, 2048 where nodes are ID rows
            alone, 4096 for light_gcn.
        max_steps: optimiser steps, unless `train.max_steps` says otherwise; by default 400, and
            `epochs` passes where nodes are ID rows alone.
        epochs: passes over the examples where nodes are ID rows alone and no number of steps is
            given; by default 20, 8 for light_gcn.
        learning_rate: of AdamW on the dense part; by default 0.002, 0.01 for light_gcn.
        table_learning_rate: of row-wise Adagrad on ID rows.
        history: newest positive items whose mean embedding stands for a user who is no node.
    """

    encoder: Literal["convolution", "transformer", "propagation", "light_gcn"] | None = None
    pooling: Pooling = "importance"
    dim: Count = 64
    hidden: Count = 128
    num_heads: Count = 4
    num_layers: Count = 3
    id_rows: bool | None = None
    id_dropout: Dropout = 0.0
    neighbor_dropout: Dropout = 0.2
    loss: Literal["softmax", "max_margin"] = "softmax"
    margin: Positive = 0.1
    temperature: Positive = 0.1
    own_feature: float = 0.1
    negatives: GraphNegatives = field(default_factory=GraphNegatives)
    batch_size: Count | None = None
    max_steps: Count | None = None
    epochs: Count | None = None
    learning_rate: Positive | None = None
    table_learning_rate: Positive = 0.3
    history: Count = 50

    @property
    def num_random(self) -> int:
        """Random negatives that an example brings, once `resolved`."""
        assert self.batch_size is not None
        assert self.negatives.random is not None
        return -(-self.negatives.random // self.batch_size)


G = TypeVar("G", bound=GraphModelSettings)


def resolved(settings: G, vocabulary: Vocabulary) -> G:
    """The settings with what is left to the log filled in: does it describe its items, or not.

    Raises:
        UserError: items would be nothing.
    """
    alone = not vocabulary.item_features
    if alone and settings.id_rows is False:
        raise UserError("graph.id_rows=false needs declared item columns: items would be nothing")
    encoder = settings.encoder or ("propagation" if alone else "convolution")
    whole = encoder == "light_gcn"
    chosen: dict[str, Any] = {
        "encoder": encoder,
        "id_rows": alone or whole,
        "batch_size": 4096 if whole else 2048 if alone else 512,
        "epochs": 8 if whole else 20,
        "learning_rate": 1e-2 if whole else 2e-3,
    }
    missing = {name: value for name, value in chosen.items() if getattr(settings, name) is None}
    missing["negatives"] = settings.negatives.resolved(
        in_batch=0 if alone or whole else 512, random=2048 if whole else 1024
    )
    if settings.max_steps is None and not (alone or whole):
        missing["max_steps"] = STEPS
    return replace(settings, **missing)


class NodeFeatures(nn.Module):
    """What a node is itself: declared columns, an ID row, or both, float32[N, D]."""

    def __init__(self, dim: int, hidden: int, features: Sequence[Feature]) -> None:
        """Reads `item.<feature>` arrays, and ID rows beside them."""
        super().__init__()
        self.features = FeatureEncoder(features, "item")
        width = self.features.width
        self.direct = nn.Linear(width, dim, bias=False) if width else None
        self.mix = perceptron(width, hidden, dim) if width else None
        if self.direct is not None:
            keep_likeness(self.direct.weight, self.features)

    def forward(self, inputs: Mapping[str, Tensor], rows: Tensor | None) -> Tensor:
        """Sums what the columns say and the ID rows, float32[N, D]."""
        parts: list[Tensor] = [] if rows is None else [rows]
        if self.direct is not None and self.mix is not None:
            columns = torch.cat(self.features(inputs), 1)
            parts.append(self.direct(columns) + self.mix(columns))
        return torch.stack(parts).sum(0)

    def columns(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The encoded columns alone, float32[N, width]."""
        return torch.cat(self.features(inputs), 1)


class GraphEncoder(nn.Module):
    """Embeds nodes, and the losses that train it."""

    def __init__(self, settings: GraphModelSettings, vocabulary: Vocabulary) -> None:
        """Builds the encoder for the data set's columns."""
        super().__init__()
        settings = resolved(settings, vocabulary)
        self.settings = settings
        dim, hidden = settings.dim, settings.hidden
        self.item = NodeFeatures(dim, hidden, vocabulary.item_features)
        self.has_rows = bool(settings.id_rows)
        self.drop = RowDropout(settings.id_dropout)
        lonely = settings.neighbor_dropout if vocabulary.item_features else 0.0
        self.drop_neighbors = RowDropout(lonely)
        self.fusion = fusion_of(settings)
        width = self.item.features.width
        self.own = (
            nn.ModuleDict({"read": nn.Linear(dim, dim), "said": nn.Linear(width, dim)})
            if width and settings.own_feature
            else None
        )

    def tables(self, num_items: int, num_users: int) -> list[Table]:
        """ID tables for id spaces of so many rows; none where features are all there is."""
        if not self.has_rows:
            return []
        dim = self.settings.dim
        return [Table("item_id", num_items, dim), Table("user_id", num_users, dim)]

    def programs(self) -> dict[str, Program]:
        """Embeds items without neighbours: what serving does with a posted one."""
        if not self.item.features.width:
            return {}
        return {"graph_item": LoneItem(self).program()}

    def encode(self, own: Tensor, items: Tensor, neighbors: Tensor, weights: Tensor) -> Tensor:
        """Unit vectors of nodes; arguments as of `Fusion.forward`. float32[N, D]."""
        return F.normalize(self.fusion(own, items, neighbors, weights), dim=-1)

    def base(self, inputs: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> Tensor:
        """What the U items of a batch are themselves, float32[U, D]."""
        found: Tensor = self.item(inputs, self.drop(rows["item_id"]) if self.has_rows else None)
        return found

    def nodes(self, rows: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        """Unit vectors of the batch's nodes, items before users, float32[N + Q, D].

        Args:
            rows: `item_id` float32[U, D] and `user_id` [Q, D], or one where Q is 0, where there are
                ID rows.
            inputs: `item.<feature>` of the U items; `node.item` int64[N] (into U); `node.neighbors`
                int64[N + Q, T] (into U) and `node.weights` float32[N + Q, T].
        """
        items = self.base(inputs, rows)
        own = items.index_select(0, inputs["node.item"])
        users = len(inputs["node.neighbors"]) - len(own)
        if self.has_rows:
            own = torch.cat([own, self.drop(rows["user_id"][:users])])
        elif users:
            own = torch.cat([own, own.new_zeros(users, own.shape[1])])
        weights = inputs["node.weights"]
        num_items = len(inputs["node.item"])
        weights = torch.cat([self.drop_neighbors(weights[:num_items]), weights[num_items:]])
        return self.encode(own, items, inputs["node.neighbors"], weights)

    def forward(self, rows: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted losses of all objectives.

        Args:
            rows: see `nodes`.
            batch: see `nodes`, and `query`, `positive` int64[B] and `pool.node` int64[P] (into the
                N + Q nodes), `hard.node` int64[B, H] (-1 for none), `positive.log_q` float32[B],
                `pool.log_count`, `pool.log_q` float32[P], `known.query`, `known.pool` int64[K]
                (pairs that are no negatives), `objective` int64[B].

        Returns:
            Loss and what to log.
        """
        inputs = batch.inputs
        vectors = self.nodes(rows, inputs)
        losses = self._losses(vectors, inputs)
        loss = weighted_mean(losses, batch.weight)
        logs = {"loss": loss.detach()}
        logs |= _by_objective(losses.detach(), inputs["objective"], batch.weight)
        if self.own is not None:
            content = weighted_mean(self._own_feature(vectors, inputs), batch.weight)
            loss = loss + self.settings.own_feature * content
            logs["own_feature"] = content.detach()
        return loss, logs

    def _losses(self, vectors: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Loss of each example, float32[B]."""
        query = vectors.index_select(0, inputs["query"])
        positive = (query * vectors.index_select(0, inputs["positive"])).sum(-1)
        pool = query @ vectors.index_select(0, inputs["pool.node"]).T
        known = torch.zeros_like(pool, dtype=torch.bool)
        known[inputs["known.query"], inputs["known.pool"]] = True
        hard, absent = _hard(query, vectors, inputs["hard.node"])
        negatives, known = torch.cat([pool, hard], 1), torch.cat([known, absent], 1)
        if self.settings.loss == "max_margin":
            return max_margin(positive, negatives, known, self.settings.margin)
        scale, log_q = 1 / self.settings.temperature, self.settings.negatives.log_q
        return pooled_softmax(positive * scale, negatives * scale, known, inputs, log_q)

    def _own_feature(self, vectors: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Finding a positive's own columns among those of the pool, float32[B]."""
        assert self.own is not None
        items, columns = inputs["node.item"], self.item.columns(inputs)
        said = F.normalize(self.own["said"](columns), dim=-1)
        positive = said.index_select(0, items.index_select(0, inputs["positive"]))
        pool = said.index_select(0, items.index_select(0, inputs["pool.node"]))
        read = F.normalize(self.own["read"](vectors.index_select(0, inputs["positive"])), dim=-1)
        itself = inputs["positive"].unsqueeze(1) == inputs["pool.node"]
        scale = 1 / self.settings.temperature
        found, others = (read * positive).sum(-1) * scale, read @ pool.T * scale
        return sampled_softmax(found, others, inputs["pool.log_count"] * 0, itself)


class LoneItem(nn.Module):
    """Embeds items by their columns alone: those that are in no board yet."""

    def __init__(self, encoder: GraphEncoder) -> None:
        """Takes the encoder's parts."""
        super().__init__()
        self.item, self.fusion = encoder.item, encoder.fusion

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """`item.<feature>` of N items -> float32[N, D]."""
        own = self.item(inputs, None)
        nobody = torch.zeros((own.shape[0], 1), dtype=torch.int64, device=own.device)
        return F.normalize(self.fusion(own, own, nobody, torch.zeros_like(own[:, :1])), dim=-1)

    def program(self) -> Program:
        """What is exported; sizes: items, and the values of each list column."""
        features = self.item.features
        return Program(
            module=self,
            inputs=features.example(NUM_ITEMS),
            dynamic=features.dynamic("items"),
            outputs=("embedding",),
        )


def fusion_of(settings: GraphModelSettings) -> Fusion:
    """The way of fusing that the settings name."""
    if settings.encoder == "convolution":
        return Convolution(settings.dim, settings.hidden, settings.pooling)
    if settings.encoder == "transformer":
        return FusionTransformer(settings.dim, settings.hidden, settings.num_heads)
    return Propagation()


def _hard(query: Tensor, vectors: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of each example's own negatives, and which of them are none, [B, H] both."""
    absent = nodes < 0
    return (query.unsqueeze(1) * vectors[nodes.clamp(min=0)]).sum(-1), absent


def _by_objective(losses: Tensor, objective: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Mean loss of the examples of each objective, in the mean over ranks; 0 without any."""
    codes = torch.arange(len(OBJECTIVES), device=objective.device)
    of_each = weight.unsqueeze(1) * (objective.unsqueeze(1) == codes)
    means = (losses.unsqueeze(1) * of_each).sum(0) / total_weight(of_each)
    return dict(zip(OBJECTIVES, means.unbind(), strict=True))
