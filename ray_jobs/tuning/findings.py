"""What a sweep has found: the best settings, beside where it started and what was set before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from data.contract.plain_yaml import dumped
from data.contract.settings import merge, nest
from ray_jobs.settings import Settings
from ray_jobs.tuning.goals import Goal, chosen
from ray_jobs.tuning.space import setting
from ray_jobs.tuning.table import best, table
from ray_jobs.tuning.trial import Trial

if TYPE_CHECKING:
    from pathlib import Path

    from ray_jobs.tuning.space import Choice

GRID, STUDY, CONFIRMATION = "grid", "study", "confirmation"
TRIALS, BEST = "trials.json", "best.yaml"
Row = Mapping[str, Any]


@dataclass
class Findings:
    """Results of all searches of a sweep, in the order of their plans.

    Attributes:
        base: the job's own settings.
        goals: what was searched for.
        grid: trials of the grid.
        study: trials of the study.
        confirmation: default, start and best again, under seeds of their own.
    """

    base: Settings
    goals: tuple[Goal, ...]
    grid: Sequence[Trial] = ()
    study: Sequence[Trial] = ()
    confirmation: Sequence[Trial] = ()

    @property
    def searched(self) -> list[Trial]:
        """Trials among which the best is chosen."""
        return [*self.grid, *self.study]

    @property
    def all(self) -> list[tuple[str, Trial]]:
        """Every trial and the search that proposed it."""
        found = {GRID: self.grid, STUDY: self.study, CONFIRMATION: self.confirmation}
        return [(name, trial) for name, trials in found.items() for trial in trials]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The grid, a row a setting."""
        return table(self.grid, self.base.tune.level)

    @cached_property
    def confirmed(self) -> list[dict[str, Any]]:
        """The last comparison, a row a setting, the default first."""
        return table(self.confirmation, self.base.tune.level)

    @property
    def start(self) -> Trial | None:
        """Where the study started."""
        return self.study[0] if self.study else None

    @cached_property
    def best(self) -> Choice | None:
        """The best settings by validation; of a grid alone by the mean over its seeds.

        What is reported never chooses.
        """
        if self.study:
            found = chosen(self.searched, self.goals)
            return found.choice if found else None
        row = best(self.rows, self.base.train.choose_on)
        return row["settings"] if row else None

    def named_choices(self) -> dict[str, Choice]:
        """default, start and best, those that are known."""
        found: dict[str, Choice | None] = {"default": {}, "best": self.best}
        found["start"] = self.start.choice if self.start else None
        return {name: choice for name, choice in found.items() if choice is not None}

    def outcome(self, name: str) -> dict[str, Any] | None:
        """One of the named settings: its validation in the search, and what it came to reported."""
        choice = self.named_choices().get(name)
        if choice is None:
            return None
        searched = [trial for trial in self.searched if self._tried(trial, choice)]
        validation = {goal.name: goal.of(searched[0]) for goal in self.goals} if searched else {}
        confirmed = next((row for row in self.confirmed if row["settings"] == choice), None)
        return {
            "settings": choice,
            "validation": validation,
            "metrics": confirmed["metrics"] if confirmed else {},
            "difference": confirmed["difference"] if confirmed else {},
        }

    def recovered(self) -> float | None:
        """Of what lies between the start and the grid's best, the part that the study has found.

        By the first goal on the validation part; None without a grid, or where it finds no more
        than the start.
        """
        goal, start = self.goals[0], self.start
        tops = [chosen(trials, (goal,)) for trials in (self.grid, self.study)]
        if start is None or any(top is None for top in tops):
            return None
        grid, study, begun = (goal.sign * (goal.of(t) or 0.0) for t in (*tops, start) if t)
        return (study - begun) / (grid - begun) if grid > begun else None

    def _tried(self, trial: Trial, choice: Choice) -> bool:
        """Whether a trial had the settings of a choice, which leaves some as they are."""
        wanted = {key: choice.get(key, setting(self.base, key)) for key in trial.choice}
        return trial.choice == wanted and set(choice) <= set(trial.choice)

    def best_settings(self) -> dict[str, Any]:
        """The best choice as a nested mapping, for a settings file."""
        tree: dict[str, Any] = {}
        for key, value in (self.best or {}).items():
            tree = merge(tree, nest(key, value))
        return tree


def write_findings(folder: Path, findings: Findings) -> None:
    """All trials as JSON, Parquet and CSV; the grid's table; the best settings as YAML."""
    lines = [{"search": name, **asdict(trial)} for name, trial in findings.all]
    (folder / TRIALS).write_text(json.dumps(lines, indent=1))
    columns = _columns(findings)
    pq.write_table(columns, folder / "trials.parquet")
    csv.write_csv(columns, folder / "trials.csv")
    found = {"table": findings.rows, "best": findings.outcome("best")}
    (folder / "table.json").write_text(json.dumps(found, indent=1))
    (folder / BEST).write_text(dumped(findings.best_settings()))


def _columns(findings: Findings) -> pa.Table:
    lines = [
        {name: json.dumps(value) for name, value in trial.choice.items()}
        | {"search": search, "seed": trial.seed, "state": trial.state, "error": trial.error}
        | {**trial.artifacts, **trial.metrics, **trial.costs}
        | {f"validation.{name}": value for name, value in trial.validation.items()}
        for search, trial in findings.all
    ]
    names = list(dict.fromkeys(name for line in lines for name in line))
    return pa.table({name: [line.get(name) for line in lines] for name in names})
