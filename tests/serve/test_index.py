from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.index import QUERIES, build_index

NONE = np.array([], np.int64)


def unit_vectors(count: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def no_priors(vectors: np.ndarray) -> np.ndarray:
    return np.zeros(len(vectors), np.float32)


@given(st.integers(1, 60), st.integers(1, 80), st.sampled_from([0.0, 1.0, 2.5]), st.data())
def test_a_search_is_the_brute_force_answer_without_the_excluded(
    count: int, k: int, weight: float, data: st.DataObject
) -> None:
    vectors, priors = unit_vectors(count, 4, count), unit_vectors(count, 1, count)[:, 0] / 3
    rows = np.arange(count) * 3 + 7
    excluded = np.sort(data.draw(st.lists(st.sampled_from(rows.tolist()), unique=True)))
    exclude = np.array(excluded, np.int64)
    index, _ = build_index(rows, vectors, priors, "flat", 0.9)
    found, scores = index.search(vectors[0], k, exclude, weight)
    exact = vectors @ vectors[0] + weight * priors
    allowed = ~np.isin(rows, exclude)
    expected = np.sort(exact[allowed])[::-1][:k]
    assert len(found) == min(k, allowed.sum())
    assert not np.isin(found, exclude).any()
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("k", [10, 300])
def test_inverted_lists_fill_the_answer_though_the_nearest_are_excluded(k: int) -> None:
    vectors = unit_vectors(4000, 8)
    rows = np.arange(4000)
    index, _ = build_index(rows, vectors, no_priors(vectors), "ivf", 0.9)
    nearest = np.argsort(-(vectors @ vectors[5]))[:1500]
    found, scores = index.search(vectors[5], k, np.sort(nearest))
    assert len(found) == k
    assert not np.isin(found, nearest).any()
    assert (np.diff(scores) <= 0).all()


def test_inverted_lists_reach_the_recall_asked_for(tmp_path) -> None:
    vectors = unit_vectors(3000, 16)
    rows = np.arange(3000) + 5
    index, reached = build_index(rows, vectors, no_priors(vectors), "ivf", 0.97)
    index.save(tmp_path / "index.faiss")
    read = type(index).open(tmp_path / "index.faiss")
    exact, _ = build_index(rows, vectors, no_priors(vectors), "flat", 0.97)
    at = np.linspace(0, 2999, QUERIES).astype(np.int64)
    queries = np.column_stack([vectors, np.ones(3000, np.float32)])[at]
    wanted, found = (one.faiss_index.search(queries, 100)[1] for one in (exact, read))
    shares = [np.isin(w, f).mean() for w, f in zip(wanted, found, strict=True)]
    assert reached == pytest.approx(np.mean(shares), abs=1e-6)
    assert reached >= 0.97
    assert (read.size, read.dim) == (3000, 16)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_an_index_is_read_in_its_file_and_answers_as_before(tmp_path: Path, kind: Any) -> None:
    vectors, path = unit_vectors(4000, 16), tmp_path / "index.faiss"
    built, _ = build_index(np.arange(4000), vectors, no_priors(vectors), kind, 0.9)
    built.save(path)
    read = type(built).open(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    for query in vectors[:50]:
        before, after = (one.search(query, 20, np.array([7])) for one in (built, read))
        assert before[0].tolist() == after[0].tolist()
        assert before[1].tolist() == after[1].tolist()
    path.unlink()  # a bundle that is cleaned away while it is served
    assert len(read.search(vectors[9], 20, np.array([7]))[0]) == 20


def test_no_more_lists_are_visited_than_the_recall_asks_for() -> None:
    vectors = unit_vectors(8000, 16)
    rows = np.arange(8000)
    visits = []
    for recall in (0.5, 0.8, 0.99):
        index, reached = build_index(rows, vectors, no_priors(vectors), "ivf", recall)
        assert recall <= reached
        visits.append(index.inverted.nprobe)
    assert visits == sorted(set(visits))
    assert visits[-1] < index.inverted.nlist


@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_inverted_lists_score_to_a_thousandth(weight: float) -> None:
    vectors = unit_vectors(3000, 20)
    priors = np.random.default_rng(1).random(3000).astype(np.float32)
    index, _ = build_index(np.arange(3000), vectors, priors, "ivf", 0.9)
    rows, scores = index.search(vectors[3], 50, np.zeros(0, np.int64), weight)
    exact = vectors[rows] @ vectors[3] + weight * priors[rows]
    np.testing.assert_allclose(scores, exact, atol=1e-3)


def test_all_items_are_found_when_all_are_asked_for() -> None:
    vectors = unit_vectors(3000, 8)
    index, _ = build_index(np.arange(3000), vectors, no_priors(vectors), "ivf", 0.5)
    exclude = np.arange(0, 3000, 2)
    rows, _ = index.search(vectors[0], 3000, exclude)
    assert sorted(rows.tolist()) == list(range(1, 3000, 2))


def test_small_catalogues_are_searched_exactly() -> None:
    index, recall = build_index(np.arange(100), unit_vectors(100, 4), np.zeros(100), "auto", 0.5)
    assert recall == 1.0
    assert type(index.faiss_index).__name__ == "IndexIDMap"


def test_an_empty_index_finds_nothing() -> None:
    empty = np.zeros((0, 4), np.float32)
    index, _ = build_index(np.zeros(0, np.int64), empty, no_priors(empty), "flat", 0.9)
    rows, scores = index.search(np.ones(4, np.float32), 5, np.zeros(0, np.int64))
    assert len(rows) == len(scores) == 0


def test_what_is_asked_of_all_vectors_at_once_is_asked_of_the_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors = unit_vectors(20_000, 8)  # of so many lists that some are found in two stages
    alone, recall = build_index(np.arange(20_000), vectors, no_priors(vectors), "ivf", 0.9)
    copied: list[str] = []

    def copy(index: Any, **_: Any) -> Any:
        copied.append(type(index).__name__)
        return index

    means, asked = faiss.Kmeans, []

    def kmeans(*words: Any, **named: Any) -> Any:
        asked.append(named.pop("gpu"))
        return means(*words, **named)

    monkeypatch.setattr(faiss, "Kmeans", kmeans)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", copy)
    built, found = build_index(np.arange(20_000), vectors, no_priors(vectors), "ivf", 0.9)
    assert found == recall
    assert set(asked) == {1}
    assert {"IndexFlatIP", "IndexIDMap"} == set(copied)  # owners of points, exact answers
    assert type(built.faiss_index) is type(alone.faiss_index)


@pytest.mark.gpu
def test_an_index_built_on_a_gpu_reaches_the_recall_and_is_read_on_a_cpu(tmp_path: Path) -> None:
    assert faiss.get_num_gpus(), "install the build for GPUs: make setup GPU=1"
    vectors = unit_vectors(100_000, 32)
    index, reached = build_index(np.arange(100_000), vectors, no_priors(vectors), "ivf", 0.9)
    index.save(tmp_path / "index.faiss")
    found, _ = type(index).open(tmp_path / "index.faiss").search(vectors[5], 10, NONE)
    assert reached >= 0.9
    assert found[0] == 5
