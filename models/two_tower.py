"""Two-tower retrieval: a user's history and an item meet in one space.

Notable here:
- the history is read through the item tower, so the two sides share one space of items;
- every position of a window predicts (dense targets), over one pool of candidates a batch;
- what is popular and new today is a prior beside the cosine, learnt as of the day of each target;
- the towers that train are the modules that are exported.

Shapes: B windows of H events, U distinct items of the batch, T targets on M days, P pool items, D
width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from data.contract.settings import (
    Count,
    Dropout,
    NonNegative,
    Positive,
    UserError,
    load_class,
)
from models.embeddings import Table
from models.features import RowDropout
from models.losses import pooled_softmax, weighted_mean
from models.sequence_encoder import (
    SequenceSettings,
    token_of,
)
from models.towers import ItemTower, UserTower
from models.trend_prior import TrendPrior

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data.contract.schema import Vocabulary
    from models.batch import Batch
    from models.export import Program

MIN_TEMPERATURE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class NegativeSettings:
    """The pool of candidates that every target of a batch is told apart from.

    Attributes:
        in_batch: positives of the batch drawn into the pool, popular items more often.
        random: items drawn uniformly from the catalogue.
        log_q: correct for how often an item is in the pool.
    """

    in_batch: NonNegative = 1024
    random: NonNegative = 1024
    log_q: bool = True

    def __post_init__(self) -> None:
        """Refuses an empty pool."""
        if self.in_batch + self.random == 0:
            raise ValueError("set in_batch or random above 0: there is nothing to learn against")


def _sequence() -> SequenceSettings:
    return SequenceSettings(max_length=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoTowerSettings:
    """The retrieval model.

    Attributes:
        kind: a class of your own in place of `models.two_tower:TwoTower`, by dotted path.
        dim: width of user and item embeddings.
        id_dim: width of ID rows.
        id_dropout: share of looked-up ID rows that are zeroed in training, so that features and
            history carry items and users without a row.
        hidden: width of the towers' hidden layers.
        graph_vectors: whether items, for the ranker too, have the graph encoder's embedding as a
            column; by default where the split is by time, so that windows can be told apart.
        horizon_days: how far ahead half of the targets are predicted, in a log with a clock; by
            default as many days as the reported part of a time split has, else none: the next
            positive alone.
        temperature: first value of the learnt temperature of the scores, at least 0.01.
        sequence: the encoder of histories.
        negatives: the pool of candidates.
        batch_size: windows a step on each worker.
        max_steps: optimiser steps, unless `train.max_steps` says otherwise.
        learning_rate: of AdamW on the towers.
        table_learning_rate: of row-wise Adagrad on the ID tables.
    """

    kind: str = "models.two_tower:TwoTower"
    dim: Count = 64
    id_dim: Count = 64
    id_dropout: Dropout = 0.2
    hidden: Count = 256
    graph_vectors: bool | None = None
    horizon_days: NonNegative | None = None
    temperature: Positive = 0.07
    sequence: SequenceSettings = field(default_factory=_sequence)
    negatives: NegativeSettings = field(default_factory=NegativeSettings)
    batch_size: Count = 64
    max_steps: Count = 400
    learning_rate: Positive = 2e-3
    table_learning_rate: Positive = 1.0


class TwoTower(nn.Module):
    """Both towers and the loss that trains them."""

    def __init__(self, settings: TwoTowerSettings, vocabulary: Vocabulary) -> None:
        """Builds the towers for the data set's columns, actions and surfaces."""
        super().__init__()
        if settings.temperature < MIN_TEMPERATURE:
            raise UserError(f"two_tower.temperature must be at least {MIN_TEMPERATURE}")
        self.settings = settings
        self.drop = RowDropout(settings.id_dropout)
        self.item_tower = ItemTower(settings, vocabulary)
        self.user_tower = UserTower(settings, vocabulary)
        self.prior = TrendPrior() if vocabulary.order == "clock" else None
        self.log_scale = nn.Parameter(torch.tensor(-math.log(settings.temperature)))

    def tables(self, num_items: int, num_users: int) -> list[Table]:
        """ID tables for id spaces of so many rows."""
        dim = self.settings.id_dim
        return [Table("item_id", num_items, dim), Table("user_id", num_users, dim)]

    def programs(self) -> dict[str, Program]:
        """What serving runs; the prior only in a log with a clock."""
        towers = {"item_tower": self.item_tower.program(), "user_tower": self.user_tower.program()}
        return towers if self.prior is None else {**towers, "item_prior": self.prior.program()}

    def forward(self, rows: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sampled softmax of every target over the batch's pool.

        Args:
            rows: `item_id` float32[U, id_dim] of the distinct items, `user_id` [B, id_dim].
            batch: `item.<feature>` of the U items, `user.<feature>` of the B windows,
                `history.item` int64[H] (index into U), `history.action|surface|gap_ms` [H],
                `history.lengths` [B]; `target.sequence`, `target.length` (events read),
                `target.item` (into U) int64[T], `positive.log_q` float32[T]; `pool.item` int64[P]
                (into U), `pool.log_count`, `pool.log_q` float32[P]; `known.sequence`,
                `known.pool` int64[K]: pairs that are no negatives; in a log with a clock
                `target.moment` int64[T] (into M), `target.trend.*` [T] and `pool.trend.*` [M, P].

        Returns:
            Loss and what to log.
        """
        inputs = batch.inputs
        items = self.item_tower({**inputs, "item_id.rows": self.drop(rows["item_id"])})
        users = self._target_users(rows["user_id"], items, inputs)
        losses, top = self._losses(users, items, inputs)
        weight = batch.weight[inputs["target.sequence"]]
        loss = weighted_mean(losses, weight)
        logs = {
            "loss": loss.detach(),
            "pool_top1": weighted_mean(top.float(), weight),
            "temperature": self.temperature.detach(),
        }
        return loss, logs

    @property
    def temperature(self) -> Tensor:
        """Of the scores, learnt, at least `MIN_TEMPERATURE`."""
        return torch.exp(-self.log_scale).clamp(min=MIN_TEMPERATURE)

    def _target_users(
        self, user_rows: Tensor, items: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """User vectors as they stood before each target, float32[T, D]."""
        history = items.index_select(0, inputs["history.item"])
        states = self.user_tower.states(
            {
                **inputs,
                "user_id.rows": self.drop(user_rows),
                "history.embedding.rows": history,
            }
        )
        tokens = token_of(
            inputs["target.sequence"], inputs["target.length"], inputs["history.lengths"]
        )
        return self.user_tower.project(states.index_select(0, tokens))

    def _losses(
        self, users: Tensor, items: Tensor, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Loss of each target, and whether it beats the whole pool."""
        positive = (users * items.index_select(0, inputs["target.item"])).sum(-1)
        negatives = users @ items.index_select(0, inputs["pool.item"]).T
        if self.prior is not None:
            positive = positive + self.prior(_trends(inputs, "target."))
            of_days = self.prior(_trends(inputs, "pool."))
            negatives = negatives + of_days.index_select(0, inputs["target.moment"])
        positive, negatives = positive / self.temperature, negatives / self.temperature
        known = self._known(inputs)[inputs["target.sequence"]]
        if self.prior is not None:
            known = known | inputs["pool.absent"][inputs["target.moment"]]
        log_q = self.settings.negatives.log_q
        losses = pooled_softmax(positive, negatives, known, inputs, log_q)
        top = positive.detach() > negatives.detach().masked_fill(known, -math.inf).amax(1)
        return losses, top

    def _known(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """bool[B, P]: pool items that are positives of the window."""
        shape = len(inputs["history.lengths"]), len(inputs["pool.item"])
        known = torch.zeros(shape, dtype=torch.bool, device=inputs["pool.item"].device)
        known[inputs["known.sequence"], inputs["known.pool"]] = True
        return known


def _trends(inputs: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    names = ("trend.counts", "trend.age_ms")
    return {name: inputs[prefix + name] for name in names}


def build_two_tower(settings: TwoTowerSettings, vocabulary: Vocabulary) -> TwoTower:
    """The retrieval model that `two_tower.kind` names. Raises UserError when it cannot be had."""
    kind = load_class(settings.kind, "two_tower.kind")
    model: TwoTower = kind(settings, vocabulary)
    return model
