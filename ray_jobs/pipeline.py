"""The whole loop: `python -m ray_jobs.pipeline root=runs/default`, and `day=next` on the next day.

World or log -> prepare -> train -> evaluate -> export -> index -> serve. A stage whose inputs and
settings have not changed is skipped; a run that was interrupted is finished by running it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from data.contract.artifact import Artifact, current, has_current, read, write_atomically
from data.contract.settings import UserError
from data.dataset import Dataset
from data.raw_tables import FileSet, RawTables
from data.sources import locate, world_tables
from ray_jobs.calibrate import calibrate
from ray_jobs.deploy import check_served
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
from ray_jobs.prepare import prepare
from ray_jobs.simulate import simulate, simulate_next_day
from ray_jobs.train import train, upstream
from serve.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ray_jobs.settings import Settings

NEXT_DAY_FILE = "next_day.json"
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
        day: `next` takes posted events and the world's next day, and trains on from yesterday.
    """

    model: Model | None = None
    day: Literal["next"] | None = None


@dataclass(frozen=True, slots=True)
class Yesterday:
    """What a next day starts from; kept in a file until the day is done, so that it can resume.

    Attributes:
        versions: kind -> version of the artefacts that were current.
        first_sequence: posted events up to here are in yesterday's data set.
        last_sequence: posted events up to here join.
    """

    versions: dict[str, str]
    first_sequence: int
    last_sequence: int

    @classmethod
    def begin(cls, root: Path) -> Yesterday:
        """Continues the day that was interrupted, or begins a new one."""
        path = root / NEXT_DAY_FILE
        if path.is_file():
            return cls(**json.loads(path.read_text()))
        kinds = ("world", "dataset", *MODELS)
        versions = {kind: current(root, kind).version for kind in kinds if has_current(root, kind)}
        if "dataset" not in versions:
            raise UserError(f"{root} has no first day yet; run the pipeline without day=next")
        last = 0
        if (root / "store").is_dir():
            with Store.open(root / "store") as store:
                last = store.last_sequence
        day = cls(versions, int(Dataset.open(root).details["store_sequence"]), last)
        write_atomically(path, json.dumps(day.tree()))
        return day

    def tree(self) -> dict[str, Any]:
        """As JSON."""
        return {name: getattr(self, name) for name in self.__slots__}

    def artifact(self, root: Path, kind: str) -> Artifact | None:
        """Yesterday's artefact of a kind."""
        return read(root / kind / self.versions[kind]) if kind in self.versions else None


def main(job: Job) -> dict[str, Any]:
    """Takes a log to recommendations over HTTP, or a served root to its next day."""
    yesterday = Yesterday.begin(job.root) if job.arguments.day else None
    dataset = prepare_day(job, yesterday) if yesterday else prepare_first(job)
    check_corpus(Dataset(dataset, job.root), job.settings.corpus)
    with job.stage("start"):  # after what refuses bad input
        connect(job.settings.train.num_workers + 2)
    alone: Model | None = job.arguments.model
    chosen = (alone,) if alone else BUILT
    for read_by, reads in READ.items():
        if any(reads(job.settings, model) for model in chosen):
            with job.stage(f"train {read_by}"):
                upstream(job, read_by)
    for model in chosen:
        with job.stage(f"train {model}"):
            before = yesterday.artifact(job.root, model) if yesterday else None
            train(job, model, start_from=before, alone=model in UPSTREAM)
    if "ranker" in chosen:
        with job.stage("calibrate"):
            calibrate(job)
    with job.stage("evaluate"):
        evaluation = evaluate(job, chosen)
    summary = {"metrics": evaluation.manifest.metrics, "counts": dataset.manifest.details["counts"]}
    if job.arguments.model is None:
        summary |= publish_bundle(job)
    (job.root / NEXT_DAY_FILE).unlink(missing_ok=True)
    return summary


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
    """Adds posted events, and the world's next day, to yesterday's data set."""
    before = yesterday.artifact(job.root, "dataset")
    world = yesterday.artifact(job.root, "world")
    assert before is not None
    raw = posted_tables(job.root, yesterday, Dataset(before, job.root))
    if world and job.settings.source.kind == "world":
        with job.stage("world"):
            raw = world_tables(simulate_next_day(job, world).path).joined(raw)
    if not raw.events:
        (job.root / NEXT_DAY_FILE).unlink()
        raise UserError(f"nothing was posted to {job.root} since its last day: nothing to learn")
    with job.stage("prepare"):
        return prepare(job, raw, before, store_sequence=yesterday.last_sequence)


def posted_tables(root: Path, yesterday: Yesterday, before: Dataset) -> RawTables:
    """What was posted over HTTP since the last day, as raw tables."""
    first, last = yesterday.first_sequence, yesterday.last_sequence
    sets: dict[str, tuple[FileSet, ...]] = {}
    if last > first:
        folder = root / "posted" / f"{first + 1}-{last}"
        with Store.open(root / "store") as store:
            for role, rows in (
                ("events", store.events_since(first, last)),
                ("items", store.items_since(first, last)),
            ):
                if rows.num_rows:
                    sets[role] = (FileSet(files=(_written(rows, folder / f"{role}.parquet"),)),)
    return RawTables.of(before.order, sets)


def _written(rows: pa.Table, path: Path) -> Path:
    """Writes a table once; an interrupted day finds it as it was."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    return path


def publish_bundle(job: Job) -> dict[str, Any]:
    """Exports, indexes, publishes the bundle, and asks a server for a feed."""
    with job.stage("export"):
        exported = export(job)
    with job.stage("index"):
        bundle = index(job, exported)
    with job.stage("deploy"):
        served = check_served(job)
    return {"bundle": bundle.version, "served": served}


if __name__ == "__main__":
    run("pipeline", main, PipelineArguments, remember=True)
