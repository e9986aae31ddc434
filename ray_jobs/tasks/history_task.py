"""What the tasks that read histories share: windows of timelines, a pool of candidates a batch."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from data.batching import even_chunks, window_batch
from data.negatives import PoolSampler
from data.sequence_windows import shuffle_within_users
from ray_jobs.engine.streams import BlockPlan
from ray_jobs.tasks.log_task import ModelSettings
from ray_jobs.tasks.retrieval_task import RetrievalTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from data.contract.encode import Events, Mask
    from data.sequence_windows import Windows
    from data.trends import Trends
    from models.batch import Batch
    from models.dual_encoder import NegativeSettings
    from ray_jobs.engine.assignment import Assignment


class HistorySettings(ModelSettings, Protocol):
    """What the settings of these models say of their batches."""

    @property
    def negatives(self) -> NegativeSettings:
        """The pool of candidates."""

    @property
    def batch_size(self) -> int:
        """Windows a step."""


class HistoryTask(RetrievalTask):
    """A task whose rows are windows of timelines."""

    name: str

    def __init__(
        self, assignment: Assignment, settings: HistorySettings, days: tuple[int, int] | None
    ) -> None:
        """Counts labels in one pass; opens nothing else."""
        super().__init__(assignment, settings, days)
        self._history_settings = settings
        assignment.require_labels(int(self.counts.item_labels.sum()))

    @property
    def trends(self) -> Trends | None:
        """What was popular when, for models that read it."""
        return None

    @property
    def spare_future(self) -> bool:
        """Whether what a window reads or predicts later is no negative of its states."""
        return True

    @cached_property
    def pools(self) -> PoolSampler:
        """Draws the negatives."""
        data, negatives = self.assignment.dataset, self._history_settings.negatives
        live = np.arange(data.item_ids.first_row, data.item_ids.rows)
        sizes = negatives.in_batch, negatives.random
        return PoolSampler(live, self.counts.item_share, *sizes, self.spare_future)

    def plan(self) -> BlockPlan:
        """All blocks of timelines."""
        seed = self.assignment.stream_seed(f"{self.name}.plan")
        return BlockPlan(self.assignment.dataset.blocks, seed)

    def windows(self, events: Events, labels: Mask, rng: np.random.Generator) -> Windows:
        """Cuts the timelines of a block; `labels` [H] says what may be predicted."""
        raise NotImplementedError

    def collate(self, table: pa.Table, rng: np.random.Generator) -> Iterator[Batch]:
        """Cuts the windows of one block of users and batches them in random order."""
        lesson = self.log.lesson(table)
        events, labels = lesson.events, lesson.labels
        if self.assignment.dataset.order == "none":
            events, order = shuffle_within_users(events, rng)
            labels = labels[order]
        windows = self.windows(events, labels, rng)
        for chunk in even_chunks(len(windows), self._history_settings.batch_size, rng):
            part = windows.take(chunk)
            users = lesson.users[part.user]
            yield window_batch(part, users, self.encoder, self.pools, self.trends, rng)
