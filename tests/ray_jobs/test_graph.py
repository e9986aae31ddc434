"""The graph's jobs on a small world: sample, train, embed, whatever the mode and however often."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import batching
from data.contract.artifact import Artifact, current, read
from data.contract.encode import Ints
from data.contract.schema import GRAPH_COLUMN
from data.contract.settings import UserError
from data.dataset import Dataset
from data.graph import edges
from data.graph.batches import GraphArrays, graph_arrays
from data.graph.example_rows import Examples
from data.graph.store import Graph
from data.timelines import events_from
from ray_jobs import embed as embedding
from ray_jobs import sample as sampling
from ray_jobs.embed import as_read_by, embed, open_graph_model
from ray_jobs.engine.inference import Retriever
from ray_jobs.engine.job import Job, start
from ray_jobs.sample import Cutoff, adjacency, log_of, neighborhoods, sampled
from ray_jobs.train import item_vectors, train, upstream
from ray_jobs.user_table import UserTable, embed_users

SMALL = (
    "graph.dim=16",
    "graph.hidden=32",
    "graph.walk.neighbors=8",
    "graph.walk.walks=20",
    "graph.batch_size=64",
    "graph.negatives.random=64",
    "graph.negatives.in_batch=64",
    "train.max_steps=6",
    "train.validate_every=3",
)


@pytest.fixture(scope="module")
def graph_words(shared_root: Callable[..., list[str]]) -> list[str]:
    """Words of a root that shares the prepared world, with room for graphs of its own."""
    return shared_root("graphs", *SMALL)


@pytest.fixture(scope="module")
def trained(ray_cluster: None, graph_words: list[str]) -> tuple[Job, Artifact]:
    """A job, and an encoder trained for others."""
    job = start(graph_words)
    return job, upstream(job, Dataset.open(job.root), "graph")


def cutoff_of(job: Job) -> Cutoff:
    return Cutoff.of_training(log_of(job, Dataset.open(job.root)).windows, alone=False)


def vectors_of(artifact: Artifact) -> Any:
    return np.load(artifact.path / "vectors.npy")


def test_a_graph_knows_the_edges_of_its_days_alone(graph_words: list[str]) -> None:
    job = start(graph_words)
    dataset = Dataset.open(job.root)
    cutoff = cutoff_of(job)
    assert dataset.calendar is not None
    assert cutoff.day is not None
    found = Graph.open(adjacency(job, dataset, cutoff).path)
    assert found.items.timestamp is not None
    assert found.items.timestamp.max() < dataset.calendar.start_ms(cutoff.day + 1)
    whole = Graph.open(
        adjacency(job, dataset, Cutoff.whole(dataset, log_of(job, dataset).windows)).path
    )
    earlier = np.asarray(whole.items.timestamp) < dataset.calendar.start_ms(cutoff.day + 1)
    assert found.num_edges == earlier.sum() < whole.num_edges
    rows = sum(edges.pq.read_metadata(f).num_rows for f in edges.board_files(dataset))
    assert whole.num_edges == rows


def test_both_modes_give_equal_records_and_equal_embeddings(
    trained: tuple[Job, Artifact], graph_words: list[str]
) -> None:
    job, graph = trained
    dataset = Dataset.open(job.root)
    nodes = np.arange(dataset.item_ids.rows + 3)
    found, embedded = [], []
    for mode in ("materialised", "on_the_fly"):
        words = [*graph_words, f"graph.sampling={mode}"]
        sampler = sampled(start(words), dataset, cutoff_of(job)).source.open()
        found.append(sampler.of(nodes, "item"))
        settings = graph.manifest.settings
        settings["graph"]["sampling"] = mode
        embedded.append(open_graph_model(job, dataset, graph, cutoff_of(job)).item_vectors)
    assert np.array_equal(found[0].neighbors, found[1].neighbors)
    assert np.array_equal(found[0].weights, found[1].weights)
    assert found[0].weights.any()
    assert np.array_equal(embedded[0], embedded[1])


def test_training_sees_the_same_in_both_modes(
    trained: tuple[Job, Artifact], graph_words: list[str]
) -> None:
    _, graph = trained
    other = train(start([*graph_words, "graph.sampling=on_the_fly"]), "graph", move_pointer=False)
    assert other.version != graph.version
    curves = [a.manifest.details["phases"]["choose"]["validations"] for a in (graph, other)]
    assert curves[0] == curves[1]


def test_no_batch_reads_more_items_than_an_encoder_tells(
    ray_cluster: None, graph_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def arrays(examples: Examples, pool: Ints) -> GraphArrays:
        found = graph_arrays(examples, pool)
        read.append(len(found.items))
        return found

    monkeypatch.setattr(batching, "graph_arrays", arrays)
    encoder = train(start([*graph_words, "seed=5"]), "graph", move_pointer=False)
    named = encoder.manifest.details["batch_items"]
    assert named == 64 * (2 + 1) * (1 + 8)
    assert 0 < max(read) <= named


def test_sampling_that_was_killed_goes_on_where_it_stopped(
    graph_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "SHARD_NODES", 64)
    monkeypatch.setattr("data.graph.neighborhoods.SHARD_NODES", 64)
    job = start([*graph_words, "graph.walk.walks=13"])
    dataset = Dataset.open(job.root)
    graph = adjacency(job, dataset, cutoff_of(job))
    real, written = sampling._sample_shard, []

    def dies_later(shards: Any, number: int) -> int:
        if number == 2:
            raise KeyboardInterrupt
        return real(shards, number)

    def counted(path: Path, first: int, records: Any) -> None:
        written.append(first)
        real_write(path, first, records)

    real_write = sampling.write_shard
    monkeypatch.setattr(sampling, "write_shard", counted)
    monkeypatch.setattr(sampling, "_sample_shard", dies_later)
    with pytest.raises(KeyboardInterrupt):
        neighborhoods(job, dataset, graph)
    assert not (job.root / "neighborhoods" / "CURRENT").exists()
    monkeypatch.setattr(sampling, "_sample_shard", real)
    resumed = neighborhoods(job, dataset, graph)
    assert sorted(written) == list(range(0, dataset.item_ids.rows, 64))
    assert written.count(0) == 1
    at_once = sampled(job, dataset, cutoff_of(job)).source.open()
    walked = sampled(
        start([*graph_words, "graph.walk.walks=13", "graph.sampling=on_the_fly"]),
        dataset,
        cutoff_of(job),
    ).source.open()
    nodes = np.arange(dataset.item_ids.rows)
    assert np.array_equal(at_once.of(nodes, "item").neighbors, walked.of(nodes, "item").neighbors)
    assert resumed.manifest.details["nodes"] == dataset.item_ids.rows


def test_every_item_is_embedded_those_of_later_days_too(trained: tuple[Job, Artifact]) -> None:
    job, graph = trained
    dataset = Dataset.open(job.root)
    made = embed(job, dataset, graph, cutoff_of(job))
    vectors = vectors_of(made).astype(np.float32)
    first = dataset.item_ids.first_row
    assert not vectors[:first].any()
    assert np.linalg.norm(vectors[first:], axis=1) == pytest.approx(1.0, abs=2e-3)
    assert made.manifest.dim == 16
    assert made.manifest.window == graph.manifest.window
    assert embed(job, dataset, graph, cutoff_of(job)).version == made.version


def test_tasks_embed_a_large_catalogue_alike_and_go_on_after_a_kill(
    trained: tuple[Job, Artifact], graph_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, graph = trained
    monkeypatch.setattr(embedding, "CHUNK_ITEMS", 100)
    job, cutoff = start([*graph_words, "prepare.workers=2"]), Cutoff((0,), 60)
    dataset = Dataset.open(job.root)
    real, embedded = embedding._embed_chunk, []

    def dies_later(chunks: Any, number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt
        real(chunks, number)
        embedded.append(chunks.pieces.found(chunks.name(number)))

    monkeypatch.setattr(embedding, "_embed_chunk", dies_later)
    with pytest.raises(KeyboardInterrupt):
        embed(job, dataset, graph, cutoff)
    before = [path.stat().st_mtime_ns for path in embedded]
    kept = []

    def assembled(chunks: Any, *rest: Any) -> None:
        kept.extend(path.stat().st_mtime_ns for path in embedded)
        joined(chunks, *rest)

    joined = embedding._assemble
    monkeypatch.setattr(embedding, "_assemble", assembled)
    monkeypatch.setattr(embedding, "_embed_chunk", real)
    monkeypatch.setattr(embedding, "SMALL_CATALOGUE", 0)
    found = vectors_of(embed(job, dataset, graph, cutoff))
    at_once = open_graph_model(job, dataset, graph, cutoff).item_vectors
    assert len(before) == 2
    assert kept == before
    assert found == pytest.approx(at_once, abs=2e-3)


def test_embeddings_are_a_column_that_models_read(trained: tuple[Job, Artifact]) -> None:
    job, graph = trained
    dataset = Dataset.open(job.root)
    vectors = item_vectors(job, dataset)
    read_with = dataset.with_vectors(vectors)
    rows = np.array([dataset.item_ids.first_row, dataset.item_ids.first_row + 5])
    found = read_with.items.gather(rows)[f"item.{GRAPH_COLUMN}"]
    assert np.array_equal(found, vectors_of(vectors)[rows].astype(np.float32))
    assert read_with.vocabulary.item_features[-1].name == GRAPH_COLUMN
    tower = train(job, "two_tower")
    assert {"kind": "item_embeddings", "version": vectors.version} in tower.manifest.parents
    windows = log_of(job, dataset).windows
    later = as_read_by(job, dataset, tower, Cutoff.before_test(windows))
    assert later.vectors is not None
    assert later.vectors.version != vectors.version
    assert later.vectors.manifest.details["graph"] == graph.version


def test_an_encoder_for_others_never_learns_from_their_days(trained: tuple[Job, Artifact]) -> None:
    job, graph = trained
    windows = log_of(job, Dataset.open(job.root)).windows
    assert windows is not None
    assert graph.manifest.window == list(windows.graph)
    assert windows.graph[1] < windows.two_tower[0]


def test_an_encoder_of_an_earlier_release_opens(trained: tuple[Job, Artifact]) -> None:
    job, graph = trained
    dataset = Dataset.open(job.root)
    found = open_graph_model(job, dataset, graph, cutoff_of(job)).item_vectors
    earlier = read(graph.path)
    del earlier.manifest.settings["encoder"]
    again = open_graph_model(job, dataset, earlier, cutoff_of(job)).item_vectors
    assert np.array_equal(found, again)


def test_an_encoder_of_interactions_alone_is_refused_where_boards_are(
    graph_words: list[str],
) -> None:
    with pytest.raises(UserError, match=r"set graph\.edges=users"):
        train(start([*graph_words, "graph.encoder=light_gcn"]), "graph")


def test_the_user_model_reads_them_too_where_it_is_told(
    trained: tuple[Job, Artifact], graph_words: list[str]
) -> None:
    words = ("user.graph_vectors=true", "user.dim=16", "user.sequence.max_length=20")
    job = start([*graph_words, *words])
    dataset = Dataset.open(job.root)
    model = train(job, "user", alone=True)
    windows = log_of(job, dataset).windows
    read_with = as_read_by(job, dataset, model, Cutoff.whole(dataset, windows))
    assert read_with.vectors is not None
    assert read_with.vectors.manifest.details["graph"] == trained[1].version
    table = UserTable.open(embed_users(job, read_with, model, None))
    block = dataset.blocks[0].read()
    users, events = block["user"].to_numpy(), events_from(block)
    with_events = events.lengths > 0
    expected = Retriever.open(model, read_with, None).user_vectors(events, users)
    assert table.vectors[users[with_events]] == pytest.approx(expected[with_events], abs=2e-3)


def test_windows_that_overlap_are_refused_unless_told(graph_words: list[str]) -> None:
    words = [*graph_words, "windows.graph=[1, 140]"]
    with pytest.raises(UserError, match=r"windows\.two_tower begins on day .* windows\.overlap"):
        train(start(words), "two_tower")
    item_vectors(start([*words, "windows.overlap=true"]), Dataset.open(start(words).root))


def test_the_encoder_stays_when_settings_do(trained: tuple[Job, Artifact]) -> None:
    job, graph = trained
    assert upstream(job, Dataset.open(job.root), "graph").version == graph.version
    assert current(job.root, "graph").version == graph.version


def test_embeddings_for_other_ids_are_refused(
    trained: tuple[Job, Artifact], tmp_path: Path
) -> None:
    job, graph = trained
    dataset = Dataset.open(job.root)
    made = embed(job, dataset, graph, cutoff_of(job))
    document = json.loads((made.path / "manifest.json").read_text())
    document["id_space"]["item"]["rows"] += 1
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="embed again"):
        dataset.with_vectors(read(tmp_path))
