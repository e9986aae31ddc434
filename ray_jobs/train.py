"""Trains one model: `python -m ray_jobs.train model=two_tower root=runs/default`.

With `train.num_workers=0` in this process, else on that many Ray Train workers. The same loop runs
either way. Interrupted runs go on from their last checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from data.contract.schema import TREND_DAYS
from data.contract.settings import to_tree
from data.dataset import Dataset
from ray_jobs.engine.assignment import Assignment
from ray_jobs.engine.cluster import connect
from ray_jobs.engine.group import run_workers
from ray_jobs.engine.job import Job, run
from ray_jobs.engine.progress import following
from ray_jobs.engine.worker import CURVE, OUTCOME, PLAN, alone, best_file, work
from ray_jobs.tasks.candidates import candidates
from ray_jobs.tasks.ranker import RankerTask
from ray_jobs.tasks.two_tower import TwoTowerTask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from data.contract.artifact import Artifact, Draft
    from ray_jobs.engine.loop import Task

Model = Literal["two_tower", "ranker"]
MODELS: tuple[Model, ...] = ("two_tower", "ranker")
TASKS: dict[str, Callable[[Assignment], Task]] = {"two_tower": TwoTowerTask, "ranker": RankerTask}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainArguments:
    """Words of the job.

    Attributes:
        model: which model to train.
    """

    model: Model = "two_tower"


def train(
    job: Job, model: Model, move_pointer: bool = True, start_from: Artifact | None = None
) -> Artifact:
    """Trains a model on the current data set, or finds it trained already.

    Args:
        job: settings and root.
        model: which one.
        move_pointer: whether it becomes the current one of its kind.
        start_from: the same model as of an earlier day, whose weights are taken over.

    Returns:
        The artefact: `model.safetensors`, settings, training curve.
    """
    dataset = Dataset.open(job.root)
    parents = [dataset.artifact]
    # Impressions are told apart by day: no other split says which of them may be learnt from.
    logged = dataset.counts["impressions"] and job.settings.split.kind == "time"
    if model == "ranker" and not logged:
        parents.append(candidates(job))
    tree = training_settings(job, model) | {
        "start_from": start_from.version if start_from else None
    }

    def write(draft: Draft) -> None:
        _fit(job, model, draft, parents, start_from)

    return job.make(model, parents, tree, write, move_pointer)


def training_settings(job: Job, model: str) -> dict[str, Any]:
    """Everything among the settings that decides what is learnt."""
    tree = to_tree(job.settings)
    loop = {
        k: v
        for k, v in tree["train"].items()
        if k not in ("checkpoint_every", "log_every", "max_failures")
    }
    names = ("seed", "split", "windows", "id", model)
    return {name: tree[name] for name in names} | {"train": loop, "trend_days": [*TREND_DAYS]}


def _fit(
    job: Job, model: str, draft: Draft, parents: list[Artifact], start_from: Artifact | None
) -> None:
    folder = job.root / "checkpoints" / f"{model}-{draft.path.name}"
    candidates = [p.version for p in parents if p.kind == "candidates"]
    choose = Assignment(
        root=job.root.absolute(),
        model=model,
        settings=job.settings,
        dataset_version=parents[0].version,
        candidates_version=candidates[0] if candidates else None,
        folder=(folder / "choose").absolute(),
        phase="choose",
        max_steps=job.settings.train.refresh_steps if start_from else 0,
        start_from=start_from.version if start_from else None,
    )
    outcomes = {"choose": _phase(choose)}
    last = choose
    if job.settings.split.refit and job.settings.split.kind != "time":
        steps = outcomes["choose"]["best_step"]
        last = dataclasses.replace(
            choose, folder=(folder / "refit").absolute(), phase="refit", max_steps=steps
        )
        outcomes["refit"] = _phase(last)
    best = best_file(last.folder, outcomes[last.phase]["best_step"])
    shutil.copy(best, draft.path / "model.safetensors")
    _describe(draft, last, outcomes, parents)
    shutil.rmtree(folder, ignore_errors=True)


def _phase(assignment: Assignment) -> dict[str, Any]:
    """Runs one phase unless an interrupted run has already finished it."""
    outcome = assignment.folder / OUTCOME
    if not outcome.is_file():
        assignment.folder.mkdir(parents=True, exist_ok=True)
        title = f"{assignment.model} ({assignment.phase})"
        with following(assignment.folder / CURVE, assignment.folder / PLAN, title):
            launch(assignment)
    found: dict[str, Any] = json.loads(outcome.read_text())
    return found


def launch(assignment: Assignment) -> None:
    """Trains in this process or on Ray Train workers, as the settings say."""
    workers = assignment.settings.train.num_workers
    task = TASKS[assignment.model]
    connect(num_cpus=workers + 2)
    if workers == 0:
        alone(lambda: work(assignment, task))
    else:
        run_workers(assignment, task)


def _describe(
    draft: Draft, last: Assignment, outcomes: Mapping[str, Any], parents: list[Artifact]
) -> None:
    choose = outcomes["choose"]
    best = [v for v in choose["validations"] if v["step"] == choose["best_step"]]
    windows = last.windows
    draft.fields |= {
        "window": list(getattr(windows, last.model)) if windows else None,
        "id_space": parents[0].manifest.id_space,
        "dtype": "float32",
        "metrics": {"validation": best[0] if best else {}},
        "details": {"phases": outcomes, "made_from": "candidates" if len(parents) > 1 else "log"},
    }


def main(job: Job) -> dict[str, Any]:
    """Trains one model on the prepared data set and makes it current."""
    model: Model = job.arguments.model
    with job.stage(f"train {model}"):
        artifact = train(job, model)
    phases = artifact.manifest.details["phases"]
    return {
        "model": model,
        "version": artifact.version,
        "validation": artifact.manifest.metrics["validation"],
        "steps": {name: phase["steps"] for name, phase in phases.items()},
        "rows": {name: phase["rows"] for name, phase in phases.items()},
    }


if __name__ == "__main__":
    run("train", main, TrainArguments)
