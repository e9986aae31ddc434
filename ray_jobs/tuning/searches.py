"""The searches of one sweep, read from the job's words and checked before anything starts."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from data.contract import storage
from data.contract.artifact import version_of, write_atomically
from data.contract.settings import UserError, to_tree
from ray_jobs.engine.job import Job
from ray_jobs.engine.locks import turn
from ray_jobs.tuning.findings import CONFIRMATION, GRID, STUDY, TRIALS, Findings
from ray_jobs.tuning.goals import Goal, goals_of
from ray_jobs.tuning.grid import Grid, choices
from ray_jobs.tuning.space import Choice, Space, leaves, setting, usual
from ray_jobs.tuning.study import Study, StudySpec, check_search
from ray_jobs.tuning.sweep import Stage
from ray_jobs.tuning.trial import DECISIVE, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ray_jobs.engine.model_kinds import Model
    from ray_jobs.settings import Settings

STUDIES = "studies"
DROPOUTS, LENGTHS, LONG = [0.0, 0.2, 0.5, 0.7], [8, 32], 128


@dataclass
class Searches:
    """What a sweep will do.

    Attributes:
        job: its words.
        goals: objectives of the study.
        grid: the grid, if there is one.
        space: of the study, if there is one.
        spec: of the study; its lag is set when the study begins.
        study: the study, once it has begun.
        confirmation: the last trials, once they have begun.
    """

    job: Job
    goals: tuple[Goal, ...]
    grid: Grid | None
    space: Space | None
    spec: StudySpec | None
    study: Study | None = None
    confirmation: Grid | None = None

    @classmethod
    def of(cls, job: Job) -> Searches:
        """Reads and checks the words.

        Raises:
            UserError: something in them does not fit.
        """
        words, model = job.arguments, job.arguments.model
        studies = [name for name in words.search if name != "grid"]
        if len(studies) > 1 or len(set(words.search)) < len(words.search):
            raise UserError(f"search={list(words.search)}: one grid and one study at most")
        _refuse_unused(words, bool(studies))
        goals = goals_of(words.objectives, model, job.settings.train.choose_on)
        grid = _grid(job) if "grid" in words.search else None
        if not studies:
            return cls(job, goals, grid, None, None)
        space = Space.of(words.space or usual_space(model, job.settings), job.settings, model)
        spec = _spec(job, studies[0], space, goals)
        return cls(job, goals, grid, space, spec)

    @property
    def size(self) -> int:
        """Trials in all, best, start and default apart."""
        return (self.grid.size if self.grid else 0) + (self.spec.trials if self.spec else 0)

    def stages(self, concurrency: int) -> list[Stage]:
        """The searches in their order."""
        found = []
        if self.grid:
            found.append(Stage(lambda: self.grid))
        if self.spec:
            found.append(Stage(lambda: self._begin_study(concurrency)))
        if self.job.arguments.confirm:
            found.append(Stage(self._begin_confirmation, waits=True))
        return found

    def turn(self) -> AbstractContextManager[Callable[[], None]]:
        """Waits while the same study runs elsewhere, which has its journal (`locks.turn`)."""
        if self.spec is None:
            return nullcontext(lambda: None)
        return turn(self.job.root, f"study-{self._version()}")

    def _begin_study(self, concurrency: int) -> Study:
        assert self.space is not None
        assert self.spec is not None
        folder = self.job.root / STUDIES / self._version()
        spec = replace(self.spec, lag=_remembered_lag(folder, concurrency + concurrency // 2))
        self.study = Study(STUDY, self.space, self.goals, spec, folder / "study.journal")
        return self.study

    def _version(self) -> str:
        """Of a study, however many trials it has."""
        tree, words = to_tree(self.job.settings), to_tree(self.job.arguments)
        decisive = {name: tree[name] for name in (*DECISIVE, "seed")}
        names = ("model", "search", "space", "points", "objectives", "warm_start")
        own = {name: words[name] for name in names}
        return version_of([], decisive | own | {"pruning": self.job.settings.tune.pruning})

    def _begin_confirmation(self) -> Grid | None:
        findings = self.findings()
        if findings.best is None:
            return None
        unique = {json.dumps(c): c for c in ({}, *findings.named_choices().values())}
        first = self.job.settings.seed + self.job.arguments.seeds
        seeds = range(first, first + self.job.arguments.confirm)
        self.confirmation = Grid.of(CONFIRMATION, self.job.settings, list(unique.values()), seeds)
        return self.confirmation

    def findings(self) -> Findings:
        """What there is so far."""
        return Findings(
            self.job.settings,
            self.goals,
            self.grid.results if self.grid else (),
            self.study.results if self.study else (),
            self.confirmation.results if self.confirmation else (),
        )


def _refuse_unused(words: Any, studied: bool) -> None:
    """Raises UserError for words that no search reads."""
    if words.grid and "grid" not in words.search:
        raise UserError(f"grid.* is read by search=grid; search={list(words.search)}")
    for name in ("space", "points", "objectives", "warm_start"):
        if getattr(words, name) and not studied:
            raise UserError(f"{name} is read by a study: set search=tpe, nsga2 or random")


def usual_grid(model: Model, base: Settings) -> dict[str, list[Any]]:
    """Dropout of ID rows by length of histories, the job's own length being the longest."""
    dropout, length = usual(model)
    own = setting(base, length)
    return {dropout: DROPOUTS, length: [*LENGTHS, own if own > LENGTHS[-1] else LONG]}


def usual_space(model: Model, base: Settings) -> dict[str, Any]:
    """The same between its ends."""
    (dropout, shares), (length, lengths) = usual_grid(model, base).items()
    choice = f"choice({','.join(map(str, lengths))})"
    return {dropout: [shares[0], shares[-1]], length: choice}


def _grid(job: Job) -> Grid:
    words, first = job.arguments, job.settings.seed
    values = words.grid or usual_grid(words.model, job.settings)
    seeds = range(first, first + words.seeds)
    return Grid.of(GRID, job.settings, choices(values, words.model), seeds)


def _spec(job: Job, search: Any, space: Space, goals: tuple[Goal, ...]) -> StudySpec:
    words, settings = job.arguments, job.settings
    own = space.own_point()
    points = [space.completed(_named_in_full(one, words.model, space)) for one in words.points]
    spec = StudySpec(
        search=search,
        trials=words.trials,
        seed=settings.seed,
        lag=1,
        reduction=settings.tune.reduction if settings.tune.pruning == "asha" else None,
        points=tuple(points or ([own] if own else [])),
        earlier=tuple(_earlier(job, space, goals)),
        costs=tuple(goal.name for goal in goals if goal.is_cost),
    )
    scored_by = "log_loss" if words.model == "ranker" else settings.train.choose_on
    check_search(spec, goals, scored_by)
    return spec


def _named_in_full(point: dict[str, Any], model: Model, space: Space) -> dict[str, Any]:
    """Names of the model's own settings may be given without the model's."""
    given = dict(leaves(point))
    return {key if key in space.keys else _own(key, model, space): v for key, v in given.items()}


def _own(key: str, model: Model, space: Space) -> str:
    return f"{model}.{key}" if f"{model}.{key}" in space.keys else key


def _earlier(
    job: Job, space: Space, goals: Sequence[Goal]
) -> list[tuple[Choice, tuple[float, ...]]]:
    """Trials of earlier sweeps that could have been proposed here.

    Raises:
        UserError: there is no such sweep.
    """
    found = []
    for name in job.arguments.warm_start:
        for trial in _trials_of(name, job.root):
            values = [goal.of(trial) for goal in goals]
            known = [value for value in values if value is not None]
            if space.holds(trial.choice) and trial.state == "complete" and known == values:
                found.append((trial.choice, tuple(known)))
    return found


def _trials_of(name: str, root: Path) -> list[Trial]:
    places = [folder / TRIALS for folder in (storage.mirror(name), root / "tune" / name)]
    file = next((place for place in places if storage.fetch(place, fresh=True)), None)
    if file is None:
        raise UserError(
            f"warm_start={name} names no finished sweep: give its folder, or a version below "
            f"{storage.uri_of(root / 'tune')}"
        )
    lines = json.loads(file.read_text())
    return [Trial(**{k: v for k, v in line.items() if k != "search"}) for line in lines]


def _remembered_lag(folder: Path, lag: int) -> int:
    """The lag with which a study was begun: on another cluster, too, it proposes the same."""
    file = folder / "lag.json"
    if not storage.fetch(file, fresh=True):
        write_atomically(file, json.dumps(lag))
    found: int = json.loads(file.read_text())
    return found
