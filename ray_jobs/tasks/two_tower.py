"""Training the retriever: windows of timelines, the next new positive at every position."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from data.batching import (
    Admission,
    Encoder,
    PoolSampler,
    cut_windows,
    even_chunks,
    shuffle_within_users,
    two_tower_batch,
)
from data.queries import build_queries
from data.ranking import Catalogue, rank
from data.splits import VALID
from data.training_log import LabelCounts, TrainingLog, span_of
from data.trends import Trends
from models.metrics import retrieval_metrics
from models.two_tower import build_two_tower
from ray_jobs.engine.inference import Retriever, table_rows
from ray_jobs.engine.streams import BlockPlan

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from torch import nn

    from models.batch import Batch
    from models.embeddings import Table
    from ray_jobs.engine.assignment import Assignment
    from ray_jobs.engine.loop import Snapshot

KS = (10, 20, 50, 100, 200)


class TwoTowerTask:
    """Dense next-positive training over the timelines (METHODS 0.1, 3)."""

    name = "two_tower"

    def __init__(self, assignment: Assignment) -> None:
        """Counts labels in one pass; opens nothing else."""
        self.assignment = assignment
        self.settings = assignment.settings.two_tower
        windows = assignment.windows
        span = span_of(assignment.log, windows.two_tower if windows else None)
        self.log = TrainingLog(assignment.log, assignment.parts, span)
        assignment.require_labels(int(self.counts.item_labels.sum()))

    @cached_property
    def counts(self) -> LabelCounts:
        """Labels by row."""
        return self.log.count()

    @property
    def rates(self) -> tuple[float, float]:
        """Full learning rates of the dense part and of the tables."""
        return self.settings.learning_rate, self.settings.table_learning_rate

    @property
    def max_steps(self) -> int:
        """The retriever's own number of steps."""
        return self.settings.max_steps

    @cached_property
    def admission(self) -> Admission:
        """Rows that occur in training have an embedding; the others are scored by content."""
        least = self.assignment.settings.id.min_count
        return Admission(self.counts.item_events >= least, self.counts.user_labels >= least)

    @cached_property
    def encoder(self) -> Encoder:
        """Features and admitted ids."""
        data = self.assignment.dataset
        return Encoder(data.items, data.users, self.admission)

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
        windows = cut_windows(events, labels, self.settings.sequence.max_length, rng)
        for chunk in even_chunks(len(windows), self.settings.batch_size, rng):
            part = windows.take(chunk)
            users = lesson.users[part.user]
            yield two_tower_batch(part, users, self.encoder, self.pools, self.trends, rng)

    def build(self) -> tuple[nn.Module, list[Table]]:
        """The towers, and tables with room for the ids of days to come."""
        data = self.assignment.dataset
        core = build_two_tower(self.settings, data.vocabulary)
        rows = table_rows(data.item_ids.rows), table_rows(data.user_ids.rows)
        return core, core.tables(*rows)

    def validate(self, snapshot: Snapshot) -> dict[str, float]:
        """Full-catalogue metrics on the part that choices are made on."""
        limit = self.assignment.settings.train.validation_users
        queries = build_queries(self.assignment.log, VALID, limit)
        if not len(queries):
            return {}
        dataset = self.assignment.dataset
        retriever = Retriever.of(dataset, self.settings, snapshot, self.trends)
        catalogue = Catalogue.of(dataset)
        ranking = rank(retriever.scores, queries, catalogue, max(KS))
        return retrieval_metrics(
            ranking.items, ranking.hits, ranking.num_positives, catalogue.num_items, KS
        )

    def score(self, metrics: dict[str, float]) -> float:
        """The metric that choices are made on."""
        return metrics[self.assignment.settings.train.choose_on]
