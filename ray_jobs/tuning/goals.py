"""What a sweep searches for: one objective or several, and which point of a front is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from data.contract.settings import UserError
from ray_jobs.engine.tradeoff import efficient
from ray_jobs.tuning.cost import COSTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray_jobs.engine.model_kinds import Model
    from ray_jobs.tuning.trial import Trial

SMALLER_IS_BETTER = ("log_loss", *COSTS)
OF_RANKER = ("log_loss", "auc")


@dataclass(frozen=True, slots=True)
class Goal:
    """One objective: a metric of the validation part, or a cost."""

    name: str

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return -1 if self.name in SMALLER_IS_BETTER else 1

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """The same in Optuna's terms."""
        return "maximize" if self.sign > 0 else "minimize"

    @property
    def is_cost(self) -> bool:
        """Whether it is measured of the trained model, not by validation."""
        return self.name in COSTS

    def of(self, trial: Trial) -> float | None:
        """What a trial has come to; None when it has not been measured."""
        value = (trial.costs if self.is_cost else trial.validation).get(self.name)
        return None if value is None or np.isnan(value) else float(value)


def goals_of(names: Sequence[str], model: Model, choose_on: str) -> tuple[Goal, ...]:
    """The objectives; by default what steps are chosen on.

    Raises:
        UserError: a name is no metric of the model's validation and no cost.
    """
    own = "log_loss" if model == "ranker" else choose_on
    found = tuple(dict.fromkeys(names or (own,)))
    for name in found:
        if name not in COSTS and not _is_metric(name, model):
            metrics = "log_loss, auc" if model == "ranker" else "recall@k, ndcg@k, coverage@k"
            raise UserError(
                f"objectives: {name} is not measured for model={model}; it has {metrics}, "
                f"{', '.join(COSTS)}"
            )
    if model == "graph" and "latency_ms" in found:
        raise UserError("objectives: the graph encoder answers no request, so it has no latency_ms")
    return tuple(map(Goal, found))


def _is_metric(name: str, model: Model) -> bool:
    if model == "ranker":
        return name in OF_RANKER
    kind, _, k = name.partition("@")
    kinds = ("recall", "ndcg", "hit_rate", "mrr", "coverage")
    return kind in kinds and k in ("10", "20", "50", "100", "200")


def front(trials: Sequence[Trial], goals: Sequence[Goal]) -> list[Trial]:
    """Complete trials that no other betters in every objective, the best in the first ahead."""
    measured = [trial for trial in trials if _measured(trial, goals)]
    if not measured:
        return []
    worth, firsts = np.unique(_worth(measured, goals), axis=0, return_index=True)
    found = [measured[place] for place in firsts[efficient(worth)]]
    return sorted(found, key=lambda trial: -goals[0].sign * (goals[0].of(trial) or 0))


def _measured(trial: Trial, goals: Sequence[Goal]) -> bool:
    return trial.state == "complete" and all(goal.of(trial) is not None for goal in goals)


def chosen(trials: Sequence[Trial], goals: Sequence[Goal]) -> Trial | None:
    """The best trial; of a front the one nearest to having the best of each objective.

    Objectives are scaled to the range that they have on the front.
    """
    efficient_trials = front(trials, goals)
    if not efficient_trials:
        return None
    worth = _worth(efficient_trials, goals)
    spread = np.ptp(worth, axis=0)
    lacking = (worth.max(axis=0) - worth) / np.where(spread > 0, spread, 1.0)
    return efficient_trials[int(np.argmin(np.linalg.norm(lacking, axis=1)))]


def _worth(trials: Sequence[Trial], goals: Sequence[Goal]) -> np.ndarray:
    values = [[goal.sign * (goal.of(trial) or 0.0) for goal in goals] for trial in trials]
    return np.array(values, np.float64)
