"""Multi-task ranking: the user is read once, every candidate asks what it needs of them.

Notable here:
- one item encoder serves candidates and history;
- candidates attend over the encoded history (candidate = query), so its cost does not grow with
  their number;
- how near a candidate is to what was liked stands beside what attention finds: from the first step
  the ranker knows what looks alike;
- the first layer of the over-arch is split: its user part is computed once a request;
- position enters as an additive bias that is zero at position 0, where serving ranks.

Shapes: R requests, H events, U distinct items, N candidates, C most candidates of a request, L
longest history plus one, D width, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.contract.settings import Count, Dropout, Positive, load_class
from models.embeddings import Table
from models.export import NUM_EVENTS, NUM_ITEMS, NUM_USERS, Program
from models.features import FeatureEncoder, RowDropout, is_missing, keep_likeness, segments
from models.losses import multi_task_bce, weighted_mean
from models.reading import LIKENESSES, Reading, UserState, likeness
from models.sequence_encoder import (
    SequenceSettings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data.contract.schema import Vocabulary
    from models.batch import Batch

MAX_POSITION = 64


def _sequence() -> SequenceSettings:
    return SequenceSettings(max_length=100, num_layers=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankerSettings:
    """The ranking model.

    Attributes:
        kind: a class of your own in place of `models.ranker:Ranker`, by dotted path.
        dim: width of items, events and user states.
        id_dim: width of ID rows.
        id_dropout: share of looked-up ID rows that are zeroed in training.
        hidden: width of the over-arch's first layer; the second has half of it.
        num_heads: heads of the attention of candidates over the history.
        dropout: in the over-arch.
        sequence: the encoder of histories.
        action_weights: action -> weight of its loss; 1 for the others.
        batch_size: requests a step on each worker.
        max_steps: optimiser steps, unless `train.max_steps` says otherwise.
        learning_rate: of AdamW on the dense part.
        table_learning_rate: of row-wise Adagrad on the ID tables.
    """

    kind: str = "models.ranker:Ranker"
    dim: Count = 64
    id_dim: Count = 32
    id_dropout: Dropout = 0.5
    hidden: Count = 256
    num_heads: Count = 4
    dropout: Dropout = 0.1
    sequence: SequenceSettings = field(default_factory=_sequence)
    action_weights: dict[str, Positive] = field(default_factory=dict)
    batch_size: Count = 64
    max_steps: Count = 600
    learning_rate: Positive = 2e-3
    table_learning_rate: Positive = 0.02


class RankedItem(nn.Module):
    """ID row and features of items -> vectors."""

    def __init__(self, settings: RankerSettings, vocabulary: Vocabulary) -> None:
        """Builds the encoder for the declared item columns."""
        super().__init__()
        self.features = FeatureEncoder(vocabulary.item_features, "item")
        width = settings.id_dim + 1 + self.features.width
        self.direct = nn.Linear(width, settings.dim)
        keep_likeness(self.direct.weight, self.features, settings.id_dim + 1)
        self.mix = nn.Sequential(nn.Linear(width, 2 * settings.dim), nn.GELU())
        self.out = nn.Linear(2 * settings.dim, settings.dim)

    def forward(self, inputs: Mapping[str, Tensor], prefix: str = "") -> Tensor:
        """`<prefix>item_id.rows` [U, id_dim], `<prefix>item.<feature>` -> float32[U, D]."""
        rows = inputs[f"{prefix}item_id.rows"]
        known = torch.cat([rows, is_missing(rows), *self.features(inputs, prefix)], 1)
        vectors: Tensor = self.direct(known) + self.out(self.mix(known))
        return vectors


class OverArch(nn.Module):
    """Candidates against a user's state -> logits of the actions."""

    def __init__(self, settings: RankerSettings, num_actions: int) -> None:
        """Builds attention, interactions and heads."""
        super().__init__()
        self.settings = settings
        dim, hidden = settings.dim, settings.hidden
        self.num_heads = settings.num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.user_part = nn.Linear(dim, hidden)
        self.item_part = nn.Linear(4 * dim + LIKENESSES, hidden)
        self.dropout = nn.Dropout(settings.dropout)
        self.top = nn.Sequential(nn.GELU(), nn.Linear(hidden, hidden // 2), nn.GELU())
        self.heads = nn.Linear(hidden // 2, num_actions)
        self.position = nn.Embedding(MAX_POSITION, num_actions)
        nn.init.zeros_(self.position.weight)

    def forward(self, read: Reading, items: Tensor, position: Tensor) -> Tensor:
        """Logits of candidates in rectangles.

        Args:
            read: of R users.
            items: float32[R, C, D].
            position: int64[R, C].

        Returns:
            float32[R, C, A].
        """
        found = self._attend(items, read.keys, read.mask)
        wide = read.user.unsqueeze(1)
        crossed = torch.cat([items, found, items * found, items * wide, likeness(items, read)], -1)
        first = self.user_part(read.user).unsqueeze(1) + self.item_part(crossed)
        logits: Tensor = self.heads(self.top(self.dropout(first)))
        bias: Tensor = self.position(position.clamp(max=MAX_POSITION - 1))
        return logits + bias - self.position.weight[0]

    def _attend(self, items: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """What each candidate finds in the history, float32[R, C, D]."""
        query, key, value = self.query(items), self.key(states), self.value(states)
        q, k, v = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, value)
        )
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return found.transpose(1, 2).flatten(2)


class RankerUser(nn.Module):
    """The exported user side: named arrays of one or more users -> their states."""

    def __init__(self, item: RankedItem, user: UserState) -> None:
        """Shares the parts of a ranker."""
        super().__init__()
        self.item = item
        self.user = user

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """`user_id.rows`, `user.*`, `history.*` -> the fields of a `Reading` of B users."""
        width = self.user.settings.sequence.max_length
        return tuple(self.user(inputs, self.item(inputs, "history."), width))

    def program(self) -> Program:
        """What is exported; sizes: users, events, and the values of each list column."""
        features, of_items = self.user.features, self.item.features
        id_dim = self.user.settings.id_dim
        events = {"history.item_id.rows": torch.zeros(NUM_EVENTS, id_dim)}
        events |= self.user.events.example(NUM_EVENTS)
        users = {"user_id.rows": torch.zeros(NUM_USERS, id_dim)} | features.example(NUM_USERS)
        users["history.lengths"] = torch.tensor([2, 0, NUM_EVENTS - 2])
        return Program(
            module=self,
            inputs=users | events | of_items.example(NUM_EVENTS, "history."),
            dynamic=dict.fromkeys(users, "users")
            | features.dynamic("users")
            | dict.fromkeys(events, "events")
            | of_items.dynamic("events", "history."),
            outputs=Reading._fields,
        )


class RankerItems(nn.Module):
    """The exported item side: one user's state and N candidates -> logits."""

    def __init__(self, item: RankedItem, over: OverArch) -> None:
        """Shares the parts of a ranker."""
        super().__init__()
        self.item = item
        self.over = over

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """A `Reading` of one user by field, `item_id.rows`, `item.*`, `position` -> [N, A]."""
        items = self.item(inputs).unsqueeze(0)
        read = Reading(*(inputs[name] for name in Reading._fields))
        logits: Tensor = self.over(read, items, inputs["position"].unsqueeze(0))
        return logits.squeeze(0)

    def program(self) -> Program:
        """What is exported; sizes: items, and the values of each list column."""
        settings, features = self.over.settings, self.item.features
        length = settings.sequence.max_length + 1
        user = {
            "user": torch.zeros(1, settings.dim),
            "keys": torch.zeros(1, length, settings.dim),
            "items": torch.zeros(1, length, settings.dim),
            **{name: torch.zeros(1, length) for name in ("mask", "liked", "recent")},
        }
        items = {
            "item_id.rows": torch.zeros(NUM_ITEMS, settings.id_dim),
            "position": torch.zeros(NUM_ITEMS, dtype=torch.int64),
        }
        return Program(
            module=self,
            inputs=user | items | features.example(NUM_ITEMS),
            dynamic=dict.fromkeys(items, "items") | features.dynamic("items"),
            outputs=("logits",),
        )


class Ranker(nn.Module):
    """The ranking model and its loss."""

    action_weight: Tensor

    def __init__(self, settings: RankerSettings, vocabulary: Vocabulary) -> None:
        """Builds the model for the data set's columns, actions and surfaces."""
        super().__init__()
        self.settings = settings
        self.actions = vocabulary.actions
        self.drop = RowDropout(settings.id_dropout)
        self.item = RankedItem(settings, vocabulary)
        self.user = UserState(settings, vocabulary)
        self.over = OverArch(settings, len(vocabulary.actions))
        weights = [settings.action_weights.get(action, 1.0) for action in vocabulary.actions]
        self.register_buffer("action_weight", torch.tensor(weights))

    def tables(self, num_items: int, num_users: int) -> list[Table]:
        """ID tables for id spaces of so many rows."""
        dim = self.settings.id_dim
        return [Table("item_id", num_items, dim), Table("user_id", num_users, dim)]

    @property
    def user_program(self) -> RankerUser:
        """The user side as it is served, over the same weights."""
        return RankerUser(self.item, self.user)

    @property
    def items_program(self) -> RankerItems:
        """The item side as it is served, over the same weights."""
        return RankerItems(self.item, self.over)

    def programs(self) -> dict[str, Program]:
        """What serving runs: the user side once a request, the item side over its candidates."""
        return {
            "ranker_user": self.user_program.program(),
            "ranker_items": self.items_program.program(),
        }

    def forward(self, rows: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted cross-entropy of all heads over the candidates.

        Args:
            rows: `item_id` float32[U, id_dim] of the distinct items, `user_id` [R, id_dim].
            batch: `item.<feature>` of the U items, `user.<feature>` of the R requests,
                `history.item` int64[H] (into U), `history.action|surface|age_ms` [H],
                `history.lengths` [R], `candidate.item` int64[N] (into U), `candidate.lengths` [R],
                `candidate.position` [N]; labels `label.<action>` float32[N].

        Returns:
            Loss and what to log.
        """
        logits = self.logits({name: self.drop(r) for name, r in rows.items()}, batch)
        labels = torch.stack([batch.labels[f"label.{a}"] for a in self.actions], 1)
        lengths = batch.inputs["candidate.lengths"]
        weight = batch.weight[segments(lengths, len(labels))]
        losses = multi_task_bce(logits, labels, self.action_weight)
        loss = weighted_mean(losses, weight)
        return loss, {"loss": loss.detach()}

    def logits(self, rows: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Logits of all candidates, float32[N, A]; see `forward` for the inputs."""
        inputs = batch.inputs
        items = self.item({**inputs, "item_id.rows": rows["item_id"]})
        known = {**inputs, "user_id.rows": rows["user_id"]}
        history, width = (
            items.index_select(0, inputs["history.item"]),
            int(known["history.lengths"].max()),
        )
        read = self.user(known, history, width)
        lengths = inputs["candidate.lengths"]
        place, shape = rectangle(lengths, len(inputs["candidate.item"]))
        candidates = items.index_select(0, inputs["candidate.item"])
        wide = spread(candidates, place, shape)
        position = spread(inputs["candidate.position"], place, shape)
        logits: Tensor = self.over(read, wide, position)
        return logits.flatten(0, 1).index_select(0, place)


def build_ranker(settings: RankerSettings, vocabulary: Vocabulary) -> Ranker:
    """The ranking model that `ranker.kind` names. Raises UserError when it cannot be had."""
    model: Ranker = load_class(settings.kind, "ranker.kind")(settings, vocabulary)
    return model


def rectangle(lengths: Tensor, total: int) -> tuple[Tensor, tuple[int, int]]:
    """Where `total` rows of lists of `lengths` [R] lie in a rectangle [R, C] of their longest.

    Returns:
        Place of each row in the flattened rectangle, int64[total], and the rectangle's shape.
    """
    width = int(lengths.max())
    owner = segments(lengths, total)
    first = torch.cumsum(lengths, 0) - lengths
    column = torch.arange(total, device=lengths.device) - first[owner]
    return owner * width + column, (len(lengths), width)


def spread(rows: Tensor, place: Tensor, shape: tuple[int, int]) -> Tensor:
    """Rows [N, ...] at their places in a rectangle [R, C, ...], zeros elsewhere."""
    cells = rows.new_zeros(shape[0] * shape[1], *rows.shape[1:])
    return cells.index_copy(0, place, rows).view(*shape, *rows.shape[1:])
