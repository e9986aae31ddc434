"""Training the retriever: windows of timelines, the next new positive at every position."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from data.batching import (
    cut_windows,
    draw_moments,
    even_chunks,
    shuffle_within_users,
    two_tower_batch,
)
from data.contract.schema import DAY_MS
from data.negatives import PoolSampler
from data.trends import Trends
from models.two_tower import build_two_tower
from ray_jobs.engine.inference import Retriever
from ray_jobs.engine.streams import BlockPlan
from ray_jobs.tasks.retrieval_task import RetrievalTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from torch import nn

    from data.ranking import Scorer
    from models.batch import Batch
    from models.embeddings import Table
    from ray_jobs.engine.assignment import Assignment
    from ray_jobs.engine.loop import Snapshot


class TwoTowerTask(RetrievalTask):
    """Dense next-positive training over the timelines (METHODS 0.1, 3)."""

    name = "two_tower"

    def __init__(self, assignment: Assignment) -> None:
        """Counts labels in one pass; opens nothing else."""
        self.settings = assignment.settings.two_tower
        windows = assignment.windows
        super().__init__(assignment, self.settings, windows.two_tower if windows else None)
        assignment.require_labels(int(self.counts.item_labels.sum()))

    @cached_property
    def pools(self) -> PoolSampler:
        """Draws the negatives."""
        data, negatives = self.assignment.dataset, self.settings.negatives
        live = np.arange(data.item_ids.first_row, data.item_ids.rows)
        return PoolSampler(live, self.counts.item_share, negatives.in_batch, negatives.random)

    @cached_property
    def trends(self) -> Trends | None:
        """What was popular when."""
        return Trends.of(self.assignment.log, self.assignment.parts)

    @property
    def horizon_ms(self) -> int:
        """How far ahead a state predicts: as far as evaluation asks, unless the settings say."""
        days, windows = self.settings.horizon_days, self.assignment.windows
        if self.assignment.dataset.calendar is None:
            return 0
        if days is None:
            days = windows.test[1] - windows.test[0] + 1 if windows else 0
        return int(days * DAY_MS)

    def plan(self) -> BlockPlan:
        """All blocks of timelines."""
        seed = self.assignment.stream_seed("two_tower.plan")
        return BlockPlan(tuple(self.assignment.dataset.blocks()), seed)

    def collate(self, table: pa.Table, rng: np.random.Generator) -> Iterator[Batch]:
        """Cuts the windows of one block of users and batches them in random order."""
        lesson = self.log.lesson(table)
        events, labels = lesson.events, lesson.labels
        if self.assignment.dataset.order == "none":
            events, order = shuffle_within_users(events, rng)
            labels = labels[order]
        created_at = self.assignment.dataset.items_created_at
        moments = draw_moments(events, created_at, self.horizon_ms, rng)
        windows = cut_windows(events, labels, moments, self.settings.sequence.max_length, rng)
        for chunk in even_chunks(len(windows), self.settings.batch_size, rng):
            part = windows.take(chunk)
            users = lesson.users[part.user]
            yield two_tower_batch(part, users, self.encoder, self.pools, self.trends, rng)

    def build(self) -> tuple[nn.Module, list[Table]]:
        """The towers, and tables with room for the ids of days to come."""
        core = build_two_tower(self.settings, self.assignment.dataset.vocabulary)
        return core, self.roomy_tables(core)

    def scorer(self, snapshot: Snapshot) -> Scorer:
        """Both towers, and what was popular when."""
        return Retriever.of(self.assignment.dataset, self.settings, snapshot, self.trends).scores
