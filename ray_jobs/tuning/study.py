"""Proposals by Optuna that come out the same whoever is quicker, and after any restart.

Trial n is proposed when the results of trials 0 to n - lag are known, and from these alone: later
ones count as running, however soon they finish, and each proposal draws from a stream of its own.
So a sweep that was killed asks its way through the trials that are recorded, runs nothing twice,
and goes on with the very trials that it would have run. `lag` is a little more than the number of
trials that run at once, so that a slow one does not hold up the others.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from data.contract.settings import UserError
from ray_jobs.tuning.goals import Goal
from ray_jobs.tuning.rungs import bars
from ray_jobs.tuning.space import Choice, Space
from ray_jobs.tuning.trial import Plan, Trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.samplers import BaseSampler

Method = Literal["grid", "random", "tpe", "nsga2"]

STARTUP = 4  # trials at random before a model is fitted to them
POPULATION = 12
STREAM = 0x7475


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """What decides which trials a study proposes.

    Attributes:
        search: how they are proposed.
        trials: how many.
        seed: of the proposals and of every trial.
        lag: how far a proposal's knowledge lies behind it.
        reduction: of successive halving; None runs every trial to its end.
        points: choices to begin with.
        earlier: choices and values of other studies, known from the start.
        costs: what is measured beside quality.
    """

    search: Method
    trials: int
    seed: int
    lag: int
    reduction: int | None = None
    points: tuple[Choice, ...] = ()
    earlier: tuple[tuple[Choice, tuple[float, ...]], ...] = ()
    costs: tuple[str, ...] = ()


@dataclass
class Study:
    """Asks Optuna and tells it, in the order of the trials.

    Attributes:
        space: what is searched.
        goals: what for.
        spec: how.
        journal: Optuna's storage, written anew from the records at each start.
    """

    name: str
    space: Space
    goals: tuple[Goal, ...]
    spec: StudySpec
    journal: Path
    asked: list[tuple[optuna.Trial, Plan]] = field(default_factory=list)
    trials: dict[int, Trial] = field(default_factory=dict)
    told: int = 0

    def __post_init__(self) -> None:
        """Opens the storage with what is known from the start."""
        _quiet()
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        for file in self.journal.parent.glob(f"{self.journal.name}*"):
            file.unlink()
        self.optuna = optuna.create_study(
            study_name=self.name,
            storage=JournalStorage(JournalFileBackend(str(self.journal))),
            directions=[goal.direction for goal in self.goals],
        )
        for choice, values in self.spec.earlier:
            self._add(choice, values)
        for point in self.spec.points:
            self.optuna.enqueue_trial(self.space.encoded(point))

    def _add(self, choice: Choice, values: Sequence[float]) -> None:
        self.optuna.add_trial(
            optuna.create_trial(
                params=self.space.encoded(choice),
                distributions=self.space.distributions(choice),
                values=list(values),
            )
        )

    @property
    def exhausted(self) -> bool:
        """Whether no plan will be handed out any more."""
        return len(self.asked) == self.spec.trials

    @property
    def finished(self) -> bool:
        """Whether all results are there."""
        return len(self.trials) == self.spec.trials

    @property
    def results(self) -> list[Trial]:
        """Trials in the order of their proposals."""
        return [self.trials[number] for number in sorted(self.trials)]

    def next(self) -> Plan | None:
        """The next plan; None when all have been handed out, or results are still missing."""
        number = len(self.asked)
        known = number - self.spec.lag + 1
        if self.exhausted or any(n not in self.trials for n in range(self.told, known)):
            return None
        self._catch_up(known)
        self.optuna.sampler = self._sampler(number)
        proposal = self.optuna.ask()
        plan = self._plan(number, self.space.suggested(proposal))
        self.asked.append((proposal, plan))
        return plan

    def _plan(self, number: int, choice: Choice) -> Plan:
        return Plan(
            choice=choice,
            seed=self.spec.seed,
            number=number,
            bars=self._bars(),
            judged=False,
            costs=self.spec.costs,
        )

    def _bars(self) -> tuple[float | None, ...]:
        if self.spec.reduction is None:
            return ()
        curves = [self._curve(self.trials[number]) for number in range(self.told)]
        return bars([curve for curve in curves if curve], self.spec.reduction)

    def _curve(self, trial: Trial) -> list[float]:
        goal = self.goals[0]
        return [goal.sign * line[goal.name] for line in trial.history]

    def _sampler(self, number: int) -> BaseSampler:
        """Draws from a stream that belongs to the proposal alone."""
        key = [STREAM, self.spec.seed, number]
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        if self.spec.search == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self.spec.search == "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
        return optuna.samplers.TPESampler(n_startup_trials=STARTUP, constant_liar=True, seed=seed)

    def copy_to(self, folder: Path) -> None:
        """Puts Optuna's storage beside the report."""
        shutil.copy(self.journal, folder / self.journal.name)

    def tell(self, plan: Plan, trial: Trial) -> None:
        """Takes a result; Optuna learns of it when its turn comes."""
        self.trials[plan.number] = trial
        if self.finished:
            self._catch_up(self.spec.trials)

    def _catch_up(self, count: int) -> None:
        """Tells Optuna of the first `count` trials, in their order."""
        for number in range(self.told, max(self.told, count)):
            self._tell(self.asked[number][0], self.trials[number])
            self.told = number + 1

    def _tell(self, proposal: optuna.Trial, trial: Trial) -> None:
        values = [goal.of(trial) for goal in self.goals]
        if trial.state == "pruned":
            for place, line in enumerate(trial.history):
                proposal.report(line[self.goals[0].name], place)
            self.optuna.tell(proposal, state=TrialState.PRUNED)
        elif trial.state == "failed" or None in values:
            proposal.set_user_attr("error", trial.error)
            self.optuna.tell(proposal, state=TrialState.FAIL)
        else:
            self.optuna.tell(proposal, values)  # type: ignore[arg-type]


def check_search(spec: StudySpec, goals: Sequence[Goal], scored_by: str) -> None:
    """Raises UserError for what cannot be searched together."""
    if spec.reduction is None:
        return
    if len(goals) > 1 or goals[0].name != scored_by:
        raise UserError(
            f"tune.pruning=asha compares trials by {scored_by} on their way; it takes that one "
            "objective, or none: drop objectives or tune.pruning"
        )


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    logging.getLogger("optuna").setLevel(logging.WARNING)
