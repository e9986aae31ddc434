"""What the tasks that learn from the event log share."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from data.batching import Admission, Encoder
from data.training_log import LabelCounts, TrainingLog, span_of
from ray_jobs.engine.inference import table_rows

if TYPE_CHECKING:
    from models.embeddings import Table
    from ray_jobs.engine.assignment import Assignment


class ModelSettings(Protocol):
    """What the settings of every model say of its training."""

    @property
    def learning_rate(self) -> float | None:
        """Of AdamW on the dense part."""

    @property
    def table_learning_rate(self) -> float:
        """Of row-wise Adagrad on the ID tables."""

    @property
    def max_steps(self) -> int | None:
        """Optimiser steps, unless `train.max_steps` says otherwise; None: the task knows."""


class Core(Protocol):
    """A dense part that names the tables it reads."""

    def tables(self, num_items: int, num_users: int) -> list[Table]:
        """ID tables for id spaces of so many rows."""


class LogTask:
    """A task over the labels of one window of the log.

    Attributes:
        assignment: data, settings, phase.
        settings: of the model.
        log: what may be read, and what is to be predicted.
    """

    name: str

    def __init__(
        self, assignment: Assignment, settings: ModelSettings, days: tuple[int, int] | None
    ) -> None:
        """Reads nothing yet; labels lie in `days` of a time split."""
        self.assignment = assignment
        span = span_of(assignment.log, days)
        self.log = TrainingLog(assignment.log, assignment.parts, span, self.label_codes)
        self._settings = settings

    @property
    def label_codes(self) -> tuple[int, ...]:
        """Actions whose first touches are labels; none stands for all positive ones."""
        return ()

    @property
    def rates(self) -> tuple[float, float]:
        """Full learning rates of the dense part and of the tables."""
        dense = self._settings.learning_rate
        assert dense is not None
        return dense, self._settings.table_learning_rate

    @property
    def max_steps(self) -> int:
        """The model's own number of steps."""
        steps = self._settings.max_steps
        assert steps is not None
        return steps

    @property
    def validate_every(self) -> int:
        """Steps between validations."""
        return self.assignment.settings.train.validate_every

    @cached_property
    def counts(self) -> LabelCounts:
        """Labels by row, from one pass over the timelines."""
        return self.log.count()

    @cached_property
    def admission(self) -> Admission:
        """Rows that occur in training have an embedding; the others are scored by content."""
        least = self.assignment.settings.id.min_count
        return Admission(self.counts.item_events >= least, self.counts.user_labels >= least)

    @cached_property
    def encoder(self) -> Encoder:
        """Features and admitted ids."""
        data = self.assignment.dataset
        return Encoder(data.items, data.users, self.admission, data.user_days)

    def roomy_tables(self, core: Core) -> list[Table]:
        """Tables of a dense part, with room for the ids of days to come."""
        data = self.assignment.dataset
        return core.tables(table_rows(data.item_ids.rows), table_rows(data.user_ids.rows))

    def why_no_rows(self) -> str:
        """What may have left out all rows, and the way out."""
        return (
            "no label of its window stands in a row that can be made; "
            f"check {self.name}.*, split.* and windows.*"
        )
