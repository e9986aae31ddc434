"""Grids of settings and what their trials say: combinations, intervals over seeds, the best."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from scipy import stats

from data.contract.settings import UserError

Choice = dict[str, Any]

# What trials share is prepared once: these may not differ between them.
SHARED = ("root", "seed", "source", "world", "prepare", "id", "export", "index", "serve", "tune")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSettings:
    """How a grid is summed up.

    Attributes:
        metrics: columns of the table; for a ranker these are looked for under each action.
        level: coverage of the interval over seeds.
    """

    metrics: tuple[str, ...] = (
        "recall@10",
        "ndcg@10",
        "hit_rate@10",
        "coverage@10",
        "auc",
        "log_loss",
    )
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One setting of a grid under one seed, and what came of it.

    Attributes:
        choice: dotted key -> value.
        seed: of sampling and initial weights.
        metrics: on the reported part, by name; empty when the trial failed.
        validation: on the part that choices are made on, likewise.
        artifacts: kind -> version of what the trial made.
        error: why it failed, else empty.
    """

    choice: Choice
    seed: int
    metrics: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    error: str = ""


def choices(grid: Mapping[str, Any]) -> list[Choice]:
    """Every combination of the grid's values, the last key varying fastest.

    Args:
        grid: nested mapping of settings whose leaves are lists of values.

    Raises:
        UserError: a leaf is not a list of distinct values, or a key must be the same in all trials.
    """
    axes = dict(_axes(grid, ""))
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _axes(grid: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, list[Any]]]:
    for name, value in grid.items():
        key = prefix + str(name)
        if key in SHARED:
            raise UserError(f"grid.{key}: trials share one prepared root; {_instead(key)}")
        if isinstance(value, Mapping):
            yield from _axes(value, key + ".")
        else:
            yield key, _values(key, value)


def _instead(key: str) -> str:
    return "set seeds=<count>" if key == "seed" else f"run another root for another {key}"


def _values(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UserError(f"grid.{key} needs a list of values, such as grid.{key}=[{value},...]")
    if len({str(item) for item in value}) < len(value):
        raise UserError(f"grid.{key} names a value twice: {value}")
    return value


def t_interval(values: Sequence[float], level: float) -> tuple[float, float | None]:
    """Mean and half the width of Student's interval for it; None for a single value."""
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return mean, None
    quantile = float(stats.t.ppf((1 + level) / 2, count - 1))
    return mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(count)


def table(trials: Sequence[Trial], level: float) -> list[dict[str, Any]]:
    """One row for each setting, in the order of the grid.

    Args:
        trials: of all settings and seeds.
        level: coverage of the intervals.

    Returns:
        settings, seeds (finished), failed; metrics, validation and difference: name -> {mean,
        half_width}, the last being paired by seed with the first setting's metrics.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(str(trial.choice), []).append(trial)
    first = next(iter(groups.values()), [])
    return [_row(group, first, level) for group in groups.values()]


def _row(group: Sequence[Trial], first: Sequence[Trial], level: float) -> dict[str, Any]:
    done = [trial for trial in group if not trial.error]
    return {
        "settings": group[0].choice,
        "seeds": len(done),
        "failed": len(group) - len(done),
        "metrics": _summary([trial.metrics for trial in done], level),
        "validation": _summary([trial.validation for trial in done], level),
        "difference": _summary(_differences(done, first), level),
    }


def _differences(group: Sequence[Trial], first: Sequence[Trial]) -> list[dict[str, float]]:
    """Metrics minus those of the first setting under the same seed."""
    base = {trial.seed: trial.metrics for trial in first}
    pairs = [(trial.metrics, base.get(trial.seed, {})) for trial in group]
    return [
        {name: own[name] - other[name] for name in own if _both(own, other, name)}
        for own, other in pairs
    ]


def _both(own: Mapping[str, float | None], other: Mapping[str, float | None], name: str) -> bool:
    return own.get(name) is not None and other.get(name) is not None


def _summary(results: Sequence[Mapping[str, float]], level: float) -> dict[str, Any]:
    """Over the trials for which a metric is defined."""
    names = dict.fromkeys(name for result in results for name in result)
    summary = {}
    for name in names:
        values = [result[name] for result in results if result.get(name) is not None]
        if values:
            mean, half_width = t_interval(values, level)
            summary[name] = {"mean": mean, "half_width": half_width}
    return summary


def best(rows: Sequence[Mapping[str, Any]], choose_on: str) -> Mapping[str, Any] | None:
    """The row with the best mean on the validation part; what is reported never chooses.

    Args:
        rows: of `table`.
        choose_on: validation metric, larger is better; where it is missing, `log_loss` decides,
            smaller is better.

    Returns:
        None when nothing was validated.
    """
    for name, sign in ((choose_on, 1), ("log_loss", -1)):
        judged = [row for row in rows if name in row["validation"]]
        if judged:
            return max(judged, key=lambda row: sign * row["validation"][name]["mean"])
    return None
