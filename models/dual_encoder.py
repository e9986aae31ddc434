"""What two-tower models share: one space of users and items, and the loss over a pool.

Shapes: B windows of H events, U distinct items of the batch, T targets on M days, P pool items, D
width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from data.contract.schema import USER_COLUMN
from data.contract.settings import NonNegative, UserError
from models.attention import token_of
from models.embeddings import Table
from models.features import RowDropout
from models.losses import MASKED, total_weight, weighted_mean
from models.pool_loss import NEVER, Days, Known, Own, Pool, pool_loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.batch import Batch
    from models.export import Program
    from models.trend_prior import TrendPrior

MIN_TEMPERATURE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class NegativeSettings:
    """The pool of candidates that every target of a batch is told apart from.

    Attributes:
        in_batch: positives of the batch drawn into the pool, popular items more often.
        random: items drawn uniformly from the catalogue; a smaller catalogue is the pool, once.
        log_q: correct for how often an item is in the pool.
        loss: softmax tells the positive from the whole pool, binary judges each item alone, as
            SASRec's first loss did; it knows no correction.
    """

    in_batch: NonNegative = 1024
    random: NonNegative = 1024
    log_q: bool = True
    loss: Literal["softmax", "binary"] = "softmax"

    def __post_init__(self) -> None:
        """Refuses an empty pool."""
        if self.in_batch + self.random == 0:
            raise ValueError("set in_batch or random above 0: there is nothing to learn against")


class DualSettings(Protocol):
    """What the settings of these models say of the space and its loss."""

    @property
    def dim(self) -> int:
        """Width of user and item embeddings."""

    @property
    def id_dim(self) -> int:
        """Width of ID rows."""

    @property
    def id_dropout(self) -> float:
        """Share of ID rows that are zeroed in training."""

    @property
    def temperature(self) -> float:
        """First value of the learnt temperature."""

    @property
    def negatives(self) -> NegativeSettings:
        """The pool of candidates."""


class Tower(nn.Module):
    """What is exported on its own."""

    def program(self) -> Program:
        """What is exported."""
        raise NotImplementedError


class HistoryTower(Tower):
    """A user tower: states after every prefix of the histories, and their way into the space."""

    def states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """States float32[B + H, ...] as `SequenceEncoder` lays them out."""
        raise NotImplementedError

    def toward(self, states: Tensor, inputs: Mapping[str, Tensor], positives: Tensor) -> Tensor:
        """The vectors that targets are foretold from in training, [T, D].

        Args:
            states: of the targets, [T, ...].
            inputs: of `states`, with those of the targets; see `DualEncoder.forward`.
            positives: vectors of the items that are foretold, [T, D].
        """
        del positives
        return self.project(states, inputs.get(f"target.{USER_COLUMN}"))

    def project(self, states: Tensor, long_term: Tensor | None = None) -> Tensor:
        """States [N, D] -> unit vectors [N, D].

        Args:
            states: of `states`.
            long_term: the user embedding that each may know, [N, E], where users have them.
        """
        raise NotImplementedError

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """State after the whole history, float32[B, D]; see `states` for the inputs."""
        lengths = inputs["history.lengths"]
        sequence = torch.arange(lengths.shape[0], device=lengths.device)
        newest = token_of(sequence, lengths, lengths)
        states = self.states(inputs).index_select(0, newest)
        return self.project(states, inputs.get(f"user.{USER_COLUMN}"))


class DualEncoder(nn.Module):
    """Both towers and the loss that trains them.

    Attributes:
        name: of the settings' root.
    """

    name: ClassVar[str]

    def __init__(
        self,
        settings: DualSettings,
        towers: tuple[Tower, HistoryTower],
        prior: TrendPrior | None = None,
    ) -> None:
        """Pairs the towers; `prior` is added to the scores. Raises UserError."""
        super().__init__()
        if settings.temperature < MIN_TEMPERATURE:
            raise UserError(f"{self.name}.temperature must be at least {MIN_TEMPERATURE}")
        self.settings = settings
        self.least_temperature = MIN_TEMPERATURE
        self.drop_items = RowDropout(settings.id_dropout)
        self.drop_users = RowDropout(settings.id_dropout)
        self.item_tower, self.user_tower = towers
        self.prior = prior
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
                `known.pool`, `known.after` int64[K]: pairs that are no negatives once a target has
                read so many events; `target.pool` int64[T] (into P, -1: not there); in a log with a
                clock `target.moment` int64[T] (into M), `target.trend.*` [T], `pool.trend.*` [M,P];
                `target.user_embedding` float32[T, E] where users have them.

        Returns:
            Loss and what to log.
        """
        inputs = batch.inputs
        items = self.item_tower({**inputs, "item_id.rows": self.drop_items(rows["item_id"])})
        users = self._target_users(rows, items, inputs)
        weight = self.target_weight(batch)
        loss, top = self._loss(users, items, weight, inputs)
        logs = {
            "loss": loss.detach(),
            "pool_top1": weighted_mean(top.float(), weight),
            "temperature": self.temperature.detach(),
            "targets": weight.new_tensor(len(weight)),
        }
        return loss, logs

    @property
    def temperature(self) -> Tensor:
        """Of the scores, learnt, at least `least_temperature`."""
        return torch.exp(-self.log_scale).clamp(min=self.least_temperature)

    def target_weight(self, batch: Batch) -> Tensor:
        """How much each target counts, float32[T]."""
        return batch.weight[batch.inputs["target.sequence"]]

    def _target_users(
        self, rows: Mapping[str, Tensor], items: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """User vectors as they stood before each target, float32[T, D]."""
        looked_up = {"history.embedding.rows": items.index_select(0, inputs["history.item"])}
        if "user_id" in rows:
            looked_up["user_id.rows"] = self.drop_users(rows["user_id"])
        known = {**inputs, **looked_up}
        states = self.user_tower.states(known)
        tokens = token_of(
            inputs["target.sequence"], inputs["target.length"], inputs["history.lengths"]
        )
        positives = items.index_select(0, inputs["target.item"])
        return self.user_tower.toward(states.index_select(0, tokens), known, positives)

    def _loss(
        self, users: Tensor, items: Tensor, weight: Tensor, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of the targets, and whether each beats the whole pool."""
        positive = (users * items.index_select(0, inputs["target.item"])).sum(-1)
        bias = None
        if self.prior is not None:
            positive = positive + self.prior(_trends(inputs, "target."))
            bias = self.prior(_trends(inputs, "pool.")).masked_fill(inputs["pool.absent"], MASKED)
        scale = 1 / self.temperature
        corrected, correction = positive * scale, inputs["pool.log_count"]
        binary = self.settings.negatives.loss == "binary"
        if self.settings.negatives.log_q and not binary:
            corrected = corrected - inputs["positive.log_q"]
            correction = correction - inputs["pool.log_q"]
        days = Days(bias, inputs["target.moment"]) if bias is not None else None
        window, read = inputs["target.sequence"], inputs["target.length"].int()
        own = Own(inputs["target.pool"], Known(self._known_after(inputs), window, read))
        pool = Pool(scale, correction, own, days, binary)
        pooled = items.index_select(0, inputs["pool.item"])
        total, best = pool_loss(users, pooled, corrected, weight, pool)
        return total / total_weight(weight), (positive * scale).detach() > best

    def _known_after(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """int32[B, P]: events after which a pool item is no negative of a window; mostly never."""
        shape = len(inputs["history.lengths"]), len(inputs["pool.item"])
        after = torch.full(shape, NEVER, dtype=torch.int32, device=inputs["pool.item"].device)
        after[inputs["known.sequence"], inputs["known.pool"]] = inputs["known.after"].int()
        return after


def _trends(inputs: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    names = ("trend.counts", "trend.age_ms")
    return {name: inputs[prefix + name] for name in names}
