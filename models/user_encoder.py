"""Long-term user embeddings: PinnerFormer (Pancha et al., KDD'22).

Notable here:
- every state of a history is a user embedding: which of them predict what is an objective's choice
  (`data/targets.py`);
- it is trained to be right for weeks, so that it may be computed once a day.

Shapes: B windows of H events, U distinct items, T targets, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.contract.schema import UserObjective
from data.contract.settings import Count, Dropout, Positive, Share
from models.dual_encoder import DualEncoder, HistoryTower, NegativeSettings
from models.embeddings import Table
from models.events import EventEncoder, EventInput
from models.export import NUM_EVENTS, NUM_USERS, Program
from models.features import FeatureEncoder
from models.interaction import CrossingSettings
from models.sequence_encoder import SequenceEncoder, SequenceSettings
from models.towers import ItemTower

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data.contract.schema import Vocabulary
    from models.batch import Batch

Known = EventInput | Literal["position"]
EVERYTHING: tuple[Known, ...] = ("action", "surface", "time", "clock", "duration", "position")


def _sequence() -> SequenceSettings:
    return SequenceSettings(max_length=200, block="pointwise", num_heads=1)


def _negatives() -> NegativeSettings:
    return NegativeSettings(in_batch=1024, random=4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSettings:
    """Long-term user embeddings.

    Attributes:
        dim: width of user and item embeddings.
        id_dim: width of the ID rows of items, a multiple of 4; users have none.
        id_dropout: share of looked-up ID rows that are zeroed in training.
        hidden: width of the item tower's hidden layer.
        crossing: how fields are crossed: of items.
        graph_vectors: whether items have the graph encoder's embedding as a column. The encoder
            has learnt from the same days; see CONTRIBUTING, "Decisions".
        objective: what states predict, see `data/targets.py`; by default dense_all_action where the
            split is by time, else sasrec.
        positives: the positive actions that are predicted; by default all. All are read.
        horizon_days: how far ahead all_action and dense_all_action predict, in a log with a clock.
        horizon_labels: the same in a log without one, in positives.
        labels: positives that the one state of all_action predicts.
        states: share of the states that predict in dense_all_action, drawn in each pass.
        weighting: whether each user of a batch counts alike, or each target.
        inputs: what is known of an event beside its item: `time` is that since the event before,
            `clock` the time of day, week and year.
        temperature: first value of the learnt temperature of the scores, at least 0.01.
        sequence: the encoder of histories.
        negatives: the pool of candidates.
        batch_size: windows a step on each worker.
        epochs: passes over the windows of all users, when trained alone.
        upstream_steps: optimiser steps when other models are built on it.
        max_steps: optimiser steps, instead of both, unless `train.max_steps` says otherwise.
        learning_rate: of AdamW on the towers.
        table_learning_rate: of row-wise Adagrad on the ID table.
    """

    dim: Count = 64
    id_dim: Count = 64
    id_dropout: Dropout = 0.0
    hidden: Count = 256
    crossing: CrossingSettings = field(default_factory=CrossingSettings)
    graph_vectors: bool = False
    objective: UserObjective | None = None
    positives: tuple[str, ...] = ()
    horizon_days: Positive = 28
    horizon_labels: Count = 32
    labels: Count = 32
    states: Share = 1.0
    weighting: Literal["user", "target"] = "target"
    inputs: tuple[Known, ...] = EVERYTHING
    temperature: Positive = 0.05
    sequence: SequenceSettings = field(default_factory=_sequence)
    negatives: NegativeSettings = field(default_factory=_negatives)
    batch_size: Count = 32
    epochs: Count = 16
    upstream_steps: Count = 300
    max_steps: Count | None = None
    learning_rate: Positive = 2e-3
    table_learning_rate: Positive = 1.0


class HistoryEncoder(HistoryTower):
    """History of a user -> unit vectors, one after every event."""

    def __init__(self, settings: UserSettings, vocabulary: Vocabulary) -> None:
        """Builds the tower for the declared user columns, actions and surfaces."""
        super().__init__()
        dim = settings.dim
        self.settings = settings
        self.features = FeatureEncoder(vocabulary.user_features, "user")
        self.start = nn.Parameter(torch.randn(dim) * 0.02)
        self.about = nn.Linear(self.features.width, dim) if self.features.width else None
        known = [name for name in settings.inputs if name != "position"]
        self.events = EventEncoder(dim, vocabulary, known)
        placed = "position" in settings.inputs and vocabulary.order != "none"
        self.sequence = SequenceEncoder(dim, settings.sequence, placed)
        self.head = nn.Linear(dim, dim)
        nn.init.eye_(self.head.weight)

    def states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """States after every prefix of the histories.

        Args:
            inputs: `user.<feature>` of B users, `history.lengths` int64[B] and, for H events,
                `history.embedding.rows` float32[H, D] (item vectors, zeros if unknown) and what
                `EventEncoder` reads.

        Returns:
            float32[B + H, D] as `SequenceEncoder` lays them out, not yet projected.
        """
        items, lengths = inputs["history.embedding.rows"], inputs["history.lengths"]
        start = self.start.expand(lengths.shape[0], -1)
        if self.about is not None:
            start = start + self.about(torch.cat(self.features(inputs), 1))
        places = self.sequence.layout(lengths, items.shape[0])
        states: Tensor = self.sequence(self.events(items, inputs), start, places)
        return states

    def project(self, states: Tensor, long_term: Tensor | None = None) -> Tensor:
        """States [..., D] -> unit vectors [..., D]."""
        del long_term
        return F.normalize(self.head(states), dim=-1)

    def program(self) -> Program:
        """What is exported; sizes: users, events, and the values of each list column."""
        events = {"history.embedding.rows": torch.zeros(NUM_EVENTS, self.settings.dim)}
        events |= self.events.example(NUM_EVENTS)
        return Program(
            module=self,
            inputs=self.features.example(NUM_USERS)
            | events
            | {"history.lengths": torch.tensor([2, 0, NUM_EVENTS - 2])},
            dynamic={"history.lengths": "users"}
            | self.features.dynamic("users")
            | dict.fromkeys(events, "events"),
            outputs=("embedding",),
        )


class UserEncoder(DualEncoder):
    """The user model: a tower of histories, one of items."""

    name = "user"
    settings: UserSettings

    def __init__(self, settings: UserSettings, vocabulary: Vocabulary) -> None:
        """Builds the towers for the data set's columns, actions and surfaces."""
        super().__init__(
            settings, (ItemTower(settings, vocabulary), HistoryEncoder(settings, vocabulary))
        )

    def tables(self, num_items: int, num_users: int) -> list[Table]:
        """The ID table of items: users are known by what they did."""
        del num_users
        return [Table("item_id", num_items, self.settings.id_dim)]

    def target_weight(self, batch: Batch) -> Tensor:
        """How much each target counts, float32[T]; with `weighting=user` windows count alike."""
        weight = super().target_weight(batch)
        if self.settings.weighting == "target":
            return weight
        window = batch.inputs["target.sequence"]
        return weight / torch.bincount(window)[window]
