import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.baselines import ItemNeighbors, Popularity
from data.queries import build_queries
from data.splits import TEST, VALID
from tests.data.rows import HIDE, NUM_ITEMS, NUM_USERS, SAVE, rows_of_a_log


def test_popularity_halves_with_age_and_reads_nothing_of_the_part(log_of):
    rows = [(1, 1, SAVE, 166, 0), (1, 2, SAVE, 156, 0), (2, 3, SAVE, 167, 2), (2, 4, HIDE, 166, 0)]
    log = log_of(rows)
    counts = Popularity.fit(log, TEST, half_life_days=10).counts
    assert counts[1] / counts[2] == pytest.approx(2)
    assert counts[3] == counts[4] == 0
    assert not Popularity.fit(log, VALID, half_life_days=10).counts[1:3:2].any()


def test_popularity_of_a_log_without_a_clock_counts(log_of):
    rows = [(u, 1, SAVE, d, 0) for u in (1, 2) for d in (1, 2, 3)] + [(1, 2, SAVE, 4, 0)]
    counts = Popularity.fit(log_of(rows, "leave_one_out", "position"), TEST, 1).counts
    assert counts[1:3].tolist() == [5, 0]


@given(rows_of_a_log, st.integers(1, 5))
def test_neighbors_equal_the_dense_cosine(log_of, rows, kept):
    log = log_of(rows, kind="column", order="none", blocks=2)
    found = ItemNeighbors.fit(log, TEST, neighbors=kept).similarity.toarray()
    sets = np.zeros((NUM_USERS + 1, NUM_ITEMS + 1))
    for user, item, action, _, part in rows:
        if action == SAVE and part < TEST:
            sets[user, item] = 1
    norms = np.sqrt(np.maximum(sets.sum(axis=0), 1))
    cosine = sets.T @ sets / norms / norms[:, None]
    np.fill_diagonal(cosine, 0)
    lines = np.sort(cosine, axis=1)[:, -kept:]
    assert np.sort(found, axis=1)[:, -kept:] == pytest.approx(lines, abs=1e-6)
    assert ((np.abs(found - cosine) < 1e-6) | (found == 0)).all()


def test_neighbor_scores_sum_over_the_positive_history(log_of):
    rows = [(u, i, SAVE, 1, 0) for u, items in {1: (1, 2), 2: (1, 3)}.items() for i in items]
    asked = [(3, 1, SAVE, 1, 0), (3, 2, SAVE, 2, 0), (3, 3, HIDE, 3, 0), (3, 5, SAVE, 170, 2)]
    log = log_of(rows + asked)
    neighbors = ItemNeighbors.fit(log, TEST)
    scores = neighbors.scores(build_queries(log, TEST, 5))
    dense = neighbors.similarity.toarray()
    near = dense[1] + dense[2]
    assert scores[0, near > 0] == pytest.approx(near[near > 0])
    assert (scores[0, near == 0] < 0).all()


def test_users_without_a_history_get_what_is_popular(log_of):
    rows = [
        (u, i, SAVE, 1, 0) for u, items in {1: (1, 2), 2: (2,), 3: (2, 1)}.items() for i in items
    ]
    log = log_of([*rows, (4, 5, SAVE, 170, 2)])
    scores = ItemNeighbors.fit(log, TEST).scores(build_queries(log, TEST, 5))[0]
    assert scores.argsort()[::-1][:2].tolist() == [2, 1]


def test_days_after_the_reported_ones_are_known_to_nobody(log_of):
    log = log_of([(1, 1, SAVE, 180, 0), (2, 2, SAVE, 179, 0), (2, 3, SAVE, 160, 0)])
    windows = dataclasses.replace(log.windows, test=(167, 179))
    late = dataclasses.replace(log, windows=windows)
    assert Popularity.fit(late, TEST, half_life_days=10).counts.nonzero()[0].tolist() == [3]
