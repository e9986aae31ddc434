"""The whole loop: `python -m ray_jobs.pipeline root=runs/default`, and `day=next` on the next day.

World or log -> prepare -> train -> evaluate -> export -> index -> serve. A stage whose inputs and
settings have not changed is skipped; a run that was interrupted is finished by running it again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from data.contract import storage
from data.contract.artifact import read
from data.contract.id_lineage import descends
from data.contract.settings import UserError
from data.dataset import Dataset
from data.sources import locate, world_tables
from ray_jobs.calibrate import calibrate
from ray_jobs.deploy import RefusedError, check_served
from ray_jobs.engine.cluster import connect
from ray_jobs.engine.corpus import check_corpus
from ray_jobs.engine.job import Job, run
from ray_jobs.engine.model_kinds import (
    BUILT,
    MODELS,
    UPSTREAM,
    Model,
    reads_graph,
    reads_ids,
    reads_users,
)
from ray_jobs.evaluate import evaluate
from ray_jobs.export import export
from ray_jobs.index import index
from ray_jobs.preparation.posted import NEXT_DAY_FILE, Yesterday, archive_taken, new_tables
from ray_jobs.prepare import prepare
from ray_jobs.simulate import simulate, simulate_next_day
from ray_jobs.train import train, upstream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from data.contract.artifact import Artifact
    from data.raw_tables import RawTables
    from ray_jobs.settings import Settings

OF_WORLD = re.compile(r"(?:^|/)world/([0-9a-f]{12})/")  # of a file, by its name in a fingerprint
READ: dict[Model, Callable[[Settings, Model], bool]] = {
    "graph": reads_graph,
    "id": reads_ids,
    "user": reads_users,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineArguments:
    """Words of the job.

    Attributes:
        model: train and evaluate this model alone, and stop before export.
        day: `next` takes what was posted and served, and the world's next day, and trains on from
            yesterday.
    """

    model: Model | None = None
    day: Literal["next"] | None = None


def main(job: Job) -> dict[str, Any]:
    """Takes a log to recommendations over HTTP, or a served root to its next day."""
    yesterday = None
    if job.arguments.day:
        yesterday = Yesterday.begin(job, ("dataset", *MODELS))
    dataset = prepared(job, yesterday)
    check_corpus(dataset, job.settings.corpus)
    with job.stage("start"):  # after what refuses bad input
        connect(job.settings.train.num_workers + 2)
    alone: Model | None = job.arguments.model
    chosen = (alone,) if alone else BUILT
    for read_by, reads in READ.items():
        if any(reads(job.settings, model) for model in chosen):
            with job.stage(f"train {read_by}"):
                upstream(job, dataset, read_by)
    for model in chosen:
        with job.stage(f"train {model}"):
            before = started_from(job, dataset.artifact, yesterday, model)
            train(job, model, start_from=before, alone=model in UPSTREAM)
    if "ranker" in chosen:
        with job.stage("calibrate"):
            calibrate(job)
    with job.stage("evaluate"):
        evaluation = evaluate(job, chosen)
    summary: dict[str, Any] = {"metrics": evaluation.manifest.metrics, "counts": dataset.counts}
    if job.arguments.model is None:
        summary |= publish_bundle(job)
        if yesterday:
            summary["archived"] = archive_taken(job, yesterday)
    storage.remove(job.root / NEXT_DAY_FILE)
    return summary


def prepared(job: Job, yesterday: Yesterday | None) -> Dataset:
    """What is trained on: the first day, or a later one where there has been one."""
    if yesterday:
        prepare_day(job, yesterday)
    else:
        prepare_first(job)
    return Dataset.open(job.root)


def prepare_first(job: Job) -> Artifact:
    """Generates the world if it is the source, and prepares the log."""
    raw = raw_tables(job)
    with job.stage("prepare"):
        return prepare(job, raw)


def raw_tables(job: Job) -> RawTables:
    """The company's tables, or the world's."""
    if job.settings.source.kind != "world":
        return locate(job.settings.source)
    with job.stage("world"):
        return world_tables(simulate(job).path)


def prepare_day(job: Job, yesterday: Yesterday) -> Artifact:
    """Adds what was posted and served, and the world's next day, to yesterday's data set."""
    before = yesterday.artifact(job.root, "dataset")
    assert before is not None
    raw = new_tables(job, yesterday, Dataset(before, job.root))
    world = world_taken(job.root, before) if job.settings.source.kind == "world" else None
    if world:
        with job.stage("world"):
            raw = world_tables(simulate_next_day(job, world).path).joined(raw)
    if not raw.events:
        storage.remove(job.root / NEXT_DAY_FILE)
        uri = storage.uri_of(job.root)
        store = job.settings.serve.store
        raise UserError(
            f"no event was posted to {uri} since its last day: nothing to learn. Looked into was "
            f"serve.store={store}, which has to be the server's"
        )
    with job.stage("prepare"):
        return prepare(job, raw, before, yesterday.after)


def world_taken(root: Path, dataset: Artifact) -> Artifact | None:
    """The last days of the world that a data set has taken, itself or by those it extends.

    The world's own pointer may be days ahead: of a day that was begun and given up, or where the
    data set was made anew.
    """
    found: Artifact | None = dataset
    while found is not None:
        names = [name for s in found.manifest.settings["raw"]["events"] for name, *_ in s["files"]]
        if worlds := [match[1] for name in names if (match := OF_WORLD.search(name))]:
            return read(root / "world" / worlds[-1])
        before = [p["version"] for p in found.manifest.parents if p["kind"] == "dataset"]
        found = read(root / "dataset" / before[0]) if before else None
    return None


def started_from(
    job: Job, dataset: Artifact, yesterday: Yesterday | None, model: Model
) -> Artifact | None:
    """Yesterday's model, whose weights are taken over; none where it is for other ids."""
    before = yesterday.artifact(job.root, model) if yesterday else None
    return before if before and descends(job.root, dataset, before) else None


def publish_bundle(job: Job) -> dict[str, Any]:
    """Exports, indexes, publishes the bundle, and asks a server for a feed.

    Raises:
        RefusedError: the server refuses the bundle. The day has come to its end: taken up again it
            would put the same bundle back in the place of whatever mends it.
    """
    with job.stage("export"):
        exported = export(job)
    with job.stage("index"):
        bundle = index(job, exported)
    with job.stage("deploy"):
        try:
            served = check_served(job)
        except RefusedError:
            storage.remove(job.root / NEXT_DAY_FILE)
            raise
    return {"bundle": bundle.version, "served": served}


if __name__ == "__main__":
    run("pipeline", main, PipelineArguments, remember=True)
