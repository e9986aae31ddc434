"""Lists of near vectors, and how many of them are visited."""

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.lists import centroids_of, fewest, filled, left, nearest, surely


def unit_vectors(count: int, dim: int) -> np.ndarray:
    vectors = np.random.default_rng(count).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(st.integers(1, 5000), st.integers(1, 6000))
def test_the_fewest_that_are_enough_are_found_within_a_sixteenth(limit: int, needed: int) -> None:
    found = fewest(limit, lambda visits: visits >= needed)
    if needed > limit:
        assert found == limit
    else:
        assert 0 <= found - needed <= max(1, found / 16)


@given(st.lists(st.integers(0, 50)), st.sets(st.integers(0, 50)))
def test_what_is_left_is_not_excluded(rows: list[int], exclude: set[int]) -> None:
    kept = left(np.array(rows, np.int64), np.array(sorted(exclude), np.int64))
    assert kept.tolist() == [row not in exclude for row in rows]


@pytest.mark.parametrize("count", [1, 20, 600])
def test_centroids_are_as_many_as_asked_for_and_near(count: int) -> None:
    vectors = unit_vectors(6000, 8)
    found = centroids_of(vectors, count)
    assert abs(len(found) - count) <= count / 20
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    to_nearest = (vectors * found[nearest(vectors, found)]).sum(1).mean()
    at_once = faiss.Kmeans(8, count, niter=8, spherical=True, seed=0)
    at_once.train(vectors)
    best = (vectors @ at_once.centroids.T).max(1).mean()
    assert to_nearest >= best - 0.02


def test_the_same_vectors_have_the_same_centroids() -> None:
    vectors = unit_vectors(3000, 8)
    np.testing.assert_array_equal(centroids_of(vectors, 300), centroids_of(vectors, 300))


def test_columns_are_filled_up_with_zeros() -> None:
    vectors, priors = unit_vectors(5, 20), np.arange(5, dtype=np.float32)
    columns = filled(vectors, priors)
    assert columns.shape == (5, 32)
    np.testing.assert_array_equal(columns[:, :20], vectors)
    np.testing.assert_array_equal(columns[:, 20], priors)
    assert not columns[:, 21:].any()


def test_a_recall_is_sure_by_two_standard_errors() -> None:
    half = np.array([0.9, 1.0] * 50)
    assert surely(half, 0.939)
    assert not surely(half, 0.941)
    assert surely(np.ones(3), 1.0)
