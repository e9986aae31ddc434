"""Settings of the ranking model."""

from __future__ import annotations

from dataclasses import dataclass, field

from data.contract.settings import Count, Dropout, NonNegative, Positive, Rate, Weight
from models.interaction import CrossingSettings
from models.over_arch import Sharing
from models.reading import History
from models.sequence_encoder import SequenceSettings


def _sequence() -> SequenceSettings:
    return SequenceSettings(max_length=100, num_layers=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankerSettings:
    """The ranking model.

    Attributes:
        kind: a class of your own in place of `models.ranker:Ranker`, by dotted path.
        dim: width of items, events and user states.
        id_dim: width of ID rows, a multiple of 4.
        id_dropout: share of looked-up ID rows that are zeroed in training.
        hidden: width of the over-arch's first layer; the second has half of it.
        history: how candidates read the history: by attention; by a transformer that has the
            candidate in every token (fusion) or as the last (appended), both for short lists or as
            teachers; its average by recency alone; not at all.
        history_layers: of such a transformer.
        num_heads: heads of the attention of candidates over the history.
        crossing: of the fields of a candidate and its user, beside the first layer.
        experts: experts behind the first layer, mixed for each head by its gate; 0: all heads
            share one layer.
        sharing: of the experts: `gates` (MMoE), or `own`: one more for each head alone (PLE).
        dropout: in the over-arch.
        sequence: the encoder of histories.
        trends: whether candidates come with what was liked of them lately and their age, in a log
            with a clock.
        tallies: whether they come with counts and rates of each action, of the item and of those
            with equal values in a categorical column, and users with their own where there is a
            clock.
        half_life_days: age at which what is counted there counts half.
        user_vectors: whether users have the user model's embedding as of the midnight before as a
            column; only where the split is by time.
        next_weight: weight of the loss by which the states of histories foretell what is liked
            next, and what at any later time, beside that of the impressions.
        time_mask_hours: in training the events of the last hours before a request are hidden, up
            to so many, drawn for each request: one recent action then moves a feed less.
        negative_rate: share of the impressions without any action that is trained on; calibrators
            correct for it.
        action_weights: action -> weight of its loss; 1 for the others.
        label_weights: head -> action -> weight of a row at that head if it has that action.
        user_weights: categorical column of users -> value -> weight of their requests in training.
        teacher: version of a ranker of the same root whose probabilities are learnt beside the
            labels, a large one's by a small one, say.
        teacher_weight: weight of that loss beside that of the labels.
        least_served: impressions in the ranker's window from which it learns from what this
            installation has served; before, and where no impressions are logged, it learns from the
            retriever's candidates. A log that brings its own impressions is always learnt from.
        batch_size: requests a step on each worker.
        max_steps: optimiser steps, unless `train.max_steps` says otherwise.
        learning_rate: of AdamW on the dense part.
        table_learning_rate: of row-wise Adagrad on the ID tables.
    """

    kind: str = "models.ranker:Ranker"
    dim: Count = 64
    id_dim: Count = 32
    id_dropout: Dropout = 0.5
    hidden: Count = 1024
    history: History = "attention"
    history_layers: Count = 1
    num_heads: Count = 4
    crossing: CrossingSettings = field(default_factory=CrossingSettings)
    experts: NonNegative = 0
    sharing: Sharing = "gates"
    dropout: Dropout = 0.1
    sequence: SequenceSettings = field(default_factory=_sequence)
    trends: bool = True
    tallies: bool = True
    half_life_days: Positive = 90.0
    user_vectors: bool = False
    next_weight: Weight = 1.0
    time_mask_hours: Weight = 0.0
    negative_rate: Rate = 1.0
    action_weights: dict[str, Weight] = field(default_factory=dict)
    label_weights: dict[str, dict[str, Weight]] = field(default_factory=dict)
    user_weights: dict[str, dict[str, Weight]] = field(default_factory=dict)
    teacher: str | None = None
    teacher_weight: Weight = 1.0
    least_served: Count = 100_000
    batch_size: Count = 64
    max_steps: Count = 700
    learning_rate: Positive = 2e-3
    table_learning_rate: Positive = 0.02
