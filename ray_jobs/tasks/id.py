"""Training ID embeddings: each user's row against the items that they came to like."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from data.batching import Admission
from data.negatives import PoolSampler
from data.sequence_windows import Windows
from models.id_embeddings import IdEncoder
from ray_jobs.engine.inference import Retriever
from ray_jobs.tasks.history_task import HistoryTask

if TYPE_CHECKING:
    from torch import nn

    from data.contract.encode import Events, Mask
    from data.ranking import Scorer
    from models.embeddings import Table
    from ray_jobs.engine.assignment import Assignment
    from ray_jobs.engine.loop import Snapshot


class IdTask(HistoryTask):
    """A window is a user with all labels and nothing read."""

    name = "id"

    def __init__(self, assignment: Assignment) -> None:
        """Counts labels in one pass; opens nothing else."""
        self.settings = assignment.settings.id
        super().__init__(assignment, self.settings, assignment.label_days)

    @cached_property
    def max_steps(self) -> int:
        """As set, else passes over the users who have labels."""
        settings, ranks = self.settings, max(1, self.assignment.settings.train.num_workers)
        passes = settings.epochs * int((self.counts.user_labels > 0).sum())
        return settings.max_steps or -(-passes // (settings.batch_size * ranks))

    @cached_property
    def admission(self) -> Admission:
        """Rows with labels in the window: of others nothing could be learnt."""
        least = self.assignment.settings.id.min_count
        return Admission(self.counts.item_labels >= least, self.counts.user_labels >= least)

    @cached_property
    def pools(self) -> PoolSampler:
        """Draws negatives among the items that have a row."""
        negatives = self.settings.negatives
        live = np.flatnonzero(self.admission.item).astype(np.int64)
        return PoolSampler(
            live, self.counts.item_share, negatives.in_batch, negatives.random, self.spare_future
        )

    def windows(self, events: Events, labels: Mask, rng: np.random.Generator) -> Windows:
        """Of each user of a block who has labels."""
        del rng
        at = np.flatnonzero(labels).astype(np.int64)
        users, window = np.unique(
            np.searchsorted(events.offsets, at, side="right") - 1, return_inverse=True
        )
        nothing = np.zeros(len(users), np.int64)
        read = events.cut(events.offsets[users], nothing)
        labelled = events.item[at].astype(np.int64), events.timestamp[at]
        return Windows(users, read, window, np.zeros_like(at), *labelled)

    def build(self) -> tuple[nn.Module, list[Table]]:
        """The loss, and tables with room for the ids of days to come."""
        core = IdEncoder(self.settings)
        return core, self.roomy_tables(core)

    def scorer(self, snapshot: Snapshot) -> Scorer:
        """The rows alone."""
        assignment = self.assignment
        return Retriever.of(
            assignment.dataset, self.settings, snapshot, None, assignment.device
        ).scores
