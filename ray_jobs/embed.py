"""Embeds every item, or user: `python -m ray_jobs.embed root=runs/default [model=user]`.

Items come as they stand in the graph at the end of a day: those that the encoder has never seen are
embedded like all others, by what they are and where they were put. Chunks of items go to actors of
Ray Data, each with a GPU where the cluster has any; an interrupted run goes on with the chunks that
are missing. Time grows with items x neighbours, memory is a chunk and, in each actor, the encoder.
Users are embedded by `ray_jobs.user_table`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data.contract import storage
from data.contract.array_file import create_array
from data.contract.artifact import Artifact, current, read
from data.contract.id_lineage import check_same_ids
from data.contract.settings import Count, build, to_tree
from data.dataset import VECTORS_FILE, Dataset
from data.graph.neighborhoods import SamplerSource
from data.splits import TRAIN
from ray_jobs.engine.embedders import Embedder, graph_tree, open_embedder
from ray_jobs.engine.embedding_tasks import embedding_tasks
from ray_jobs.engine.job import Job, run
from ray_jobs.engine.memory import phase
from ray_jobs.preparation.pieces import Pieces
from ray_jobs.sample import Cutoff, log_of, sampled
from ray_jobs.user_days import KIND as USER_DAYS
from ray_jobs.user_days import embed_days
from ray_jobs.user_table import embed_users
from serve.index import build_index

if TYPE_CHECKING:
    from data.contract.artifact import Draft
    from data.contract.encode import Ints

CHUNK_ITEMS = 1 << 15
SMALL_CATALOGUE = 1_000_000
KIND, INDEX_FILE = "item_embeddings", "index.faiss"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedArguments:
    """Words of the job.

    Attributes:
        model: graph embeds items, user the users who were active since the table before.
        day: as of the end of this day; by default the log's last.
    """

    model: Literal["graph", "user"] = "graph"
    day: Count | None = None


@dataclass(frozen=True, slots=True)
class _Chunks:
    """Item rows by chunk, what embeds them, and where vectors go; travels between processes."""

    root: Path
    dataset: str
    graph: str
    sampler: SamplerSource
    pieces: Pieces
    num_items: int
    size: int
    device: str

    @property
    def count(self) -> int:
        return -(-self.num_items // self.size)

    def rows(self, number: int) -> Ints:
        first = number * self.size
        return np.arange(first, min(first + self.size, self.num_items))

    def name(self, number: int) -> str:
        return f"chunk-{number:05d}.npy"

    def embedder(self) -> Embedder:
        root = storage.here(self.root)
        dataset = Dataset(read(root / "dataset" / self.dataset), root)
        graph = read(root / "graph" / self.graph)
        return open_embedder(graph, dataset, self.sampler.here(), self.device)


@lru_cache(maxsize=1)
def _embedder(chunks: _Chunks) -> Embedder:
    """Opened once in a process."""
    return chunks.embedder()


def embed(job: Job, dataset: Dataset, graph: Artifact, cutoff: Cutoff) -> Artifact:
    """Embeddings of all items as of a cut-off, or finds them made already.

    Args:
        job: settings and root; the walk is that of the encoder's own settings.
        dataset: whose items.
        graph: the trained encoder.
        cutoff: up to when edges are known.

    Returns:
        The artefact: `vectors.npy` float16[rows, D], zeros for the rows that are no items, and an
        index over them.

    Raises:
        UserError: the encoder was trained for other ids.
    """
    check_same_ids(job.root, dataset.artifact, graph)
    own = _with_graph_settings(job, graph)
    found = sampled(own, dataset, cutoff)

    def write(draft: Draft) -> None:
        pieces = Pieces.begin(job.root, f"embed-{draft.path.name}")
        few = min(SMALL_CATALOGUE, job.settings.prepare.in_process_rows)
        tasks, device = embedding_tasks(job.settings, dataset.item_ids.rows <= few)
        chunks = _Chunks(
            job.root.absolute(),
            dataset.artifact.version,
            graph.version,
            found.source,
            pieces,
            dataset.item_ids.rows,
            CHUNK_ITEMS,
            device,
        )
        for _ in tasks.run(_embed_chunk, chunks, chunks.count, "embed"):
            pass
        _assemble(chunks, dataset, draft)
        _embedder.cache_clear()  # or this process would keep its tables
        draft.scratch.append(pieces.folder)
        draft.fields |= {
            "id_space": dataset.artifact.manifest.id_space,
            "window": graph.manifest.window,
            "details": {"cutoff": asdict(cutoff), "graph": graph.version},
        }

    parents = [dataset.artifact, graph, *found.artifacts]
    return job.make(KIND, parents, {"cutoff": asdict(cutoff)}, write, move_pointer=False)


def _with_graph_settings(job: Job, graph: Artifact) -> Job:
    """The job with the settings that the encoder was trained with: rows of another walk differ."""
    tree = to_tree(job.settings) | {"graph": graph_tree(graph)}
    return replace(job, settings=build(type(job.settings), tree))


def _embed_chunk(chunks: _Chunks, number: int) -> None:
    """Writes the vectors of one chunk unless they are there."""

    def write(path: Path) -> None:
        rows, embedder = chunks.rows(number), _embedder(chunks)
        parts = np.array_split(rows, -(-len(rows) // 4096))
        vectors = np.concatenate([embedder.items(part) for part in parts])
        vectors[rows < embedder.dataset.item_ids.first_row] = 0
        with path.open("wb") as file:
            np.save(file, vectors.astype(np.float16))

    chunks.pieces.make(chunks.name(number), write)


def _assemble(chunks: _Chunks, dataset: Dataset, draft: Draft) -> None:
    """One file of all vectors, and the index over the items among them."""
    folder = chunks.pieces.gathered()
    dim = np.load(folder / chunks.name(0), mmap_mode="r").shape[1]
    vectors = create_array(draft.path / VECTORS_FILE, np.float16, (chunks.num_items, dim))
    for number in range(chunks.count):
        vectors[chunks.rows(number)] = np.load(folder / chunks.name(number))
    live = np.arange(dataset.item_ids.first_row, chunks.num_items)
    found = vectors[live].astype(np.float32)
    with phase("index"):
        built, recall = build_index(live, found, np.zeros(len(live), np.float32), "auto", 0.95)
        built.save(draft.path / INDEX_FILE)
    draft.fields |= {
        "dim": dim,
        "dtype": "float16",
        "normalised": True,
        "metric": "inner_product",
        "metrics": {"recall@100": recall},
    }


def open_graph_model(job: Job, dataset: Dataset, graph: Artifact, cutoff: Cutoff) -> Embedder:
    """The encoder over the graph as of a cut-off, walked as the encoder was trained."""
    found = sampled(_with_graph_settings(job, graph), dataset, cutoff)
    return open_embedder(graph, dataset, found.source)


def graph_of(root: Path, model: Artifact) -> Artifact | None:
    """The graph encoder whose embeddings a model reads, if it reads any."""
    tables = [p["version"] for p in model.manifest.parents if p["kind"] == KIND]
    if not tables:
        return None
    return read(root / "graph" / read(root / KIND / tables[0]).manifest.details["graph"])


def user_model_of(root: Path, model: Artifact) -> Artifact | None:
    """The user model whose embeddings a model reads, if it reads any."""
    tables = [p["version"] for p in model.manifest.parents if p["kind"] == USER_DAYS]
    if not tables:
        return None
    return read(root / "user" / read(root / USER_DAYS / tables[0]).manifest.details["model"])


def as_read_by(job: Job, dataset: Dataset, model: Artifact, cutoff: Cutoff) -> Dataset:
    """The data set with the columns that a model reads, those of items as of a cut-off.

    Raises:
        UserError: the model was trained for other ids.
    """
    check_same_ids(job.root, dataset.artifact, model)
    graph, user_model = graph_of(job.root, model), user_model_of(job.root, model)
    plain = Dataset(dataset.artifact, dataset.root)
    items = embed(job, plain, graph, cutoff) if graph else None
    users = user_days(job, plain, user_model) if user_model else None
    return plain.with_vectors(items, users)


def user_days(job: Job, plain: Dataset, model: Artifact) -> Artifact:
    """Embeddings of users by day, from the first that models which read them learn from.

    The user model's items are as of the end of its window.
    """
    windows = log_of(job, plain).windows
    assert windows is not None
    read_by_model = as_read_by(job, plain, model, Cutoff(parts=(TRAIN,), day=windows.user[1]))
    first_day = min(windows.user[1] + 1, windows.two_tower[0], windows.ranker[0])
    return embed_days(job, read_by_model, model, first_day)


def main(job: Job) -> dict[str, Any]:
    """Embeds all items with the current graph encoder, or all users, as of a day."""
    dataset = Dataset.open(job.root)
    model = current(job.root, job.arguments.model)
    whole = Cutoff.whole(dataset, log_of(job, dataset).windows)
    day = job.arguments.day
    cutoff = Cutoff(whole.parts, day) if day else whole
    with job.stage("embed"):
        if job.arguments.model == "user":
            read_by_model = as_read_by(job, dataset, model, cutoff)
            made = embed_users(job, read_by_model, model, cutoff.last_ms(dataset))
        else:
            made = embed(job, dataset, model, cutoff)
    details = made.manifest.details
    counts: dict[str, Any] = {k: details[k] for k in ("embedded", "kept") if k in details}
    return {made.kind: made.version, model.kind: model.version, **made.manifest.metrics, **counts}


if __name__ == "__main__":
    run("embed", main, EmbedArguments)
