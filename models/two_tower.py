"""Two-tower retrieval: a user's history and an item meet in one space.

Notable here:
- the history is read through the item tower, so the two sides share one space of items;
- every position of a window predicts (dense targets), over one pool of candidates a batch;
- what is popular and new today is a prior beside the cosine, learnt as of the day of each target;
- the towers that train are the modules that are exported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from data.contract.settings import Count, Dropout, NonNegative, Positive, load_class
from models.dual_encoder import DualEncoder, NegativeSettings
from models.features import RowDropout
from models.interaction import CrossingSettings
from models.multi_interest import InterestSettings
from models.sequence_encoder import SequenceSettings
from models.towers import ItemTower, UserTower
from models.trend_prior import TrendPrior

if TYPE_CHECKING:
    from data.contract.schema import Vocabulary


def _sequence() -> SequenceSettings:
    return SequenceSettings(max_length=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoTowerSettings:
    """The retrieval model.

    Attributes:
        kind: a class of your own in place of `models.two_tower:TwoTower`, by dotted path.
        dim: width of user and item embeddings.
        id_dim: width of ID rows, a multiple of 4.
        id_rows: where ID rows come from: learnt with the towers, or learnt before by `model=id` and
            then frozen, or fine_tuned.
        id_dropout: share of looked-up ID rows that are zeroed in training, so that features and
            history carry items and users without a row; none of items that are rows alone.
        hidden: width of the towers' hidden layers.
        crossing: how fields are crossed: of items, and of users with their history.
        graph_vectors: whether items, for the ranker too, have the graph encoder's embedding as a
            column; by default where the split is by time, so that windows can be told apart.
        condition_share: share of the targets that are foretold knowing one of their item's
            interests, where items declare a list of them: what a request that names some is
            answered by.
        interests: several embeddings of a user.
        user_vectors: whether users have the user model's embedding as of the midnight before as a
            column; only where the split is by time.
        horizon_days: how far ahead half of the targets are predicted, in a log with a clock; by
            default as many days as the reported part of a time split has, else none: the next
            positive alone.
        temperature: first value of the learnt temperature of the scores, at least 0.01.
        sequence: the encoder of histories.
        negatives: the pool of candidates.
        batch_size: windows a step on each worker.
        max_steps: optimiser steps, unless `train.max_steps` says otherwise; by default 400, which
            the ten minutes of a whole feed allow, and `epochs` where users' events have no order.
        epochs: passes over the windows of a log of pairs.
        learning_rate: of AdamW on the towers.
        table_learning_rate: of row-wise Adagrad on the ID tables.
    """

    kind: str = "models.two_tower:TwoTower"
    dim: Count = 64
    id_dim: Count = 64
    id_rows: Literal["learnt", "fine_tuned", "frozen"] = "learnt"
    id_dropout: Dropout = 0.2
    hidden: Count = 256
    crossing: CrossingSettings = field(default_factory=CrossingSettings)
    graph_vectors: bool | None = None
    condition_share: Dropout = 0.0
    interests: InterestSettings = field(default_factory=InterestSettings)
    user_vectors: bool = False
    horizon_days: NonNegative | None = None
    temperature: Positive = 0.07
    sequence: SequenceSettings = field(default_factory=_sequence)
    negatives: NegativeSettings = field(default_factory=NegativeSettings)
    batch_size: Count = 64
    max_steps: Count | None = None
    epochs: Count = 16
    learning_rate: Positive = 2e-3
    table_learning_rate: Positive = 1.0

    def __post_init__(self) -> None:
        """Refuses shares of the targets that add up to more than all of them."""
        if self.condition_share + self.interests.share * (self.interests.num > 0) > 1:
            raise ValueError("condition_share and interests.share must not exceed 1 together")


class TwoTower(DualEncoder):
    """The retrieval model."""

    name = "two_tower"
    settings: TwoTowerSettings

    def __init__(self, settings: TwoTowerSettings, vocabulary: Vocabulary) -> None:
        """Builds the towers for the data set's columns, actions and surfaces."""
        towers = ItemTower(settings, vocabulary), UserTower(settings, vocabulary)
        super().__init__(settings, towers, TrendPrior() if vocabulary.order == "clock" else None)
        if not vocabulary.item_features:
            self.drop_items = RowDropout(0.0)


def build_two_tower(settings: TwoTowerSettings, vocabulary: Vocabulary) -> TwoTower:
    """The retrieval model that `two_tower.kind` names. Raises UserError when it cannot be had."""
    kind = load_class(settings.kind, "two_tower.kind")
    model: TwoTower = kind(settings, vocabulary)
    return model
