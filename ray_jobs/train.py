"""Trains one model: `python -m ray_jobs.train model=two_tower root=runs/default`.

With `train.num_workers=0` in this process, else on that many Ray Train workers. The same loop runs
either way. Interrupted runs go on from their last checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data.blocks import num_rows
from data.contract.artifact import Artifact, current, has_current
from data.contract.id_lineage import check_same_ids, descends
from data.contract.settings import UserError
from data.dataset import Dataset
from data.windows import refuse_overlap
from ray_jobs.embed import embed, user_days
from ray_jobs.engine.graph_groups import objectives_of, resolved_graph, users_of
from ray_jobs.engine.job import Job, console, run
from ray_jobs.engine.model_kinds import (
    UPSTREAM,
    Model,
    reads_graph,
    reads_ids,
    reads_users,
    training_settings,
)
from ray_jobs.engine.teacher import check_days, teacher_of
from ray_jobs.engine.training import Sources, Training
from ray_jobs.sample import Cutoff, log_of, sampled
from ray_jobs.tasks.candidates import candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainArguments:
    """Words of the job.

    Attributes:
        model: which model to train.
    """

    model: Model = "two_tower"


def train(
    job: Job,
    model: Model,
    move_pointer: bool = True,
    start_from: Artifact | None = None,
    alone: bool = False,
    bars: tuple[float | None, ...] = (),
) -> Artifact:
    """Trains a model on the current data set, or finds it trained already.

    Args:
        job: settings and root.
        model: which one.
        move_pointer: whether it becomes the current one of its kind.
        start_from: the same model as of an earlier day, whose weights are taken over.
        alone: whether nothing will be built on it: it may then learn from later days.
        bars: least score at each validation, None where there is none.

    Returns:
        The artefact: `model.safetensors`, settings, training curve.

    Raises:
        PrunedError: a score was below its bar; nothing is kept then.
        UserError: what it starts from, or learns from, was trained for other ids.
    """
    dataset = Dataset.open(job.root)
    if start_from is not None:
        check_same_ids(job.root, dataset.artifact, start_from)
    sources = sources_of(job, dataset, model, alone)
    return _trained(dataset, Training(job, model, sources, start_from, alone, bars), move_pointer)


def _trained(dataset: Dataset, training: Training, move_pointer: bool = True) -> Artifact:
    job, model = training.job, training.model
    tree = _tree(job, dataset, model, training.start_from, training.alone)
    return job.make(model, training.sources.artifacts, tree, training.fit, move_pointer)


def sources_of(job: Job, dataset: Dataset, model: Model, alone: bool) -> Sources:
    """Finds, or makes, what a model is trained on beside a data set."""
    if model == "graph":
        found = sampled(job, dataset, Cutoff.of_training(log_of(job, dataset).windows, alone))
        return Sources(dataset.artifact, sampler=found.source, graphs=found.artifacts)
    vectors = item_vectors(job, dataset) if reads_graph(job.settings, model) else None
    of_users = user_vectors(job, dataset) if reads_users(job.settings, model) else None
    made = None
    if model == "ranker" and not learns_from_impressions(job, dataset):
        made = candidates(job, dataset)
    ids = id_embeddings(job, dataset) if reads_ids(job.settings, model) else None
    teacher = teacher_of(job.root, job.settings.ranker) if model == "ranker" else None
    if teacher is not None:
        check_same_ids(job.root, dataset.artifact, teacher)
        check_days(teacher, log_of(job, dataset).windows)
    return Sources(dataset.artifact, made, vectors, of_users, ids, teacher=teacher)


def learns_from_impressions(job: Job, dataset: Dataset) -> bool:
    """Whether the ranker has impressions to learn from, or needs the retriever's candidates.

    Impressions are told apart by day: no other split says which of them may be learnt from.
    """
    windows = log_of(job, dataset).windows
    if windows is None or not dataset.counts["impressions"]:
        return False
    if dataset.has_impression_log:
        return True
    served = num_rows(dataset.impression_files(*windows.ranker))
    least: int = job.settings.ranker.least_served
    if served < least:
        console.print(
            f"{served:,} served impressions on the ranker's days: it learns from the retriever's "
            f"candidates until there are {least:,} (ranker.least_served)"
        )
    return served >= least


def item_vectors(job: Job, dataset: Dataset) -> Artifact:
    """Graph embeddings for the models after the graph, as of the end of the graph's window.

    Raises:
        UserError: models of the bundle learn from days that the graph has learnt from.
    """
    windows = log_of(job, dataset).windows
    if windows is not None:
        refuse_overlap(job.settings.windows, windows, "graph")
    cutoff = Cutoff.of_training(windows, alone=False)
    return embed(job, dataset, upstream(job, dataset, "graph"), cutoff)


def user_vectors(job: Job, dataset: Dataset) -> Artifact:
    """Embeddings of users by day for the models after the user model.

    Raises:
        UserError: models of the bundle learn from days that the user model has learnt from, or the
            split has no days.
    """
    windows = log_of(job, dataset).windows
    if windows is None:
        raise UserError(
            "two_tower.user_vectors and ranker.user_vectors need days to tell windows apart: "
            "split.kind=time"
        )
    refuse_overlap(job.settings.windows, windows, "user")
    return user_days(job, dataset, upstream(job, dataset, "user"))


def id_embeddings(job: Job, dataset: Dataset) -> Artifact:
    """Rows of users and items for the retriever, learnt before its window.

    Raises:
        UserError: the retriever learns from days that the rows have learnt from, the split has no
            days, or the rows are of another width.
    """
    windows, settings = log_of(job, dataset).windows, job.settings
    if windows is not None:
        refuse_overlap(settings.windows, windows, "id")
    elif not settings.windows.overlap:
        raise UserError(
            f"two_tower.id_rows={settings.two_tower.id_rows} needs days to tell windows apart "
            "(split.kind=time), or windows.overlap=true: both would learn from the same labels"
        )
    if settings.id.dim != settings.two_tower.id_dim:
        raise UserError(
            f"two_tower.id_dim={settings.two_tower.id_dim} reads rows of id.dim={settings.id.dim}: "
            "set both alike"
        )
    return upstream(job, dataset, "id")


def upstream(job: Job, dataset: Dataset, model: Model) -> Artifact:
    """The graph encoder, the ID rows, or the user model, that others build on.

    It stays when days are added: with a new one the space would be another, and all that reads it
    would have to be trained anew. `train model=graph` after a change of settings makes a new one.
    """
    if has_current(job.root, model):
        found = current(job.root, model)
        wanted = _tree(job, dataset, model, None, alone=False)
        same = found.manifest.settings == wanted
        if same and descends(job.root, dataset.artifact, found):
            return found
    sources = sources_of(job, dataset, model, alone=False)
    return _trained(dataset, Training(job, model, sources, None, alone=False))


def _tree(
    job: Job, dataset: Dataset, model: Model, start_from: Artifact | None, alone: bool
) -> dict[str, Any]:
    """The settings of a model's manifest."""
    start = {"start_from": start_from.version if start_from else None}
    tree = training_settings(job, model) | start
    if model == "graph":
        tree |= {
            "alone": alone,
            "objectives": list(objectives_of(job.settings.graph, dataset)),
            "users": users_of(job.settings, dataset),
            "encoder": resolved_graph(job.settings, dataset).encoder,
        }
    if model in ("id", "user"):
        tree |= {"alone": alone}
    return tree


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
