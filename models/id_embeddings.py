"""ID embeddings of users and items, learnt from who liked what: contrastive, no other input.

They are trained over a longer window than the models that read them, and before it, so that a row
has not seen the labels that it helps to foretell.

Shapes: B users, U distinct items, N states, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from data.contract.idspace_settings import IdSettings
from data.contract.settings import Count, Dropout, Positive
from models.dual_encoder import DualEncoder, HistoryTower, NegativeSettings, Tower
from models.export import NUM_EVENTS, NUM_ITEMS, NUM_USERS, Program

if TYPE_CHECKING:
    from collections.abc import Mapping


LEAST = 0.9  # of the first temperature


@dataclass(frozen=True, slots=True, kw_only=True)
class IdEmbeddingSettings(IdSettings):
    """Which ids get a row of their own, and how rows are trained beforehand.

    Attributes:
        min_count: events after which an id is admitted; ids of the item and user tables always are.
        buckets: rows that all ids not admitted share by hash.
        dim: width of the rows, a multiple of 4; `two_tower.id_dim` must be the same to read them.
        dropout: share of looked-up rows that are zeroed in training.
        temperature: first value of the learnt temperature of the scores, which falls no lower than
            nine tenths of it.
        negatives: the pool of candidates.
        batch_size: users a step on each worker.
        epochs: passes over the users.
        max_steps: optimiser steps, instead of `epochs`, unless `train.max_steps` says otherwise.
        learning_rate: of AdamW on the temperature.
        table_learning_rate: of row-wise Adagrad on the tables.
    """

    dim: Count = 64
    dropout: Dropout = 0.0
    temperature: Positive = 0.1
    negatives: NegativeSettings = field(default_factory=NegativeSettings)
    batch_size: Count = 128
    epochs: Count = 10
    max_steps: Count | None = None
    learning_rate: Positive = 2e-3
    table_learning_rate: Positive = 1.0

    @property
    def id_dim(self) -> int:
        """Width of the rows, which are the embeddings."""
        return self.dim

    @property
    def id_dropout(self) -> float:
        """Share of looked-up rows that are zeroed in training."""
        return self.dropout


class ItemRows(Tower):
    """Rows of items -> unit vectors; zeros stay zeros."""

    def __init__(self, dim: int) -> None:
        """Knows the width of a row."""
        super().__init__()
        self.dim = dim

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """`item_id.rows` float32[U, D] -> float32[U, D]."""
        return F.normalize(inputs["item_id.rows"], dim=-1)

    def program(self) -> Program:
        """What is exported; its size: items."""
        return Program(
            module=self,
            inputs={"item_id.rows": torch.zeros(NUM_ITEMS, self.dim)},
            dynamic={"item_id.rows": "items"},
            outputs=("embedding",),
        )


class UserRows(HistoryTower):
    """Rows of users -> unit vectors, the same after every event."""

    def __init__(self, dim: int) -> None:
        """Knows the width of a row."""
        super().__init__()
        self.dim = dim

    def states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """`user_id.rows` float32[B, D], `history.lengths` int64[B] -> float32[B + H, D]."""
        rows, lengths = inputs["user_id.rows"], inputs["history.lengths"]
        return torch.cat([rows, rows.repeat_interleave(lengths, 0)])

    def project(self, states: Tensor, long_term: Tensor | None = None) -> Tensor:
        """States [N, D] -> unit vectors [N, D]."""
        del long_term
        return F.normalize(states, dim=-1)

    def program(self) -> Program:
        """What is exported; sizes: users."""
        rows = torch.zeros(NUM_USERS, self.dim)
        return Program(
            module=self,
            inputs={"user_id.rows": rows, "history.lengths": torch.tensor([2, 0, NUM_EVENTS - 2])},
            dynamic={"user_id.rows": "users", "history.lengths": "users"},
            outputs=("embedding",),
        )


class IdEncoder(DualEncoder):
    """Both tables and their loss: matrix factorisation by sampled softmax over cosines.

    The temperature may rise but hardly fall: learnt freely, rows without any other input learn
    their training pairs by heart.
    """

    name = "id"
    settings: IdEmbeddingSettings

    def __init__(self, settings: IdEmbeddingSettings) -> None:
        """Builds towers without weights of their own."""
        super().__init__(settings, (ItemRows(settings.dim), UserRows(settings.dim)))
        self.least_temperature = LEAST * settings.temperature
