"""Plots of a study: its history, where its trials lie, what matters, and the front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ray_jobs.engine.plots import legend, svg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from ray_jobs.tuning.goals import Goal
    from ray_jobs.tuning.trial import Trial

TRIED, BEST, TAKEN = "#9ca3af", "#2563eb", "#d97706"


def history(trials: Sequence[Trial], goal: Goal) -> str:
    """A goal by trial, and the best until then."""

    def draw(axes: Axes) -> None:
        points = [(n, goal.of(trial)) for n, trial in enumerate(trials)]
        found = [(n, value) for n, value in points if value is not None]
        numbers, values = [n for n, _ in found], [value for _, value in found]
        best = goal.sign * np.maximum.accumulate(goal.sign * np.array(values))
        axes.plot(numbers, values, "o", color=TRIED, label="trial")
        axes.step(numbers, best, where="post", color=BEST, label="best so far")
        axes.set(xlabel="trial", ylabel=goal.name)
        legend(axes)

    return svg(draw, (6, 3.2))


def positions(values: Sequence[Any]) -> tuple[np.ndarray, list[Any] | None]:
    """Where values stand on an axis: numbers by size, others by rank; and their names, if ranks."""
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        return np.array(values, float), None
    names = list(dict.fromkeys(map(str, values)))
    return np.array([names.index(str(value)) for value in values], float), names


def parallel(trials: Sequence[Trial], keys: Sequence[str], goal: Goal) -> str:
    """A line a trial through its settings and what came of it, the better the darker."""
    shown = [t for t in trials if goal.of(t) is not None and all(key in t.choice for key in keys)]

    def draw(axes: Axes) -> None:
        columns = [[trial.choice[key] for trial in shown] for key in keys]
        columns.append([goal.of(trial) for trial in shown])
        scaled = [_scaled(positions(column)[0]) for column in columns]
        worth = scaled[-1] if goal.sign > 0 else 1 - scaled[-1]
        for place in np.argsort(worth):
            line = [column[place] for column in scaled]
            axes.plot(range(len(line)), line, color=BEST, alpha=0.1 + 0.9 * worth[place])
        for at, column in enumerate(columns):
            _mark_ends(axes, at, column)
        axes.set_xticks(range(len(columns)), [*map(_last, keys), goal.name])
        axes.set_yticks([])
        axes.set_ylim(-0.12, 1.12)

    return svg(draw, (8, 3.4))


def _scaled(places: np.ndarray) -> np.ndarray:
    spread = np.ptp(places) if len(places) else 0.0
    return (places - places.min()) / spread if spread > 0 else np.full(len(places), 0.5)


def _mark_ends(axes: Axes, at: int, column: Sequence[Any]) -> None:
    if not column:
        return
    places, _ = positions(column)
    for place, height in ((int(places.argmin()), -0.09), (int(places.argmax()), 1.05)):
        value = column[place]
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        axes.text(at, height, text, ha="center", fontsize=8)


def _last(key: str) -> str:
    """A setting's name without its group's."""
    return key.split(".", 1)[-1]


def importance(shares: Mapping[str, float]) -> str:
    """How much of the spread of the first goal each setting explains."""

    def draw(axes: Axes) -> None:
        names = list(shares)
        axes.barh(range(len(names)), [shares[name] for name in names], color=BEST)
        axes.set_yticks(range(len(names)), [_last(name) for name in names])
        axes.set(xlabel="importance", ylim=(len(names) - 0.5, -0.5))

    return svg(draw, (6, 1 + 0.4 * len(shares)))


def slice_of(trials: Sequence[Trial], key: str, goal: Goal) -> str:
    """A goal over one setting."""
    shown = [trial for trial in trials if key in trial.choice and goal.of(trial) is not None]

    def draw(axes: Axes) -> None:
        places, names = positions([trial.choice[key] for trial in shown])
        colors = range(len(shown))
        values = [goal.of(trial) or 0.0 for trial in shown]
        axes.scatter(places, values, c=colors, cmap="Blues", edgecolor=TRIED)
        if names:
            axes.set_xticks(range(len(names)), names)
        axes.set(xlabel=_last(key), ylabel=goal.name)

    return svg(draw, (4.5, 3.2))


def front(
    trials: Sequence[Trial], best: Sequence[Trial], taken: Trial, goals: Sequence[Goal]
) -> str:
    """Two goals against each other: what was tried, the front, the point that is taken."""
    first, second = goals[:2]

    def draw(axes: Axes) -> None:
        measured = [trial for trial in trials if first.of(trial) is not None]
        axes.plot(*_pairs(measured, first, second), ".", color=TRIED, label="tried")
        line = sorted(best, key=lambda trial: second.of(trial) or 0)
        axes.plot(*_pairs(line, first, second), "o-", color=BEST, markersize=4, label="front")
        axes.plot(*_pairs([taken], first, second), "*", color=TAKEN, markersize=12, label="taken")
        axes.set(xlabel=second.name, ylabel=first.name)
        legend(axes)

    return svg(draw, (6, 3.6))


def _pairs(trials: Sequence[Trial], first: Goal, second: Goal) -> tuple[list[Any], list[Any]]:
    return [second.of(trial) for trial in trials], [first.of(trial) for trial in trials]
