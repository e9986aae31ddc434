"""Multi-task ranking: the user is read once, every candidate asks what it needs of them.

Notable here:
- one item encoder serves candidates and history;
- candidates attend over the encoded history (candidate = query), so its cost does not grow with
  their number;
- how near a candidate is to what was liked stands beside what attention finds: from the first step
  the ranker knows what looks alike;
- impressions are few and events many: beside them the states of histories learn to foretell what
  was liked next;
- how items, their creators and users had done before the day is an input: counts and rates by
  action, which also reach every head by a linear path of their own;
- what an item is, whoever asks, is a program of its own: a server looks it up;
- the first layer of the over-arch is split: its user part is computed once a request;
- position enters as an additive bias that is zero at position 0, where serving ranks.

Shapes: R requests, H events, U distinct items, N candidates, C most candidates of a request, L
longest history plus one, D width, A actions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from data.contract.schema import refuse_unknown
from data.contract.settings import load_class
from models.embeddings import Table
from models.export import NUM_EVENTS, NUM_ITEMS, NUM_USERS, Program
from models.features import FeatureEncoder, RowDropout, is_missing, keep_likeness, segments
from models.history_readers import READERS
from models.losses import multi_task_bce, weighted_mean
from models.next_positive import NextPositive
from models.over_arch import OverArch
from models.reading import Items, Reading, UserState
from models.rectangles import rectangle, spread
from models.track_record import RecordEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data.contract.schema import Vocabulary
    from models.batch import Batch
    from models.ranker_settings import RankerSettings


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

    def described(self, inputs: Mapping[str, Tensor], prefix: str = "") -> Items:
        """The same with the items' categories."""
        vectors = self(inputs, prefix)
        return Items(vectors, self.features.codes(inputs, vectors, prefix))


class RankerItem(nn.Module):
    """The exported item encoder: what does not depend on who asks, computed once an item."""

    def __init__(self, item: RankedItem) -> None:
        """Shares the part of a ranker."""
        super().__init__()
        self.item = item

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """`item_id.rows` [N, id_dim], `item.<feature>` of N items. Gives `Items`."""
        return tuple(self.item.described(inputs))

    def program(self, id_dim: int) -> Program:
        """What is exported; sizes: items, and the values of each list column."""
        features = self.item.features
        rows = {"item_id.rows": torch.zeros(NUM_ITEMS, id_dim)}
        return Program(
            module=self,
            inputs=rows | features.example(NUM_ITEMS),
            dynamic=dict.fromkeys(rows, "items") | features.dynamic("items"),
            outputs=Items._fields,
        )


class RankerUser(nn.Module):
    """The exported user side: named arrays of one or more users -> their states."""

    def __init__(self, user: UserState, categories: int) -> None:
        """Shares the part of a ranker whose items have so many categorical columns."""
        super().__init__()
        self.user = user
        self.categories = categories

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """`user_id.rows`, `user.*`, `user_tally.counts`, `history.*`, `context.*`, `request.*`.

        `history.vectors|codes` and `context.vectors|codes` are `Items`, `request.surface` int64[B]
        is 0 where unknown, `request.has_context` float32[B] where the request is about no item.
        Gives a `Reading` of B users.
        """
        width = self.user.settings.sequence.max_length
        about = named(inputs, "context.").where(inputs["request.has_context"] > 0)
        return tuple(self.user(inputs, named(inputs, "history."), about, width))

    def program(self) -> Program:
        """What is exported; sizes: users, events, and the values of each list column."""
        features, settings = self.user.features, self.user.settings
        events = self.user.events.example(NUM_EVENTS)
        events |= example_items(NUM_EVENTS, settings.dim, self.categories, "history.")
        users = {"user_id.rows": torch.zeros(NUM_USERS, settings.id_dim)}
        users |= features.example(NUM_USERS)
        users |= example_items(NUM_USERS, settings.dim, self.categories, "context.")
        users["history.lengths"] = torch.tensor([2, 0, NUM_EVENTS - 2])
        users["request.surface"] = torch.zeros(NUM_USERS, dtype=torch.int64)
        users["request.has_context"] = torch.ones(NUM_USERS)
        if self.user.tally is not None:
            users["user_tally.counts"] = torch.ones(NUM_USERS, 2, self.user.kinds)
        return Program(
            module=self,
            inputs=users | events,
            dynamic=dict.fromkeys(users, "users")
            | features.dynamic("users")
            | dict.fromkeys(events, "events"),
            outputs=Reading._fields,
        )


class RankerItems(nn.Module):
    """The exported item side: states of R users and C candidates of each -> logits."""

    def __init__(self, ranker: Ranker) -> None:
        """Shares the parts of a ranker."""
        super().__init__()
        self.settings = ranker.settings
        self.categories = len(ranker.item.features.categories)
        self.record, self.over = ranker.record, ranker.over

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """A `Reading` of R users; `candidate.*` (`Items`), `trend.*`, `tally.counts`, `position`.

        The latter are of C candidates of each, [R, C, ...]. Gives logits float32[R, C, A].
        """
        read = Reading(*(inputs[name] for name in Reading._fields))
        record = self.record(inputs) if self.record.width else None
        logits: Tensor = self.over(read, named(inputs, "candidate."), inputs["position"], record)
        return logits

    def program(self) -> Program:
        """What is exported; sizes: users, and items of each."""
        settings = self.settings
        length = settings.sequence.max_length + 1
        states = NUM_USERS, length
        user = {
            "user": torch.zeros(NUM_USERS, settings.dim),
            "keys": torch.zeros(*states, settings.dim),
            "items": torch.zeros(*states, settings.dim),
            **{name: torch.zeros(states) for name in ("mask", "liked", "recent", "hidden")},
            "codes": torch.zeros(*states, self.categories, dtype=torch.int64),
            **{name: torch.zeros(NUM_USERS, settings.dim) for name in ("ahead", "later", "about")},
            "about_codes": torch.zeros(NUM_USERS, self.categories, dtype=torch.int64),
        }
        items = {
            **example_items(NUM_ITEMS, settings.dim, self.categories, "candidate."),
            "position": torch.zeros(NUM_ITEMS, dtype=torch.int64),
            **self.record.example(),
        }
        of_each = {name: one.expand(NUM_USERS, *one.shape) for name, one in items.items()}
        return Program(
            module=self,
            inputs=user | of_each,
            dynamic={
                **dict.fromkeys(user, "users"),
                **dict.fromkeys(items, ("users", "items")),
            },
            outputs=("logits",),
        )


def named(inputs: Mapping[str, Tensor], prefix: str) -> Items:
    """Encoded items by their names in a program."""
    return Items(*(inputs[f"{prefix}{name}"] for name in Items._fields))


def example_items(count: int, dim: int, categories: int, prefix: str) -> dict[str, Tensor]:
    """Encoded items that a program reads, for an export."""
    codes = torch.zeros(count, categories, dtype=torch.int64)
    return {f"{prefix}vectors": torch.zeros(count, dim), f"{prefix}codes": codes}


class Ranker(nn.Module):
    """The ranking model and its loss."""

    action_weight: Tensor
    label_weight: Tensor

    def __init__(self, settings: RankerSettings, vocabulary: Vocabulary) -> None:
        """Builds the model for the data set's columns, actions and surfaces.

        Raises:
            UserError: weights of an action that there is not.
        """
        super().__init__()
        self.settings = settings
        self.actions = vocabulary.actions
        self.drop = RowDropout(settings.id_dropout)
        self.item = RankedItem(settings, vocabulary)
        self.user = UserState(settings, vocabulary)
        self.record = RecordEncoder(vocabulary, settings.trends, settings.tallies)
        categories = len(self.item.features.categories)
        self.over = OverArch(settings, len(vocabulary.actions), categories, self.record.width)
        foretells = settings.next_weight > 0 and settings.history in READERS
        self.foretell = NextPositive() if foretells else None
        self.register_buffer("action_weight", action_weights(settings, vocabulary.actions))
        self.register_buffer("label_weight", label_weights(settings, vocabulary.actions))

    def tables(self, num_items: int, num_users: int) -> list[Table]:
        """ID tables for id spaces of so many rows."""
        dim = self.settings.id_dim
        return [Table("item_id", num_items, dim), Table("user_id", num_users, dim)]

    @property
    def item_program(self) -> RankerItem:
        """What encodes an item once and for all, over the same weights."""
        return RankerItem(self.item)

    @property
    def user_program(self) -> RankerUser:
        """The user side as it is served, over the same weights."""
        return RankerUser(self.user, len(self.item.features.categories))

    @property
    def items_program(self) -> RankerItems:
        """The item side as it is served, over the same weights."""
        return RankerItems(self)

    def programs(self) -> dict[str, Program]:
        """What serving runs: once an item, once a request, and once over its candidates."""
        return {
            "ranker_item": self.item_program.program(self.settings.id_dim),
            "ranker_user": self.user_program.program(),
            "ranker_items": self.items_program.program(),
        }

    def forward(self, rows: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted cross-entropy of all heads over the candidates, and of what is liked next.

        Args:
            rows: `item_id` float32[U, id_dim] of the distinct items, `user_id` [R, id_dim].
            batch: `item.<feature>` of the U items, `user.<feature>` of the R requests,
                `history.item` int64[H] (into U), `history.action|surface|age_ms` [H],
                `history.lengths` [R], `candidate.item` int64[N] (into U), `candidate.lengths` [R],
                `candidate.position` [N], `candidate.trend.counts` [N, S],
                `candidate.trend.age_ms` [N], `candidate.tally.counts` [N, G, W] and
                `user_tally.counts` [R, 2, W] where read, `request.surface` [R],
                `request.context` [R] (into U, -1 none); labels
                `label.<action>` float32[N], and `teacher.<action>` where there is one.

        Returns:
            Loss and what to log.
        """
        read, items, logits = self._ranked({n: self.drop(r) for n, r in rows.items()}, batch)
        labels = torch.stack([batch.labels[f"label.{a}"] for a in self.actions], 1)
        lengths = batch.inputs["candidate.lengths"]
        weight = batch.weight[segments(lengths, len(labels))]
        losses = multi_task_bce(logits, labels, self.action_weight, self.label_weight)
        loss = weighted_mean(losses, weight)
        logs = {"loss": loss.detach()}
        if f"teacher.{self.actions[0]}" in batch.labels:
            taught = torch.stack([batch.labels[f"teacher.{a}"] for a in self.actions], 1)
            losses = multi_task_bce(logits, taught, self.action_weight)
            distilled = weighted_mean(losses, weight)
            loss = loss + self.settings.teacher_weight * distilled
            logs["teacher"] = distilled.detach()
        if self.foretell is None:
            return loss, logs
        found = self.user.foretold(read, batch.inputs)
        weight = batch.weight[found.user]
        ahead = self.foretell(found.ahead, items, found.item, weight)
        later = self.foretell(found.later, items, found.item, weight)
        logs |= {"next": ahead.detach(), "later": later.detach()}
        return loss + self.settings.next_weight * (ahead + later), logs

    def logits(self, rows: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Logits of all candidates, float32[N, A]; see `forward` for the inputs."""
        return self._ranked(rows, batch)[2]

    def _ranked(self, rows: Mapping[str, Tensor], batch: Batch) -> tuple[Reading, Tensor, Tensor]:
        """What was read of the users, vectors of the distinct items, logits of the candidates."""
        inputs = batch.inputs
        items = self.item.described({**inputs, "item_id.rows": rows["item_id"]})
        known = {**inputs, "user_id.rows": rows["user_id"]}
        width = int(known["history.lengths"].max())
        context = inputs["request.context"]
        about = items.take(context.clamp(min=0)).where(context >= 0)
        read = self.user(known, items.take(inputs["history.item"]), about, width)
        lengths = inputs["candidate.lengths"]
        place, shape = rectangle(lengths, len(inputs["candidate.item"]))
        candidates = items.take(inputs["candidate.item"])
        asked = Items(*(spread(part, place, shape) for part in candidates))
        position = spread(inputs["candidate.position"], place, shape)
        record = None
        if self.record.width:
            record = spread(self.record(inputs, "candidate."), place, shape)
        logits: Tensor = self.over(read, asked, position, record)
        return read, items.vectors, logits.flatten(0, 1).index_select(0, place)


def action_weights(settings: RankerSettings, actions: tuple[str, ...]) -> Tensor:
    """Weight of each head, float32[A]. Raises UserError for an action that there is not."""
    refuse_unknown(settings.action_weights, actions, "ranker.action_weights")
    return torch.tensor([settings.action_weights.get(action, 1.0) for action in actions])


def label_weights(settings: RankerSettings, actions: tuple[str, ...]) -> Tensor:
    """Weight of a row at each head by its label, 1 where not named: float32[A, A].

    Raises:
        UserError: an action that there is not.
    """
    refuse_unknown(settings.label_weights, actions, "ranker.label_weights")
    matrix = torch.ones(len(actions), len(actions))
    for head, row in settings.label_weights.items():
        refuse_unknown(row, actions, f"ranker.label_weights.{head}")
        for action, weight in row.items():
            matrix[actions.index(head), actions.index(action)] = weight
    return matrix


def build_ranker(settings: RankerSettings, vocabulary: Vocabulary) -> Ranker:
    """The ranking model that `ranker.kind` names. Raises UserError when it cannot be had."""
    model: Ranker = load_class(settings.kind, "ranker.kind")(settings, vocabulary)
    return model
