"""The report of a sweep: a grid's table, a study's plots, the best beside the default."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import optuna

from ray_jobs.engine import plots
from ray_jobs.engine.evaluation import Baseline, RankingBaseline
from ray_jobs.engine.report import Section, Table, number
from ray_jobs.tuning import study_plots
from ray_jobs.tuning.goals import chosen, front
from ray_jobs.tuning.trial import label

if TYPE_CHECKING:
    from ray_jobs.tuning.findings import Findings
    from ray_jobs.tuning.study import Study
    from ray_jobs.tuning.trial import Trial

Row = Mapping[str, Any]
LEAST_FOR_IMPORTANCE = 4


def sections(findings: Findings, study: Study | None, wanted: Sequence[str]) -> list[Section]:
    """All that a sweep has to show.

    Args:
        findings: of its searches.
        study: Optuna's side, if there was a study.
        wanted: metrics of the reported part to show.
    """
    found = []
    if findings.grid:
        found.append(grid_section(findings, wanted))
    if findings.study:
        found.append(study_section(findings, study))
    if findings.confirmation:
        found.append(confirmation_section(findings, wanted))
    return found


def grid_section(findings: Findings, wanted: Sequence[str]) -> Section:
    """Settings of the grid, reported metrics with intervals, differences to the first."""
    rows = findings.rows
    names = shown(rows, wanted)
    note = (
        f"On the reported part: mean and {findings.base.tune.level:.0%} t-interval over seeds; of "
        "one seed the 95% bootstrap interval over users."
    )
    if not findings.study and findings.best is not None:
        note += f" Best on the validation part: {label(findings.best)}."
    labels = [label(row["settings"]) for row in rows]
    return Section(
        title="Grid",
        note=note,
        tables=[
            _table("Settings", rows, names, "metrics"),
            _table("Difference to the first, paired by seed", rows[1:], names, "difference"),
        ],
        plots=[partial(plots.intervals, labels, rows, name) for name in names],
    )


def _table(title: str, rows: Sequence[Row], names: Sequence[str], part: str) -> Table:
    lines = [
        [label(row["settings"]), f"{row['seeds']}/{row['seeds'] + row['failed']}"]
        + [_with_interval(row, part, name) for name in names]
        for row in rows
    ]
    return Table(title=title, columns=["settings", "seeds", *names], rows=lines)


def _with_interval(row: Row, part: str, name: str) -> str:
    value = row[part].get(name)
    if value is None:
        return number(None)
    if value["half_width"] is not None:
        return f"{number(value['mean'])} ± {value['half_width']:.4f}"
    ends = row.get("intervals", {}).get(name) if part == "metrics" else None
    return number(value["mean"]) + (f" ({ends[0]:.4f}, {ends[1]:.4f})" if ends else "")


def shown(rows: Sequence[Row], wanted: Sequence[str]) -> list[str]:
    """Metrics of the model, also of each of its actions, whose name is asked for."""
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    others = {*get_args(Baseline), *get_args(RankingBaseline), "last_item", "oracle_log"}
    own = [name for name in names if not set(name.split(".")[:-1]) & others]
    return [name for name in own if name.split(".")[-1] in wanted]


def study_section(findings: Findings, study: Study | None) -> Section:
    """The study's trials in their order, and its plots."""
    trials, goals = findings.study, findings.goals
    best = chosen(trials, goals)
    states = [trial.state for trial in trials]
    note = (
        f"{len(trials)} trials, {states.count('pruned')} cut short, {states.count('failed')} "
        "failed; by the validation part."
    )
    if best:
        note += f" Taken: {label(best.choice)}."
    return Section(
        title="Study",
        note=note,
        tables=[_trials(trials, findings)],
        plots=_plots(trials, findings, study) if best else [],
    )


def _trials(trials: Sequence[Trial], findings: Findings) -> Table:
    taken = front(trials, findings.goals)
    rows = [
        [
            str(place),
            label(trial.choice),
            *(number(goal.of(trial)) for goal in findings.goals),
            trial.error or ("best" if trial in taken else trial.state),
        ]
        for place, trial in enumerate(trials)
    ]
    names = [goal.name for goal in findings.goals]
    return Table(title="Study", columns=["trial", "settings", *names, "state"], rows=rows)


def _plots(trials: Sequence[Trial], findings: Findings, study: Study | None) -> list[Any]:
    goals = findings.goals
    keys = list(dict.fromkeys(key for trial in trials for key in trial.choice))
    common = [key for key in keys if all(key in trial.choice for trial in trials)]
    found = [partial(study_plots.history, trials, goals[0])]
    if common:
        found.append(partial(study_plots.parallel, trials, common, goals[0]))
    if shares := importances(study):
        found.append(partial(study_plots.importance, shares))
    found += [partial(study_plots.slice_of, trials, key, goals[0]) for key in keys]
    taken = chosen(trials, goals)
    if len(goals) > 1 and taken:
        found.append(partial(study_plots.front, trials, front(trials, goals), taken, goals))
    return found


def importances(study: Study | None) -> dict[str, float]:
    """Share of the first goal's spread that each setting explains (fANOVA); empty if unknown."""
    if study is None:
        return {}
    states = (optuna.trial.TrialState.COMPLETE,)
    if len(study.optuna.get_trials(deepcopy=False, states=states)) < LEAST_FOR_IMPORTANCE:
        return {}
    try:
        found = optuna.importance.get_param_importances(
            study.optuna,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=study.spec.seed),
            target=lambda trial: trial.values[0],
        )
    except (RuntimeError, ValueError):  # all trials alike: there is no spread to explain
        return {}
    return {key: share for key, share in found.items() if math.isfinite(share)}


def confirmation_section(findings: Findings, wanted: Sequence[str]) -> Section:
    """Default, start and best under fresh seeds, on the reported part."""
    rows = findings.confirmed
    names = shown(rows, wanted)
    who: dict[str, list[str]] = {}
    for name, choice in findings.named_choices().items():
        who.setdefault(label(choice), []).append(name)
    titled = [dict(row) | {"named": ", ".join(who.get(label(row["settings"]), []))} for row in rows]
    note = (
        "Trained again under seeds that no choice was made on: mean and "
        f"{findings.base.tune.level:.0%} t-interval; differences to the default, paired by seed."
    )
    return Section(
        title="Best beside the default",
        note=note,
        tables=[
            _named(titled, names, "metrics", "Confirmation"),
            _named(titled[1:], names, "difference", "Difference to the default"),
        ],
    )


def _named(rows: Sequence[Row], names: Sequence[str], part: str, title: str) -> Table:
    lines = [
        [row["named"], label(row["settings"]), *(_with_interval(row, part, n) for n in names)]
        for row in rows
    ]
    return Table(title=title, columns=["", "settings", *names], rows=lines)
