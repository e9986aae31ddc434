"""Feeds that are not all of a kind."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.diversity import determinantal, spaced

kinds = st.lists(st.integers(0, 3), max_size=30)


@given(kinds, st.integers(0, 4), st.integers(1, 12))
def test_spacing_is_a_permutation_that_keeps_its_distance_where_it_can(
    values: list[int], window: int, places: int
) -> None:
    order = np.random.default_rng(len(values)).permutation(len(values))
    found = spaced(order, np.array(values, np.int64), window, places)
    assert sorted(found.tolist()) == sorted(order.tolist())
    placed = [values[at] for at in found.tolist()]
    reach = 4 * places
    for place in range(min(places, len(placed))):
        near = (
            {kind for kind in placed[max(place - window, 0) : place] if kind} if window else set()
        )
        if placed[place] in near:
            left = [values[at] for at in order[:reach].tolist() if at not in found[:place]]
            assert all(kind in near for kind in left)


def test_spacing_takes_the_best_that_will_do() -> None:
    values = np.array([1, 1, 1, 2, 2, 0])
    assert spaced(np.arange(6), values, 1, 6).tolist() == [0, 3, 1, 4, 2, 5]
    assert spaced(np.arange(6), values, 0, 6).tolist() == [0, 1, 2, 3, 4, 5]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def determinant(
    chosen: list[int], scores: np.ndarray, vectors: np.ndarray, strength: float
) -> float:
    quality = np.exp((scores - scores.max()) / scores.std() / (2 * strength))
    kernel = quality[:, None] * (vectors @ vectors.T) * quality
    return float(np.linalg.det(kernel[np.ix_(chosen, chosen)].astype(np.float64)))


@pytest.mark.parametrize("seed", range(5))
def test_each_place_adds_most_to_the_determinant(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, vectors = rng.normal(size=12).astype(np.float32), unit(rng.normal(size=(12, 6)))
    order = np.argsort(-scores)
    found = determinantal(order, scores, vectors, 1.0, 3).tolist()
    assert sorted(found) == list(range(12))
    for place in range(3):
        gains = {
            at: determinant([*found[:place], at], scores, vectors, 1.0)
            for at in range(12)
            if at not in found[:place]
        }
        assert max(gains, key=lambda at: gains[at]) == found[place]


def test_of_two_copies_the_better_comes_and_the_other_waits() -> None:
    vectors = unit(np.array([[1, 0.01, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    scores = np.array([1.0, 0.9, 0.2, 0.1], np.float32)
    assert determinantal(np.arange(4), scores, vectors, 1.0, 3).tolist() == [0, 2, 3, 1]


def test_a_low_strength_leaves_the_order_of_the_scores() -> None:
    rng = np.random.default_rng(0)
    scores, vectors = -np.arange(20, dtype=np.float32), unit(rng.normal(size=(20, 30)))
    found = determinantal(np.arange(20), scores, vectors, 0.01, 5)
    assert found.tolist() == list(range(20))


def spread(vectors: np.ndarray) -> float:
    return float(np.mean([a @ b for a, b in combinations(vectors, 2)]))


def test_a_higher_strength_spreads_the_places() -> None:
    rng = np.random.default_rng(1)
    vectors = unit(rng.normal(size=(40, 4)))
    scores = (vectors @ vectors[0]).astype(np.float32)
    order = np.argsort(-scores)
    means = [
        spread(vectors[determinantal(order, scores, vectors, strength, 5)[:5]])
        for strength in (0.05, 1.0, 20.0)
    ]
    assert means[0] > means[1] > means[2]


def test_one_candidate_or_none_stands_as_it_is() -> None:
    for count in (0, 1):
        order = np.arange(count)
        vectors = np.ones((count, 2), np.float32)
        assert determinantal(order, np.ones(count, np.float32), vectors, 1.0, 3).tolist() == [
            *range(count)
        ]
        assert spaced(order, order, 2, 3).tolist() == [*range(count)]
