"""Trains and evaluates a grid of settings under several seeds, resumably, on shared data.

    python -m ray_jobs.tune root=runs/default model=two_tower search=grid seeds=3 \
        grid.two_tower.id_dropout=[0,0.5] grid.two_tower.sequence.max_length=[8,64]

Every trial is content-addressed, so one that has finished is found and not repeated. The settings
that are best are named by the validation part; the table shows the reported part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from rich.markup import escape

from data.contract.artifact import Artifact, has_current, point, publish, read, version_of
from data.contract.settings import Count, UserError, build, merge, nest, to_tree
from data.dataset import Dataset
from ray_jobs.engine import plots
from ray_jobs.engine.evaluation import Baseline, RankingBaseline
from ray_jobs.engine.grid import Choice, Trial, best, choices, table
from ray_jobs.engine.job import Job, console, run
from ray_jobs.engine.model_kinds import UPSTREAM, Model
from ray_jobs.engine.report import Section, Table, number, show, write_report
from ray_jobs.evaluate import evaluate
from ray_jobs.settings import Settings
from ray_jobs.train import train

if TYPE_CHECKING:
    from pathlib import Path

REPORT = "report.html"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneArguments:
    """Words of the job.

    Attributes:
        model: which model to train and evaluate.
        search: how settings are proposed: grid takes every combination.
        seeds: trials of each setting, with seeds counted up from `seed`.
        grid: lists of values, `grid.<setting>=[a,b]`.
    """

    model: Model = "two_tower"
    search: Literal["grid"] = "grid"
    seeds: Count = 1
    grid: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """One trial to be run: the settings it differs in, its seed, and all of its settings."""

    choice: Choice
    seed: int
    settings: Settings


def plans(job: Job) -> list[Plan]:
    """All trials, every setting under the first seed before any under the second.

    Raises:
        UserError: a key or a value of the grid is not a setting; nothing has been started then.
    """
    base, first = to_tree(job.settings), job.settings.seed
    return [
        Plan(choice, seed, _settings(base, choice, seed))
        for seed in range(first, first + job.arguments.seeds)
        for choice in choices(job.arguments.grid)
    ]


def _settings(base: Mapping[str, Any], choice: Choice, seed: int) -> Settings:
    tree = merge(base, {"seed": seed})
    for key, value in choice.items():
        tree = merge(tree, nest(key, value))
    return build(Settings, tree)


def tune(job: Job, todo: Sequence[Plan]) -> Artifact:
    """Runs the trials and sums them up: one table, as Parquet, CSV, JSON and HTML.

    Raises:
        UserError: every trial failed.
    """
    trials = [
        run_trial(job, plan, f"trial {n} of {len(todo)}") for n, plan in enumerate(todo, start=1)
    ]
    if all(trial.error for trial in trials):
        raise UserError(f"all {len(trials)} trials failed; the first: {trials[0].error}")
    return _publish(job, trials)


def run_trial(job: Job, plan: Plan, title: str) -> Trial:
    """Trains and evaluates; an error ends the trial, not the grid."""
    console.rule(escape(f"{title}: {_label(plan.choice)} seed {plan.seed}"), align="left")
    model: Model = job.arguments.model
    own = Job(plan.settings, job.arguments, job.root)
    try:
        trained = train(own, model, move_pointer=False, alone=model in UPSTREAM)
        judged = evaluate(own, (model,), {model: trained}, move_pointer=False)
    except Exception as error:
        console.print_exception(max_frames=5)
        return Trial(choice=plan.choice, seed=plan.seed, error=f"{type(error).__name__}: {error}")
    return Trial(
        choice=plan.choice,
        seed=plan.seed,
        metrics=flatten(judged.manifest.metrics),
        validation=trained.manifest.metrics["validation"],
        artifacts={model: trained.version, "evaluation": judged.version},
    )


def flatten(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of an evaluation by dotted name; those of the model itself carry no prefix."""
    found = dict(_leaves(metrics.get("retrieval", {}), ""))
    return found | dict(_leaves(metrics.get("ranking", {}), ""))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _publish(job: Job, trials: Sequence[Trial]) -> Artifact:
    """Writes the result anew each time, since trials that had failed may have passed now."""
    tree = to_tree(job.settings)
    base = {name: tree[name] for name in ("split", "windows", "train", "eval", job.arguments.model)}
    settings = {"base": base, "trials": [[trial.choice, trial.seed] for trial in trials]}
    parents = [Dataset.open(job.root).artifact.reference()]
    version = version_of(parents, settings)
    rows = table(trials, job.settings.tune.level)
    chosen = best(rows, job.settings.train.choose_on)
    fields = {"parents": parents, "settings": settings, "metrics": {"table": rows, "best": chosen}}
    with publish(job.root, "tune", version, **fields) as draft:
        _write_trials(draft.path, trials)
        (draft.path / "table.json").write_text(
            json.dumps({"table": rows, "best": chosen}, indent=1)
        )
        _write_report(draft.path, job, rows, chosen)
    artifact = read(job.root / "tune" / version)
    point(job.root, artifact)
    return artifact


def _write_trials(folder: Path, trials: Sequence[Trial]) -> None:
    lines = [
        {name: json.dumps(value) for name, value in trial.choice.items()}
        | {"seed": trial.seed, "error": trial.error, **trial.artifacts, **trial.metrics}
        | {f"validation.{name}": value for name, value in trial.validation.items()}
        for trial in trials
    ]
    names = list(dict.fromkeys(name for line in lines for name in line))
    columns = pa.table({name: [line.get(name) for line in lines] for name in names})
    pq.write_table(columns, folder / "trials.parquet")
    csv.write_csv(columns, folder / "trials.csv")


def _write_report(folder: Path, job: Job, rows: Sequence[Row], chosen: Row | None) -> None:
    section = _section(job, rows, chosen)
    facts = {"model": job.arguments.model, "seeds": str(job.arguments.seeds)}
    write_report(folder / REPORT, "Grid of settings", facts, [section])
    show([section])


def _section(job: Job, rows: Sequence[Row], chosen: Row | None) -> Section:
    shown = _shown(rows, job.settings.tune.metrics)
    note = f"Mean and {job.settings.tune.level:.0%} t-interval over seeds, on the reported part."
    if chosen:
        note += f" Best on the validation part: {_label(chosen['settings'])}."
    labels = [_label(row["settings"]) for row in rows]
    return Section(
        title="Settings",
        note=note,
        tables=[
            _table("Settings", rows, shown, "metrics"),
            _table("Difference to the first, paired by seed", rows[1:], shown, "difference"),
        ],
        plots=[partial(plots.intervals, labels, rows, name) for name in shown],
    )


def _table(title: str, rows: Sequence[Row], shown: Sequence[str], part: str) -> Table:
    lines = [
        [_label(row["settings"]), f"{row['seeds']}/{row['seeds'] + row['failed']}"]
        + [_with_interval(row[part].get(name)) for name in shown]
        for row in rows
    ]
    return Table(title=title, columns=["settings", "seeds", *shown], rows=lines)


def _shown(rows: Sequence[Row], wanted: Sequence[str]) -> list[str]:
    """Metrics of the model, also of each of its actions, whose name is asked for."""
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    others = {*get_args(Baseline), *get_args(RankingBaseline), "last_item", "oracle_log"}
    own = [name for name in names if not set(name.split(".")[:-1]) & others]
    return [name for name in own if name.split(".")[-1] in wanted]


def _with_interval(value: Row | None) -> str:
    if value is None:
        return number(None)
    half_width = value["half_width"]
    return number(value["mean"]) + ("" if half_width is None else f" ± {half_width:.4f}")


def _label(choice: Choice) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in choice.items()) or "defaults"


def main(job: Job) -> dict[str, Any]:
    """Trains and evaluates every combination of `grid.*` under `seeds` seeds."""
    todo = plans(job)
    if not has_current(job.root, "dataset"):
        raise UserError(f"{job.root} has no dataset yet; run the job prepare first")
    with job.stage("tune"):
        artifact = tune(job, todo)
    rows = artifact.manifest.metrics["table"]
    chosen = artifact.manifest.metrics["best"]
    wanted = _shown(rows, job.settings.tune.metrics)
    return {
        "model": job.arguments.model,
        "trials": sum(row["seeds"] + row["failed"] for row in rows),
        "failed": sum(row["failed"] for row in rows),
        "best": chosen and chosen["settings"],
        "table": [_only(row, wanted) for row in rows],
        "report": str(artifact.path / REPORT),
    }


def _only(row: Row, wanted: Sequence[str]) -> dict[str, Any]:
    """A row of the table for the summary: the shown metrics alone."""
    parts = {
        part: {name: row[part][name] for name in wanted if name in row[part]}
        for part in ("metrics", "difference")
    }
    return {**row, **parts}


if __name__ == "__main__":
    run("tune", main, TuneArguments)
