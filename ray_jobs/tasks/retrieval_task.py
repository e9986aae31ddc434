"""What the tasks that are chosen by full-catalogue retrieval share."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from data.queries import build_queries
from data.ranking import Catalogue, rank
from data.splits import VALID
from models.metrics import retrieval_metrics
from ray_jobs.tasks.log_task import LogTask

if TYPE_CHECKING:
    from data.queries import Queries
    from data.ranking import Scorer
    from ray_jobs.engine.loop import Snapshot

KS = (10, 20, 50, 100, 200)
MOST_VALIDATIONS = 20
LONG_RUN_USERS = 5000  # the least for models that train for long: a thousand are noisy


class RetrievalTask(LogTask):
    """A task whose model scores the whole catalogue for a user."""

    @property
    def validate_every(self) -> int:
        """At most twenty times in a run: a long one would spend its time on it."""
        every = self.assignment.settings.train.validate_every
        return max(every, self.assignment.steps_of(self.max_steps) // MOST_VALIDATIONS)

    @property
    def validation_users(self) -> int:
        """Most users in a validation."""
        return self.assignment.settings.train.validation_users

    def scorer(self, snapshot: Snapshot) -> Scorer:
        """The model filled with a snapshot's weights."""
        raise NotImplementedError

    @cached_property
    def validation_queries(self) -> Queries:
        """Of the part that choices are made on; found by a pass over the whole log."""
        return build_queries(self.assignment.log, VALID, self.validation_users)

    def validate(self, snapshot: Snapshot) -> dict[str, float]:
        """Full-catalogue metrics on the part that choices are made on; empty without a query."""
        queries = self.validation_queries
        if not len(queries):
            return {}
        catalogue = Catalogue.of(self.assignment.dataset)
        ranking = rank(self.scorer(snapshot), queries, catalogue, max(KS))
        return retrieval_metrics(
            ranking.items, ranking.hits, ranking.num_positives, catalogue.num_items, KS
        )

    def score(self, metrics: dict[str, float]) -> float:
        """The metric that choices are made on."""
        return metrics[self.assignment.settings.train.choose_on]
