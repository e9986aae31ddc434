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

from data.contract.artifact import Artifact, current, has_current, read
from data.contract.schema import TREND_DAYS
from data.contract.settings import UserError, to_tree
from data.dataset import Dataset
from data.graph.neighborhoods import SamplerSource
from data.windows import refuse_overlap
from ray_jobs.embed import embed, user_days
from ray_jobs.engine.assignment import UPSTREAM, Assignment
from ray_jobs.engine.cluster import connect
from ray_jobs.engine.graph_groups import objectives_of, resolved_graph, users_of
from ray_jobs.engine.group import run_workers
from ray_jobs.engine.job import Job, run
from ray_jobs.engine.progress import following
from ray_jobs.engine.worker import CURVE, OUTCOME, PLAN, alone, best_file, work
from ray_jobs.sample import Cutoff, log_of, sampled
from ray_jobs.tasks.candidates import candidates
from ray_jobs.tasks.light_gcn import graph_task
from ray_jobs.tasks.ranker import RankerTask
from ray_jobs.tasks.two_tower import TwoTowerTask
from ray_jobs.tasks.user import UserTask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from data.contract.artifact import Draft
    from ray_jobs.engine.loop import Task
    from ray_jobs.settings import Settings

Model = Literal["graph", "user", "two_tower", "ranker"]
MODELS: tuple[Model, ...] = ("graph", "user", "two_tower", "ranker")
BUILT: tuple[Model, ...] = ("two_tower", "ranker")  # what a bundle is made of
TASKS: dict[str, Callable[[Assignment], Task]] = {
    "graph": graph_task,
    "user": UserTask,
    "two_tower": TwoTowerTask,
    "ranker": RankerTask,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainArguments:
    """Words of the job.

    Attributes:
        model: which model to train.
    """

    model: Model = "two_tower"


@dataclass(frozen=True, slots=True)
class Sources:
    """What a model is trained on beside the settings.

    Attributes:
        dataset: the log.
        candidates: impressions made from the retriever's candidates, if the log has none.
        vectors: item embeddings among the items' columns, if any.
        user_vectors: embeddings of users by day, if they are read.
        sampler: neighbourhoods for the graph encoder.
        graphs: the artefacts that they come from.
    """

    dataset: Artifact
    candidates: Artifact | None = None
    vectors: Artifact | None = None
    user_vectors: Artifact | None = None
    sampler: SamplerSource | None = None
    graphs: tuple[Artifact, ...] = ()

    @property
    def artifacts(self) -> list[Artifact]:
        """The model's parents."""
        others = (self.candidates, self.vectors, self.user_vectors)
        return [self.dataset, *(found for found in others if found), *self.graphs]


def train(
    job: Job,
    model: Model,
    move_pointer: bool = True,
    start_from: Artifact | None = None,
    alone: bool = False,
) -> Artifact:
    """Trains a model on the current data set, or finds it trained already.

    Args:
        job: settings and root.
        model: which one.
        move_pointer: whether it becomes the current one of its kind.
        start_from: the same model as of an earlier day, whose weights are taken over.
        alone: whether nothing will be built on it: it may then learn from later days.

    Returns:
        The artefact: `model.safetensors`, settings, training curve.
    """
    sources = sources_of(job, model, alone)
    tree = _tree(job, model, start_from, alone)

    def write(draft: Draft) -> None:
        _Training(job, model, sources, start_from, alone).fit(draft)

    return job.make(model, sources.artifacts, tree, write, move_pointer)


def sources_of(job: Job, model: Model, alone: bool) -> Sources:
    """Finds, or makes, what a model is trained on."""
    dataset = Dataset.open(job.root)
    if model == "graph":
        found = sampled(job, dataset, Cutoff.of_training(log_of(job, dataset).windows, alone))
        return Sources(dataset.artifact, sampler=found.source, graphs=found.artifacts)
    vectors = item_vectors(job, dataset) if reads_graph(job.settings, model) else None
    of_users = user_vectors(job, dataset) if reads_users(job.settings, model) else None
    # Impressions are told apart by day: no other split says which of them may be learnt from.
    logged = dataset.counts["impressions"] and job.settings.split.kind == "time"
    made = candidates(job) if model == "ranker" and not logged else None
    return Sources(dataset.artifact, made, vectors, of_users)


def item_vectors(job: Job, dataset: Dataset) -> Artifact:
    """Graph embeddings for the models after the graph, as of the end of the graph's window.

    Raises:
        UserError: models of the bundle learn from days that the graph has learnt from.
    """
    windows = log_of(job, dataset).windows
    if windows is not None:
        refuse_overlap(job.settings.windows, windows, "graph")
    cutoff = Cutoff.of_training(windows, alone=False)
    return embed(job, dataset, upstream(job, "graph"), cutoff)


def user_vectors(job: Job, dataset: Dataset) -> Artifact:
    """Embeddings of users by day for the models after the user model.

    Raises:
        UserError: models of the bundle learn from days that the user model has learnt from, or the
            split has no days.
    """
    windows = log_of(job, dataset).windows
    if windows is None:
        raise UserError("two_tower.user_vectors needs days to tell windows apart: split.kind=time")
    refuse_overlap(job.settings.windows, windows, "user")
    return user_days(job, dataset, upstream(job, "user"))


def reads_graph(settings: Settings, model: Model) -> bool:
    """Whether a model's items have a column of graph embeddings.

    For those of the bundle as set, else where days tell windows apart: without days, the encoder
    and they would learn from the same labels.
    """
    if model not in BUILT:
        return model == "user" and settings.user.graph_vectors
    chosen = settings.two_tower.graph_vectors
    return settings.split.kind == "time" if chosen is None else chosen


def reads_users(settings: Settings, model: Model) -> bool:
    """Whether a model reads the long-term embeddings of users."""
    return model in BUILT and settings.two_tower.user_vectors


def upstream(job: Job, model: Model) -> Artifact:
    """The graph encoder, or the user model, that others build on.

    It stays when days are added: with a new one the space would be another, and all that reads it
    would have to be trained anew. `train model=graph` after a change of settings makes a new one.
    """
    dataset = Dataset.open(job.root)
    if has_current(job.root, model):
        found = current(job.root, model)
        wanted = _tree(job, model, None, alone=False)
        if found.manifest.settings == wanted and _descends(dataset, found):
            return found
    return train(job, model)


def _descends(dataset: Dataset, model: Artifact) -> bool:
    """Whether a model was trained on this data set or on one that it extends."""
    trained_on = {p["version"] for p in model.manifest.parents if p["kind"] == "dataset"}
    versions: list[str] = [dataset.artifact.version]
    while versions:
        if trained_on & set(versions):
            return True
        found = [read(dataset.root / "dataset" / version) for version in versions]
        parents = [p for artifact in found for p in artifact.manifest.parents]
        versions = [p["version"] for p in parents if p["kind"] == "dataset"]
    return False


def _tree(job: Job, model: Model, start_from: Artifact | None, alone: bool) -> dict[str, Any]:
    """The settings of a model's manifest."""
    start = {"start_from": start_from.version if start_from else None}
    tree = training_settings(job, model) | start
    if model == "graph":
        dataset = Dataset.open(job.root)
        tree |= {
            "alone": alone,
            "objectives": list(objectives_of(job.settings.graph, dataset)),
            "users": users_of(job.settings, dataset),
            "encoder": resolved_graph(job.settings, dataset).encoder,
        }
    if model == "user":
        tree |= {"alone": alone}
    return tree


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


@dataclass(frozen=True, slots=True)
class _Training:
    """One model's phases: choosing the number of steps, then training that long on more."""

    job: Job
    model: Model
    sources: Sources
    start_from: Artifact | None
    alone: bool

    def fit(self, draft: Draft) -> None:
        """Runs the phases and keeps the last one's best weights."""
        folder = self.job.root / "checkpoints" / f"{self.model}-{draft.path.name}"
        last = self._assignment(folder / "choose")
        outcomes = {"choose": _phase(last)}
        split = self.job.settings.split
        if split.refit and split.kind != "time":
            last = self._refit(last, folder / "refit", outcomes["choose"]["best_step"])
            outcomes["refit"] = _phase(last)
        best = best_file(last.folder, outcomes[last.phase]["best_step"])
        shutil.copy(best, draft.path / "model.safetensors")
        _describe(draft, last, outcomes, self.sources)
        shutil.rmtree(folder, ignore_errors=True)

    def _assignment(self, folder: Path) -> Assignment:
        sources, start_from = self.sources, self.start_from
        return Assignment(
            root=self.job.root.absolute(),
            model=self.model,
            settings=self.job.settings,
            dataset_version=sources.dataset.version,
            candidates_version=sources.candidates.version if sources.candidates else None,
            vectors_version=sources.vectors.version if sources.vectors else None,
            user_vectors_version=sources.user_vectors.version if sources.user_vectors else None,
            folder=folder.absolute(),
            phase="choose",
            max_steps=self.job.settings.train.refresh_steps if start_from else 0,
            start_from=start_from.version if start_from else None,
            alone=self.alone,
            sampler=sources.sampler,
        )

    def _refit(self, chosen: Assignment, folder: Path, steps: int) -> Assignment:
        """The same on everything before the reported part, in a graph that has it too."""
        sampler = chosen.sampler
        if sampler is not None:
            dataset = Dataset.open(self.job.root)
            cutoff = Cutoff.of_training(chosen.windows, self.alone, refit=True)
            sampler = sampled(self.job, dataset, cutoff).source
        return dataclasses.replace(
            chosen, folder=folder.absolute(), phase="refit", max_steps=steps, sampler=sampler
        )


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
    draft: Draft, last: Assignment, outcomes: Mapping[str, Any], sources: Sources
) -> None:
    choose = outcomes["choose"]
    best = [v for v in choose["validations"] if v["step"] == choose["best_step"]]
    draft.fields |= {
        "window": list(window) if (window := last.label_days) else None,
        "id_space": sources.dataset.manifest.id_space,
        "dtype": "float32",
        "metrics": {"validation": best[0] if best else {}},
        "details": {
            "phases": outcomes,
            "made_from": "candidates" if sources.candidates else "log",
        },
    }


def main(job: Job) -> dict[str, Any]:
    """Trains one model on the prepared data set and makes it current."""
    model: Model = job.arguments.model
    with job.stage(f"train {model}"):
        artifact = train(job, model, alone=model in UPSTREAM)
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
