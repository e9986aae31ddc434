"""Exports the current models: `python -m ray_jobs.export root=runs/default`.

Programs (torch.export and ONNX), ID tables as plain arrays, the look-ups that serving shares with
training, and the graph that it walks: all that an index and a server need, without any of our
training code.
"""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from data.contract.artifact import Artifact, Draft, current, has_current
from data.contract.id_lineage import check_same_ids
from data.contract.schema import GRAPH_COLUMN, TREND_DAYS, USER_COLUMN
from data.contract.settings import UserError, build, to_tree
from data.dataset import Dataset, as_column
from models.export import write_programs
from models.ranker_settings import RankerSettings
from ray_jobs.embed import INDEX_FILE, as_read_by, graph_of, user_model_of
from ray_jobs.engine.embedders import open_lone
from ray_jobs.engine.inference import Retriever
from ray_jobs.engine.links import link
from ray_jobs.engine.memory import phase
from ray_jobs.engine.quantisation import to_int8
from ray_jobs.engine.ranking_model import RankingModel, calibration_of
from ray_jobs.sample import Cutoff, adjacency, log_of
from serve.bundle import GRAPH_FOLDER, SIMILAR_FILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.graph_encoder import GraphEncoder
    from ray_jobs.bundle_settings import ExportSettings
    from ray_jobs.engine.job import Job

Model = RankingModel | Retriever

FORM = 2  # of the programs; exports of another are made anew


def export(job: Job, move_pointer: bool = True) -> Artifact:
    """Exports the current retriever, and the current ranker with its calibrators, if any.

    Raises:
        UserError: there is no retriever, or models are of other ids than the data set.
    """
    plain = Dataset.open(job.root)
    rankers = ["ranker"] if has_current(job.root, "ranker") else []
    artifacts = [current(job.root, kind) for kind in ("two_tower", *rankers)]
    for artifact in artifacts:
        check_same_ids(job.root, plain.artifact, artifact)
    graph, user_model = (same_upstream(job.root, artifacts, of) for of in (graph_of, user_model_of))
    cutoff = Cutoff.whole(plain, log_of(job, plain).windows)
    datasets = [as_read_by(job, plain, artifact, cutoff) for artifact in artifacts]
    dataset = with_all_columns(plain, datasets)
    vectors = [found for found in (dataset.vectors, dataset.user_vectors) if found]
    upstream = [found for found in (graph, user_model) if found]
    walked = adjacency(job, plain, cutoff)
    calibrations = [
        c for a in artifacts if a.kind == "ranker" and (c := calibration_of(job.root, a))
    ]

    def write(draft: Draft) -> None:
        for artifact, read_by in zip(artifacts, datasets, strict=True):
            with phase(artifact.kind):
                model = open_model(artifact, read_by, *calibrations)
                _write_model(draft.path, model, job.settings.export)
        if graph is not None:
            with phase("graph"):
                _write_graph(draft.path, open_lone(graph, plain), dataset)
        with phase("look-ups"):
            _write_lookups(dataset, draft.path)
        write_edges(draft.path, walked)
        draft.fields |= {
            "id_space": dataset.artifact.manifest.id_space,
            "details": _details(dataset, [*artifacts, *upstream], calibrations)
            | {"ranker_arithmetic": job.settings.export.ranker},
        }

    parents = [plain.artifact, *artifacts, *calibrations, *vectors, walked]
    settings = {"export": to_tree(job.settings.export), "form": FORM}
    return job.make("export", parents, settings, write, move_pointer)


def with_all_columns(plain: Dataset, datasets: list[Dataset]) -> Dataset:
    """The data set with the embeddings that any of the models reads."""
    items, users = (
        next((found for found in tables if found is not None), None)
        for tables in ([d.vectors for d in datasets], [d.user_vectors for d in datasets])
    )
    return plain.with_vectors(items, users)


def same_upstream(
    root: Path, models: list[Artifact], upstream_of: Callable[[Path, Artifact], Artifact | None]
) -> Artifact | None:
    """The model behind the columns of all that read any. Raises UserError when they differ."""
    of_all = {model.manifest.name: upstream_of(root, model) for model in models}
    found = {name: one for name, one in of_all.items() if one is not None}
    if len({one.version for one in found.values()}) > 1:
        read = ", ".join(f"{name} reads {one.manifest.name}" for name, one in found.items())
        raise UserError(f"models read embeddings of different models: {read}; train them again")
    return next(iter(found.values()), None)


def open_model(artifact: Artifact, dataset: Dataset, calibration: Artifact | None = None) -> Model:
    """Opens a trained model of either kind; a ranker with its calibrators."""
    if artifact.kind == "ranker":
        return RankingModel.open(artifact, dataset, calibration)
    return Retriever.open(artifact, dataset, None)


def _write_model(folder: Path, model: Model, settings: ExportSettings) -> None:
    programs = folder / "programs"
    write_programs(model.core.programs(), programs)
    if isinstance(model, RankingModel):
        model.calibrators.save(folder)
        if settings.ranker == "int8":
            to_int8(programs / "ranker_items.onnx", programs / "ranker_items.onnx")
    tables = folder / "tables"
    tables.mkdir(exist_ok=True)
    for name, table in model.tables.items():
        array = table.numpy().astype(settings.table_dtype)
        np.save(tables / f"{model.name}.{name}.npy", array)


def _write_graph(folder: Path, encoder: GraphEncoder | None, dataset: Dataset) -> None:
    """What embeds a posted item, if anything does, and the index of items that are alike."""
    if encoder is not None:
        write_programs(encoder.programs(), folder / "programs")
    assert dataset.vectors is not None
    link(dataset.vectors.path / INDEX_FILE, folder / SIMILAR_FILE)


def write_edges(folder: Path, walked: Artifact) -> None:
    """The graph as of the end of the log, for walks while serving; nothing if it has no edge."""
    if walked.manifest.details["edges"]:
        for side, array in product(("items", "boards"), ("indptr", "indices")):
            name = f"{side}.{array}.npy"
            link(walked.path / name, folder / GRAPH_FOLDER / name)


def _write_lookups(dataset: Dataset, folder: Path) -> None:
    """Puts encoded features and id spaces beside the programs."""
    columns: dict[str, dict[str, pa.Array]] = {"items": {}, "users": {}}
    if dataset.vectors is not None:
        columns["items"] = {GRAPH_COLUMN: dataset.items.columns[GRAPH_COLUMN]}
    if dataset.user_days is not None:
        columns["users"] = {USER_COLUMN: as_column(dataset.user_days.newest(dataset.user_ids.rows))}
    for side, added in columns.items():
        _write_table(dataset.artifact.path / f"{side}.arrow", added, folder / f"{side}.arrow")
    for name in dataset.artifact.manifest.id_space:
        source = dataset.ids_folder(name)
        for file in ("ids.arrow", "keys.arrow"):
            link(source / file, folder / "ids" / name / file)


def _write_table(source: Path, added: dict[str, pa.Array], path: Path) -> None:
    """The encoded table, with columns of embeddings if there are any."""
    if not added:
        link(source, path)
        return
    table = pa.ipc.open_file(pa.memory_map(str(source))).read_all()
    for name, column in added.items():
        table = table.append_column(name, column)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _details(
    dataset: Dataset, artifacts: list[Artifact], calibrations: list[Artifact]
) -> dict[str, Any]:
    sequences = {a.kind: a.manifest.settings[a.kind].get("sequence") for a in artifacts}
    lengths = {kind: found["max_length"] for kind, found in sequences.items() if found}
    return {
        "vocabulary": dataclasses.asdict(dataset.vocabulary),
        "calendar": dataclasses.asdict(dataset.calendar) if dataset.calendar else None,
        "max_length": lengths,
        "trend_days": list(TREND_DAYS),
        "tallies": next((_tallies(a) for a in artifacts if a.kind == "ranker"), None),
        "versions": {a.kind: a.version for a in [*artifacts, *calibrations]},
        "store_sequence": dataset.details["store_sequence"],
    }


def _tallies(ranker: Artifact) -> dict[str, float] | None:
    """How what its ranker reads of the past is counted; None if it reads none."""
    settings = build(RankerSettings, ranker.manifest.settings["ranker"])
    return {"half_life_days": settings.half_life_days} if settings.tallies else None


def main(job: Job) -> dict[str, Any]:
    """Exports the current retriever and ranker as programs, tables and look-ups."""
    with job.stage("export"):
        artifact = export(job)
    return {"export": artifact.version, "versions": artifact.manifest.details["versions"]}


if __name__ == "__main__":
    from ray_jobs.engine.job import run

    run("export", main)
