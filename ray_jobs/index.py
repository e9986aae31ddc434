"""Makes the bundle that serves: `python -m ray_jobs.index root=runs/default`.

Takes an export (programs, ID tables, look-ups), embeds every item with the exported item tower,
chooses those that may be served (data.corpus) and builds their index, lays the users' timelines in
row order and clusters each, publishes the bundle and points `bundles/CURRENT` at it. Cost grows
with items (embedding, index) and events (timelines); memory with items only: timelines go through a
block at a time.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from data.contract.array_file import create_array
from data.contract.artifact import current, read
from data.contract.encode import (
    HISTORY_COLUMNS,
    Arrays,
    Events,
    FeatureTable,
    Ints,
)
from data.contract.schema import GRAPH_COLUMN, Vocabulary
from data.contract.settings import to_tree
from data.corpus import fresh_items, popular_items
from data.dataset import Dataset
from data.pinnersage import Interests, unit_vectors
from data.splits import OUTSIDE, TEST, TRAIN, VALID
from data.timelines import events_from
from data.track_record import Standings
from data.trends import Trends
from ray_jobs.engine.corpus import check_corpus, corpus_of, tell, told
from ray_jobs.engine.job import keep
from ray_jobs.engine.links import link
from ray_jobs.engine.memory import phase
from ray_jobs.sample import log_of
from serve.bundle import (
    BLOCKED_FILE,
    KIND,
    SIMILAR_FILE,
    TALLIES_FILE,
    USER_TALLIES_FILE,
    embed_items,
    prior_of,
)
from serve.index import build_index
from serve.medoids import FILES as MEDOID_FILES
from serve.pairing import write_pairing
from serve.partitions import build_partitions, carried
from serve.programs import Floats, Program, gather_rows
from serve.ranked import TABLE, write_ranked

if TYPE_CHECKING:
    from pathlib import Path

    from data.contract.artifact import Artifact, Draft
    from data.contract.idspace import IdSpace
    from data.corpus import Corpus
    from data.pinnersage import PinnerSageSettings
    from data.queries import SplitLog
    from ray_jobs.bundle_settings import IndexSettings
    from ray_jobs.engine.job import Job
    from ray_jobs.settings import Settings

CHUNK = 4096
CONDITION_RECALL = 0.99
SIMILAR_RECALL = 0.95
WHOLE = (OUTSIDE, TRAIN, VALID, TEST)


def index(job: Job, export: Artifact, move_pointer: bool = True) -> Artifact:
    """Publishes the bundle of an export, or finds it published already.

    Args:
        job: settings and root.
        export: programs, tables and look-ups.
        move_pointer: whether servers of this root shall take it.
    """
    settings: Settings = job.settings
    reference = next(p for p in export.manifest.parents if p["kind"] == "dataset")
    dataset = Dataset(read(job.root / "dataset" / reference["version"]), job.root)
    blocked = check_corpus(dataset, settings.corpus)

    def write(draft: Draft) -> None:
        shutil.copytree(
            export.path, draft.path, dirs_exist_ok=True, copy_function=link, ignore=_own
        )
        with phase("histories"):
            write_histories(draft.path / "histories", dataset)
        features = Vocabulary.from_tree(export.manifest.details["vocabulary"]).item_features
        items = FeatureTable.open("item", features, export.path / "items.arrow")
        corpus = corpus_of(dataset, blocked, settings.corpus)
        np.save(draft.path / BLOCKED_FILE, blocked.hashes)
        draft.fields |= _write_items(draft.path, dataset, items, corpus, settings.index)
        with phase("rows to rank"):
            write_ranked(export.path, draft.path, items, dataset.item_ids)
        tallies = export.manifest.details.get("tallies")
        if tallies is not None:
            with phase("tallies"):
                write_tallies(draft.path, log_of(job, dataset), tallies["half_life_days"])
        with phase("medoids"):
            write_medoids(draft.path, dataset, items, settings.index.pinnersage)
        write_pairing(draft.path, export.manifest.details["versions"])
        draft.fields |= {
            "id_space": export.manifest.id_space,
            "details": export.manifest.details | {"corpus": told(dataset, corpus, blocked)},
        }

    inputs = {"index": to_tree(settings.index), "corpus": to_tree(settings.corpus)}
    inputs["corpus"]["blocked"] = blocked.checksum
    bundle = job.make(KIND, [export], inputs, write, move_pointer)
    tell(bundle.manifest.details["corpus"])
    return bundle


def _own(_: str, names: list[str]) -> set[str]:
    """What serving does not read: programs in torch's format, rows of items that are encoded."""
    own = {"manifest.json", f"{TABLE}.npy"}
    return {name for name in names if name in own or name.endswith(".pt2")}


def _write_items(
    folder: Path, dataset: Dataset, items: FeatureTable, corpus: Corpus, settings: IndexSettings
) -> dict[str, Any]:
    """Vectors, index, and the lists of items that may be served, are popular, are new.

    Returns:
        What the manifest says of the vectors.
    """
    live = corpus.rows
    with phase("embedding"):
        vectors = embed_all(folder, items, dataset.item_ids)
        priors = all_priors(folder, write_trends(folder, dataset), len(vectors))
    with phase("index"):
        of_live = vectors[live], priors[live]
        built, recall = build_index(live, *of_live, settings.kind, settings.recall)
        built.save(folder / "index.faiss")
    with phase("conditions"):
        write_conditions(folder, items, live, vectors, priors)
    if len(live) < corpus.items:
        write_similar(folder, items, live)
    popular = popular_items(dataset, live, settings.half_life_days)
    arrays: dict[str, npt.NDArray[Any]] = {
        "item_embeddings": vectors,
        "item_priors": priors,
        "live_items": live,
        "popular": popular[: settings.head],
        "fresh": fresh_items(dataset, live)[: settings.head],
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return {
        "dim": built.dim,
        "dtype": "float32",
        "normalised": True,
        "metric": "inner_product",
        "metrics": {"recall@100": recall, "indexed_items": built.size},
    }


def write_conditions(
    folder: Path, items: FeatureTable, live: Ints, vectors: Floats, priors: Floats
) -> None:
    """The items of each interest side by side (serve.partitions); nothing if none carries any."""
    places, interests = carried(items, live)
    if len(interests):
        owners = live[places]
        build_partitions(owners, interests, vectors, priors, CONDITION_RECALL).save(folder)


def write_similar(folder: Path, items: FeatureTable, live: Ints) -> None:
    """Another index over graph embeddings where the export's has items that are not served."""
    path = folder / SIMILAR_FILE
    if not path.is_file():
        return
    vectors = np.asarray(items.gather(live)[f"item.{GRAPH_COLUMN}"], np.float32)
    built, _ = build_index(live, vectors, np.zeros(len(live), np.float32), "auto", SIMILAR_RECALL)
    path.unlink()  # a second name of the export's file
    built.save(path)


def embed_all(folder: Path, items: FeatureTable, space: IdSpace) -> Floats:
    """Vectors of all rows by the exported item tower, f32[rows, D]; zero for what is no item.

    Items that are not served have one too: they are in histories.
    """
    tower = Program(folder / "programs" / "item_tower.onnx")
    table = np.load(folder / "tables" / "two_tower.item_id.npy", mmap_mode="r")
    rows = np.arange(space.first_row, space.rows)
    chunks = [rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK)]
    found = [embed_items(tower, gather_rows(table, chunk), items.gather(chunk)) for chunk in chunks]
    vectors = np.zeros((space.rows, found[0].shape[1]), np.float32)
    vectors[rows] = np.concatenate(found)
    return vectors


def write_trends(folder: Path, dataset: Dataset) -> Arrays | None:
    """How every row does as of the day after the log (serve.bundle); None without a clock."""
    trends, rows = Trends.of_all(dataset), np.arange(dataset.item_ids.rows)
    if trends is None:
        return None
    found = trends.before(np.array(trends.calendar.num_days + 1), rows)
    for name, array in found.items():
        np.save(folder / f"{name}.npy", array)
    return found


def write_tallies(folder: Path, log: SplitLog, half_life_days: float) -> None:
    """How every item and user had done by the end of the log (serve.bundle)."""
    standings, ids = Standings.at_last(log, WHOLE, half_life_days), log.dataset
    items, users = np.arange(ids.item_ids.rows), np.arange(ids.user_ids.rows)
    moment = np.array([standings.last_moment])
    np.save(folder / TALLIES_FILE, standings.of_items(moment.repeat(len(items)), items))
    of_users = standings.of_users(moment.repeat(len(users)), users)
    if of_users is not None:
        np.save(folder / USER_TALLIES_FILE, of_users)


def all_priors(folder: Path, trends: Arrays | None, rows: int) -> Floats:
    """What every row gains on the day after the log, f32[rows]; 0 without a clock."""
    program = folder / "programs" / "item_prior.onnx"
    if trends is None or not program.is_file():
        return np.zeros(rows, np.float32)
    return prior_of({"item_prior": Program(program)}, trends)


def write_histories(folder: Path, dataset: Dataset) -> None:
    """Lays all timelines end to end in the order of user rows (serve.bundle.open_histories)."""
    folder.mkdir()
    lengths = np.zeros(dataset.user_ids.rows, np.int64)
    for block in dataset.blocks:
        table = block.read(["user", "item"])
        lengths[table["user"].to_numpy()] = pc.list_value_length(table["item"]).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    np.save(folder / "offsets.npy", offsets)
    columns = {name: _column(folder, name, int(offsets[-1])) for name in HISTORY_COLUMNS}
    written = Events(offsets, **columns)
    for block in dataset.blocks:
        table = block.read(["user", *HISTORY_COLUMNS])
        written.fill(table["user"].to_numpy(), events_from(table))


def write_medoids(
    folder: Path, dataset: Dataset, items: FeatureTable, settings: PinnerSageSettings
) -> None:
    """Clusters the positives of each user, by user row (serve.medoids); O(n²) in those of a user.

    Nothing where items have no vectors.
    """
    vectors = unit_vectors(items, dataset.item_ids.rows)
    if vectors is None:
        return
    shape = dataset.user_ids.rows, settings.clusters
    columns: Any = [
        create_array(folder / name, dtype, shape)
        for name, dtype in zip(MEDOID_FILES, (np.int32, np.float32), strict=True)
    ]
    positive, calendar = dataset.vocabulary.codes("positive"), dataset.calendar
    for block in dataset.blocks:
        table = block.read(["user", *HISTORY_COLUMNS])
        events, users = events_from(table), table["user"].to_numpy()
        liked = events.chosen(np.isin(events.action, positive))
        now_ms = None
        if calendar is not None:
            now_ms = np.full(len(users), calendar.start_ms(calendar.num_days + 1))
        found = Interests.of(liked, vectors, now_ms, settings)
        columns[0][users], columns[1][users] = found.medoids, found.importance


def _column(folder: Path, name: str, size: int) -> Any:
    return create_array(folder / f"{name}.npy", HISTORY_COLUMNS[name], (size,))


def main(job: Job) -> dict[str, Any]:
    """Builds and publishes the bundle of the current export; the root remembers its corpus."""
    with job.stage("index"):
        bundle = index(job, current(job.root, "export"))
    keep(job.root, {name: tree for name, tree in job.given.items() if name == "corpus"})
    corpus = bundle.manifest.details["corpus"]
    return {"bundle": bundle.version, **bundle.manifest.metrics, "corpus": corpus}


if __name__ == "__main__":
    from ray_jobs.engine.job import run

    run("index", main, remember=True)
