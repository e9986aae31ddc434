"""One training: what a model is made from, and its phases.

The number of steps is chosen on `valid`; then, where the split has no days, the model is trained
that long on everything before the reported part.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from data.contract import storage
from data.contract.artifact import Artifact
from data.dataset import Dataset
from data.graph.neighborhoods import SamplerSource
from ray_jobs.engine.assignment import Assignment
from ray_jobs.engine.cluster import connect
from ray_jobs.engine.devices import of_driver, shortage
from ray_jobs.engine.graph_groups import batch_items
from ray_jobs.engine.group import run_workers
from ray_jobs.engine.job import Job, console
from ray_jobs.engine.model_kinds import Model
from ray_jobs.engine.progress import following
from ray_jobs.engine.worker import CURVE, OUTCOME, PLAN, alone, best_file, work
from ray_jobs.sample import Cutoff, sampled
from ray_jobs.tasks.id import IdTask
from ray_jobs.tasks.light_gcn import graph_task
from ray_jobs.tasks.ranker import RankerTask
from ray_jobs.tasks.two_tower import TwoTowerTask
from ray_jobs.tasks.user import UserTask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from data.contract.artifact import Draft
    from ray_jobs.engine.loop import Task

TASKS: dict[str, Callable[[Assignment], Task]] = {
    "graph": graph_task,
    "id": IdTask,
    "user": UserTask,
    "two_tower": TwoTowerTask,
    "ranker": RankerTask,
}


@dataclass(frozen=True, slots=True)
class Sources:
    """What a model is trained on beside the settings.

    Attributes:
        dataset: the log.
        candidates: impressions made from the retriever's candidates, if the log has none.
        vectors: item embeddings among the items' columns, if any.
        user_vectors: embeddings of users by day, if they are read.
        ids: rows of users and items that were learnt before, if they are read.
        sampler: neighbourhoods for the graph encoder.
        graphs: the artefacts that they come from.
        teacher: a ranker that the ranker learns from, if any.
    """

    dataset: Artifact
    candidates: Artifact | None = None
    vectors: Artifact | None = None
    user_vectors: Artifact | None = None
    ids: Artifact | None = None
    sampler: SamplerSource | None = None
    graphs: tuple[Artifact, ...] = ()
    teacher: Artifact | None = None

    @property
    def artifacts(self) -> list[Artifact]:
        """The model's parents."""
        others = (self.candidates, self.vectors, self.user_vectors, self.ids, self.teacher)
        return [self.dataset, *(found for found in others if found), *self.graphs]


class PrunedError(Exception):
    """A sweep has cut a training short; `validations` are those until then."""

    def __init__(self, validations: list[dict[str, float]]) -> None:
        """Takes step and metrics of each validation."""
        super().__init__(f"cut short after step {validations[-1]['step']:.0f}")
        self.validations = validations


@dataclass(frozen=True, slots=True)
class Training:
    """One model's phases: choosing the number of steps, then training that long on more."""

    job: Job
    model: Model
    sources: Sources
    start_from: Artifact | None
    alone: bool
    bars: tuple[float | None, ...] = ()

    def fit(self, draft: Draft) -> None:
        """Runs the phases and keeps the last one's best weights.

        Raises:
            PrunedError: the score of a validation was below its bar.
        """
        folder = self.job.root / "checkpoints" / f"{self.model}-{draft.path.name}"
        last = self._assignment(folder / "choose")
        outcomes = {"choose": _phase(last)}
        if outcomes["choose"].get("pruned"):  # not in what earlier releases left
            storage.remove(folder)
            raise PrunedError(outcomes["choose"]["validations"])
        split = self.job.settings.split
        if split.refit and split.kind != "time":
            last, graphs = self._refit(last, folder / "refit", outcomes["choose"]["best_step"])
            outcomes["refit"] = _phase(last)
            draft.fields["parents"] = [
                *draft.fields["parents"],
                *(graph.reference() for graph in graphs),
            ]
        best = best_file(last.folder, outcomes[last.phase]["best_step"])
        storage.fetch(best, fresh=True)  # an earlier attempt may have left another here
        shutil.copy(best, draft.path / "model.safetensors")
        _describe(draft, last, outcomes, self.sources)
        draft.scratch.append(folder)

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
            ids_version=sources.ids.version if sources.ids else None,
            folder=folder.absolute(),
            phase="choose",
            max_steps=self.job.settings.train.refresh_steps if start_from else 0,
            start_from=start_from.version if start_from else None,
            alone=self.alone,
            bars=self.bars,
            sampler=sources.sampler,
        )

    def _refit(
        self, chosen: Assignment, folder: Path, steps: int
    ) -> tuple[Assignment, tuple[Artifact, ...]]:
        """The same on everything before the reported part; the graphs that have it too, if any."""
        refit = dataclasses.replace(
            chosen, folder=folder.absolute(), phase="refit", max_steps=steps
        )
        if chosen.sampler is None:
            return refit, ()
        dataset = Dataset(self.sources.dataset, self.job.root)
        cutoff = Cutoff.of_training(chosen.windows, self.alone, refit=True)
        found = sampled(self.job, dataset, cutoff)
        return dataclasses.replace(refit, sampler=found.source), found.artifacts


def _phase(assignment: Assignment) -> dict[str, Any]:
    """Runs one phase unless an interrupted run has already finished it."""
    outcome = assignment.folder / OUTCOME
    if not storage.fetch(outcome, fresh=True):
        assignment.folder.mkdir(parents=True, exist_ok=True)
        title = f"{assignment.model} ({assignment.phase})"
        with following(assignment.folder / CURVE, assignment.folder / PLAN, title):
            launch(assignment)
        storage.fetch(outcome, fresh=True)
    found: dict[str, Any] = json.loads(outcome.read_text())
    return found


def launch(assignment: Assignment) -> None:
    """Trains in this process or on Ray Train workers, as the settings say."""
    settings, task = assignment.settings.train, TASKS[assignment.model]
    connect(num_cpus=settings.num_workers + 2)
    if said := shortage(settings):
        console.print(said)
    if settings.num_workers == 0:
        device = of_driver(settings)
        alone(lambda: work(assignment, task, device), device.type == "cuda")
        torch.cuda.empty_cache()  # trials of a sweep compute beside this process
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
    if last.model == "graph":
        found = batch_items(last.settings, Dataset(sources.dataset, last.root))
        draft.fields["details"]["batch_items"] = found
