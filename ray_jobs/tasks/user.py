"""Training long-term user embeddings: states of timelines and what they foretell."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from data.contract.schema import DAY_MS
from data.targets import Horizon, TargetSampler, num_windows, windows_of
from models.user_encoder import UserEncoder
from ray_jobs.engine.inference import Retriever
from ray_jobs.tasks.history_task import HistoryTask
from ray_jobs.tasks.retrieval_task import LONG_RUN_USERS

if TYPE_CHECKING:
    from torch import nn

    from data.contract.encode import Events, Ints, Mask
    from data.contract.schema import UserObjective
    from data.ranking import Scorer
    from data.sequence_windows import Windows
    from models.embeddings import Table
    from ray_jobs.engine.assignment import Assignment
    from ray_jobs.engine.loop import Snapshot


class UserTask(HistoryTask):
    """Dense all-action training and its simpler kin (PinnerFormer, KDD'22)."""

    name = "user"

    def __init__(self, assignment: Assignment) -> None:
        """Counts labels in one pass; opens nothing else."""
        self.settings = assignment.settings.user
        super().__init__(assignment, self.settings, assignment.label_days)

    @property
    def label_codes(self) -> tuple[int, ...]:
        """Of the actions that are set."""
        vocabulary = self.assignment.dataset.vocabulary
        return vocabulary.codes_of(self.settings.positives, "user.positives")

    @property
    def max_steps(self) -> int:
        """As set; else few for the models after it, alone passes over the windows of all users."""
        settings, ranks = self.settings, max(1, self.assignment.settings.train.num_workers)
        if not self.assignment.alone:
            return settings.max_steps or settings.upstream_steps
        passes = settings.epochs * int(self._windows_of_users().sum())
        return settings.max_steps or -(-passes // (settings.batch_size * ranks))

    def _windows_of_users(self) -> Ints:
        learns = self.counts.user_labels > 0
        if self.objective in ("next_action", "all_action"):
            return learns.astype(np.int64)
        return learns * num_windows(self.counts.user_events, self.settings.sequence.max_length)

    @property
    def validation_users(self) -> int:
        """Most users in a validation."""
        return max(super().validation_users, LONG_RUN_USERS)

    @property
    def objective(self) -> UserObjective:
        """As set; else the future where a split by time asks for it, the next event elsewhere."""
        timed = self.assignment.windows is not None
        return self.settings.objective or ("dense_all_action" if timed else "sasrec")

    @property
    def spare_future(self) -> bool:
        """Where the next positive is foretold, those after it are what it is told apart from."""
        return self.objective in ("all_action", "dense_all_action")

    @property
    def horizon(self) -> Horizon:
        """How far ahead states predict."""
        settings, clock = self.settings, self.assignment.dataset.calendar is not None
        wanted_ms = int(settings.horizon_days * DAY_MS) if clock else None
        return Horizon(settings.horizon_labels, wanted_ms)

    @cached_property
    def targets(self) -> TargetSampler:
        """Draws what is predicted."""
        settings = self.settings
        return TargetSampler(self.objective, self.horizon, settings.labels, settings.states)

    def windows(self, events: Events, labels: Mask, rng: np.random.Generator) -> Windows:
        """Draws the targets of a block of users, and what their states have read."""
        targets = self.targets.draw(events, labels, rng)
        return windows_of(events, targets, self.settings.sequence.max_length, rng)

    def build(self) -> tuple[nn.Module, list[Table]]:
        """The towers, and tables with room for the ids of days to come."""
        core = UserEncoder(self.settings, self.assignment.dataset.vocabulary)
        return core, self.roomy_tables(core)

    def scorer(self, snapshot: Snapshot) -> Scorer:
        """Both towers."""
        assignment = self.assignment
        return Retriever.of(
            assignment.dataset, self.settings, snapshot, None, assignment.device
        ).scores
