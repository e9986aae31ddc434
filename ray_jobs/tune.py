"""Searches settings of a model: grids under several seeds, and studies by Optuna, on Ray Tune.

    python -m ray_jobs.tune root=runs/default model=two_tower search=grid seeds=3 \
        grid.two_tower.id_dropout=[0,0.5] grid.two_tower.sequence.max_length=[8,64]
    python -m ray_jobs.tune root=runs/default model=two_tower search=tpe trials=20 confirm=3 \
        space.two_tower.id_dropout=[0,0.7] "space.two_tower.hidden=choice(128,256,512)"

Every trial is content-addressed, so one that has finished is found and not repeated. Settings are
chosen by the validation part; the reported part is only shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import ray
from pydantic import BeforeValidator

from data.contract import storage
from data.contract.artifact import Artifact, has_current, point, publish, read, version_of
from data.contract.settings import Count, NonNegative, UserError, to_tree
from data.dataset import Dataset
from ray_jobs.engine.cluster import connect, is_private, num_cores
from ray_jobs.engine.devices import usable_gpus
from ray_jobs.engine.job import Job, run
from ray_jobs.engine.model_kinds import UPSTREAM, Model
from ray_jobs.engine.report import show, write_report
from ray_jobs.train import sources_of
from ray_jobs.tuning.capacity import Need, Room, concurrency, on_devices_of_a_kind
from ray_jobs.tuning.findings import BEST, Findings, write_findings
from ray_jobs.tuning.mirror import Mirror
from ray_jobs.tuning.searches import Searches
from ray_jobs.tuning.study import Method
from ray_jobs.tuning.study_report import sections, shown
from ray_jobs.tuning.sweep import Seen, Sweep, run_here, run_on_ray
from ray_jobs.tuning.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REPORT = "report.html"


def _listed(value: Any) -> Any:
    """Lets one word stand for a list of one."""
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneArguments:
    """Words of the job.

    Attributes:
        model: which model to tune.
        search: how settings are proposed: grid takes every combination of grid.*; tpe, nsga2 and
            random propose trials in space.*; [grid,tpe] does one after the other.
        seeds: trials of each setting of a grid, with seeds counted up from `seed`.
        grid: lists of values, grid.<setting>=[a,b]; by default dropout and history length.
        space: what a study searches, space.<setting>= [low,high], log(low,high),
            step(low,high,step) or choice(a,b), each with " if <setting>=<value>" behind it where it
            matters only then; by default dropout and history length.
        trials: how many a study proposes.
        points: settings that a study begins with, [{<setting>: <value>}]; by default the job's own,
            where they lie in the space.
        objectives: what a study searches for, metrics of the validation part, latency_ms or
            megabytes; by default the metric that steps are chosen on.
        warm_start: results of earlier sweeps that a study knows from the start: their folders or
            URIs, or versions in this root.
        concurrency: trials at once; by default as many as the cluster has room for; 0 runs them in
            this process.
        confirm: seeds under which best, start and default are trained again at the end.
    """

    model: Model = "two_tower"
    search: Annotated[tuple[Method, ...], BeforeValidator(_listed)] = ("grid",)
    seeds: Count = 1
    grid: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)
    trials: Count = 20
    points: tuple[dict[str, Any], ...] = ()
    objectives: Names = ()
    warm_start: Names = ()
    concurrency: NonNegative | None = None
    confirm: NonNegative = 0


def tune(job: Job, searches: Searches, need: Need, at_once: int) -> Artifact:
    """Runs the trials and sums them up: tables, the best settings as YAML, an HTML report.

    Args:
        job: as it was placed, and the searches after it.
        searches: what is run.
        need: of a trial.
        at_once: trials on Ray at a time; 0 runs them in this process.

    Raises:
        UserError: every trial failed, or MLflow cannot be used.
    """
    mirrors = _mirrors(job)
    model: Model = job.arguments.model
    sources_of(job, Dataset.open(job.root), model, alone=model in UPSTREAM)
    with searches.turn() as confirm:
        with Tally(job, searches) as tally:
            sweep = Sweep(job, searches.stages(max(1, at_once)), [tally.seen, *mirrors])
            if at_once:
                run_on_ray(sweep, need, at_once)
            else:
                run_here(sweep)
        findings = searches.findings()
        _refuse_nothing(findings)
        confirm()
        return _publish(job, searches, findings)


def _placed(job: Job) -> tuple[Job, Need, int]:
    """The job as its trials compute, what one takes, and how many run at once; 0: in this process.

    Raises UserError when not one has room.
    """
    asked = job.arguments.concurrency
    if asked == 0:
        return job, Need.of(job.settings, 0), 0
    connect()
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    room = Room(resources.get("CPU", 0.0), usable_gpus(), num_cores() if is_private() else None)
    job = replace(job, settings=on_devices_of_a_kind(job.settings, room.gpus))
    need = Need.of(job.settings, room.gpus)
    return job, need, concurrency(need, room, asked)


def _mirrors(job: Job) -> list[Seen]:
    """Where trials are shown beside the terminal. Raises UserError where they cannot be."""
    uri = job.settings.tune.mlflow_uri
    if uri == "local" and storage.is_mirrored(job.root):
        raise UserError(
            "tune.mlflow_uri=local keeps a database on this machine's disk, and "
            f"{storage.uri_of(job.root)} does not lie there; name a tracking server, "
            "tune.mlflow_uri=http://host:5000, or a database here, sqlite:////path/mlflow.db"
        )
    if uri == "local":
        uri = f"sqlite:///{job.root.absolute() / 'mlflow.db'}"
    return [Mirror(uri, f"homefeed {job.arguments.model}").seen] if uri else []


def _refuse_nothing(findings: Findings) -> None:
    trials = [trial for _, trial in findings.all]
    if all(trial.state == "failed" for trial in trials):
        raise UserError(f"all {len(trials)} trials failed; the first: {trials[0].error}")


def _publish(job: Job, searches: Searches, findings: Findings) -> Artifact:
    """Writes the result anew each time, since trials that had failed may have passed now."""
    tree = to_tree(job.settings)
    base = {name: tree[name] for name in ("split", "windows", "train", "eval", job.arguments.model)}
    trials = [[name, trial.choice, trial.seed] for name, trial in findings.all]
    settings = {"base": base, "arguments": to_tree(job.arguments), "trials": trials}
    parents = [Dataset.open(job.root).artifact.reference()]
    version = version_of(parents, settings)
    found = sections(findings, searches.study, job.settings.tune.metrics)
    metrics = {"table": findings.rows, "best": findings.outcome("best")}
    fields = {"parents": parents, "settings": settings, "metrics": metrics}
    with publish(job.root, "tune", version, **fields) as draft:
        write_findings(draft.path, findings)
        if searches.study:
            searches.study.copy_to(draft.path)
        facts = {"model": job.arguments.model, "search": ", ".join(job.arguments.search)}
        write_report(draft.path / REPORT, "Sweep", facts, found)
    show(found)
    artifact = read(job.root / "tune" / version)
    point(job.root, artifact)
    return artifact


def main(job: Job) -> dict[str, Any]:
    """Searches settings of a model, on shared data, resumably."""
    Searches.of(job)  # wrong words are refused before Ray starts
    if not has_current(job.root, "dataset"):
        root = storage.uri_of(job.root)
        raise UserError(f"{root} has no dataset yet; run the job prepare first")
    with job.stage("tune"):
        placed, need, at_once = _placed(job)
        searches = Searches.of(placed)
        artifact = tune(placed, searches, need, at_once)
    findings = searches.findings()
    return _summary(job, findings) | {
        "report": storage.uri_of(artifact.path / REPORT),
        "best_settings": storage.uri_of(artifact.path / BEST),
    }


def _summary(job: Job, findings: Findings) -> dict[str, Any]:
    wanted = job.settings.tune.metrics
    states = [trial.state for _, trial in findings.all]
    named = {name: findings.outcome(name) for name in ("best", "default", "start")}
    return {
        "model": job.arguments.model,
        "trials": len(states),
        "failed": states.count("failed"),
        "pruned": states.count("pruned"),
        **{name: outcome and _only(outcome, wanted) for name, outcome in named.items()},
        "recovered": findings.recovered(),
        "table": [_only(row, wanted) for row in findings.rows],
    }


def _only(row: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    """A row for the summary: of what was reported the wanted metrics alone."""
    names = shown([row], wanted)
    parts = {
        part: {name: row[part][name] for name in names if name in row[part]}
        for part in ("metrics", "difference", "intervals")
        if part in row
    }
    return {**row, **parts}


if __name__ == "__main__":
    run("tune", main, TuneArguments)
