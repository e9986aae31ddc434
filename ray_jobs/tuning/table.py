"""What trials say: a row for each setting with intervals over seeds, and the best of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ray_jobs.tuning.trial import Trial


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
        half_width}, the last being paired by seed with the first setting's metrics; intervals:
        name -> 95% over users, under the first seed that finished.
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
        "intervals": done[0].intervals if done else {},
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
