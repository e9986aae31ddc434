"""Training the retriever: windows of timelines, the next new positive at every position."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from data.batching import Admission
from data.contract.schema import DAY_MS
from data.sequence_windows import cut_windows, draw_moments
from data.trends import Trends
from models.two_tower import build_two_tower
from ray_jobs.engine.inference import Retriever
from ray_jobs.tasks.history_task import HistoryTask

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

    from data.contract.encode import Events, Mask
    from data.ranking import Scorer
    from data.sequence_windows import Windows
    from models.embeddings import Table
    from ray_jobs.engine.assignment import Assignment
    from ray_jobs.engine.loop import Snapshot


STEPS = 400


def has_row(table: npt.NDArray[np.float32], rows: int) -> Mask:
    """Which of so many rows are not zeros in a table, which may have fewer. [rows]."""
    found = np.zeros(rows, bool)
    known = table[:rows]
    found[: len(known)] = known.any(1)
    return found


class TwoTowerTask(HistoryTask):
    """Dense next-positive training over the timelines."""

    name = "two_tower"

    def __init__(self, assignment: Assignment) -> None:
        """Counts labels in one pass; opens nothing else."""
        self.settings = assignment.settings.two_tower
        windows = assignment.windows
        super().__init__(assignment, self.settings, windows.two_tower if windows else None)

    @cached_property
    def max_steps(self) -> int:
        """As set, else what a whole feed allows; over pairs, whose windows are short, passes."""
        settings, ranks = self.settings, max(1, self.assignment.settings.train.num_workers)
        if settings.max_steps or self.assignment.dataset.order != "none":
            return settings.max_steps or STEPS
        stride = max(1, settings.sequence.max_length // 2)
        windows = int(np.ceil(self.counts.user_labels / stride).sum())
        return max(STEPS, settings.epochs * windows // (settings.batch_size * ranks))

    @property
    def rates(self) -> tuple[float, float]:
        """Full learning rates of the dense part and of the tables: frozen ones stay."""
        dense, sparse = super().rates
        return dense, 0.0 if self.settings.id_rows == "frozen" else sparse

    @cached_property
    def admission(self) -> Admission:
        """Rows that occur in training, or were learnt before; frozen ones only if they were."""
        found, before = super().admission, self.assignment.id_tables()
        if not before:
            return found
        learnt = [
            has_row(before[f"{side}_id"].numpy(), len(rows))
            for side, rows in (("item", found.item), ("user", found.user))
        ]
        if self.settings.id_rows == "frozen":
            return Admission(*learnt)
        return Admission(found.item | learnt[0], found.user | learnt[1])

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

    def windows(self, events: Events, labels: Mask, rng: np.random.Generator) -> Windows:
        """Tiles the timelines of a block; when each label is foretold is drawn anew."""
        created_at = self.assignment.dataset.items_created_at
        moments = draw_moments(events, created_at, self.horizon_ms, rng)
        return cut_windows(events, labels, moments, self.settings.sequence.max_length, rng)

    def build(self) -> tuple[nn.Module, list[Table]]:
        """The towers, and tables with room for the ids of days to come."""
        core = build_two_tower(self.settings, self.assignment.dataset.vocabulary)
        return core, self.roomy_tables(core)

    def scorer(self, snapshot: Snapshot) -> Scorer:
        """Both towers, and what was popular when."""
        assignment = self.assignment
        return Retriever.of(
            assignment.dataset, self.settings, snapshot, self.trends, assignment.device
        ).scores
