"""Clusters are those of Ward's method, medoids lie in the middle, importance fades."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from data.contract.encode import Events
from data.contract.schema import DAY_MS
from data.pinnersage import Interests, PinnerSageSettings, _squared, cut, ward


def points_of(count: int, seed: int, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width))


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one[:, None] == one, other[:, None] == other)


@given(st.integers(2, 40), st.integers(0, 99), st.integers(1, 8))
@settings(max_examples=60)
def test_clusters_are_those_of_the_reference(count: int, seed: int, clusters: int) -> None:
    points = points_of(count, seed)
    merges = ward(_squared(points))
    reference = linkage(points, "ward")
    assert np.sort(merges[:, 2]) == pytest.approx(reference[:, 2] ** 2)
    wanted = fcluster(reference, clusters, "maxclust")
    assert same_partition(cut(merges, clusters, 0.0), wanted)


@given(st.integers(2, 30), st.integers(0, 99), st.floats(0.5, 4))
@settings(max_examples=40)
def test_what_lies_within_a_distance_is_one(count: int, seed: int, distance: float) -> None:
    points = points_of(count, seed)
    wanted = fcluster(linkage(points, "ward"), distance, "distance")
    found = cut(ward(_squared(points)), count, distance**2)
    assert same_partition(found, wanted)


def past(items: list[list[int]], days: list[list[float]]) -> Events:
    lengths = [len(of_user) for of_user in items]
    ones = np.ones(sum(lengths), np.int64)
    timestamp = (np.concatenate(days) * DAY_MS).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Events(
        offsets, np.concatenate(items).astype(np.int64), ones, ones, timestamp, ones.astype("f4")
    )


def test_medoids_stand_for_the_clusters_and_the_recent_ones_come_first() -> None:
    # Items 1-3 lie around 2, items 4-5 apart from them; row 0 and row 6 are unknown.
    angles = np.array([0, 0.0, 0.1, 0.2, 2.0, 2.1, 0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    vectors[[0, 6]] = 0
    events = past([[1, 2, 3, 4, 5, 6], [], [4]], [[0, 0, 0, 99, 99, 99], [], [50]])
    now = np.full(3, 100 * DAY_MS)
    rules = PinnerSageSettings(clusters=2, decay=0.05, days=365)
    found = Interests.of(events, vectors, now, rules)
    assert found.medoids[0].tolist() in ([4, 2], [5, 2])
    assert found.importance[0] == pytest.approx(
        [2 * np.exp(-0.05), 3 * np.exp(-0.05 * 100)], rel=1e-5
    )
    assert found.medoids[1].tolist() == [0, 0]
    assert found.medoids[2].tolist() == [4, 0]


def test_only_the_newest_and_the_recent_events_are_read() -> None:
    vectors = np.eye(5, dtype=np.float32)
    vectors[0] = 0
    events, now = past([[1, 2, 3, 4]], [[0, 95, 98, 99]]), np.array([100 * DAY_MS])
    recent = Interests.of(events, vectors, now, PinnerSageSettings(clusters=4))
    assert set(recent.medoids[0].tolist()) == {0, 2, 3, 4}
    newest = Interests.of(events, vectors, now, PinnerSageSettings(clusters=4, max_events=2))
    assert set(newest.medoids[0].tolist()) == {0, 3, 4}
    timeless = Interests.of(events, vectors, None, PinnerSageSettings(clusters=4))
    assert timeless.importance[0].tolist() == [1, 1, 1, 1]
