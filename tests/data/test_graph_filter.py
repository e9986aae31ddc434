import numpy as np
import pytest
from hypothesis import given

from data.contract.settings import UserError
from data.graph_filter import ALPHA, GraphFilter
from data.queries import build_queries
from data.splits import TEST
from tests.data.rows import HIDE, NUM_ITEMS, NUM_USERS, SAVE, rows_of_a_log

ROWS = NUM_ITEMS + 1


def dense(rows, vectors):
    """R̃ᵀ R̃ and D_I^-1/2 V Vᵀ D_I^1/2 of what precedes the reported part, by dense algebra."""
    known = np.zeros((NUM_USERS + 1, ROWS))
    for user, item, action, _, part in rows:
        if action == SAVE and part < TEST:
            known[user, item] = 1
    users, items = (np.maximum(known.sum(axis=axis), 1) for axis in (1, 0))
    normalised = known / np.sqrt(users)[:, None] / np.sqrt(items)
    _, _, right = np.linalg.svd(normalised)
    low = right[:vectors].T
    return normalised.T @ normalised, (low @ low.T) * np.sqrt(items) / np.sqrt(items)[:, None]


def past_of(rows, queries):
    """0/1 lines of the positive items of each query's user before the reported part."""
    past = np.zeros((len(queries), ROWS))
    for user, item, action, _, part in rows:
        at = np.flatnonzero(queries.users == user)
        if action == SAVE and part < TEST:
            past[at, item] = 1
    return past


# Three separate groups of items: the singular values 1, 1, 1 stand apart from the others.
GROUPS = {1: (1, 2), 2: (1, 2, 3), 3: (4, 5), 4: (5, 6), 5: (7, 8), 6: (8, 9), 7: (7, 9)}


@pytest.fixture
def grouped(log_of):
    rows = [(u, i, SAVE, 1, 0) for u, items in GROUPS.items() for i in items]
    asked = [(u, 12, SAVE, 1, 2) for u in GROUPS]
    return rows + asked, log_of(rows + asked, kind="column", order="none")


@pytest.mark.parametrize("vectors", [3, 6])
def test_scores_equal_the_dense_formula(grouped, vectors, monkeypatch):
    monkeypatch.setattr("data.graph_filter.RANK", vectors)
    rows, log = grouped
    queries = build_queries(log, TEST, 20)
    two_hops, smooth = dense(rows, vectors)
    expected = past_of(rows, queries) @ (two_hops + ALPHA * smooth)
    assert GraphFilter.fit(log, TEST).scores(queries) == pytest.approx(expected, abs=1e-5)


@given(rows_of_a_log)
def test_with_all_vectors_and_any_log_scores_equal_the_dense_formula(log_of, rows):
    log = log_of(rows, kind="column", order="none", blocks=2)
    queries = build_queries(log, TEST, 20)
    found = GraphFilter.fit(log, TEST)
    two_hops, _ = dense(rows, 0)
    root = np.sqrt(found.degree)
    smooth = (found.low @ found.low.T) * root / root[:, None]
    expected = past_of(rows, queries) @ (two_hops + ALPHA * smooth)
    assert found.scores(queries) == pytest.approx(expected, abs=1e-5)


def test_what_was_done_twice_counts_once(log_of):
    once = [(1, 1, SAVE, 1, 0), (1, 2, SAVE, 2, 0), (2, 2, SAVE, 1, 0), (2, 3, SAVE, 2, 0)]
    asked = [(1, 5, SAVE, 170, 2)]
    logs = [log_of(rows) for rows in (once + asked, [*once, (1, 1, SAVE, 3, 0), *asked])]
    first, second = (GraphFilter.fit(x, TEST).scores(build_queries(x, TEST, 5)) for x in logs)
    assert first.any()
    assert second == pytest.approx(first)


def test_two_hops_reach_what_similar_users_have(grouped):
    _, log = grouped
    queries = build_queries(log, TEST, 20)
    scores = GraphFilter.fit(log, TEST).scores(queries)
    first = scores[queries.users.tolist().index(1)]
    assert first[3] > 0.1
    assert np.abs(first[4:10]).max() < 1e-5, "another group of items"


def test_a_user_who_came_later_is_served_from_the_history(log_of):
    """The history counts, not the user's row in what was fitted: a hide says nothing."""
    rows = [(1, 1, SAVE, 1, 0), (1, 2, SAVE, 2, 0), (2, 1, SAVE, 1, 0), (2, 2, SAVE, 2, 0)]
    asked = [(3, 4, HIDE, 1, 0), (3, 5, SAVE, 170, 2), (2, 5, SAVE, 170, 2)]
    log = log_of(rows + asked)
    known, unknown = GraphFilter.fit(log, TEST).scores(build_queries(log, TEST, 5))
    assert known[1:3].min() > 0
    assert not unknown.any()


def test_fitting_twice_gives_the_same_bits(grouped):
    _, log = grouped
    queries = build_queries(log, TEST, 20)
    first, second = (GraphFilter.fit(log, TEST).scores(queries) for _ in range(2))
    assert (first == second).all()


def test_a_log_with_nothing_before_the_part_scores_nothing(log_of):
    log = log_of([(1, 1, SAVE, 170, 2), (2, 2, SAVE, 170, 2)])
    found = GraphFilter.fit(log, TEST)
    assert found.low.shape == (ROWS, 0)
    assert not found.scores(build_queries(log, TEST, 5)).any()


def test_too_many_items_are_refused_with_a_way_out(grouped, monkeypatch):
    monkeypatch.setattr("data.graph_filter.MOST_ROWS", NUM_ITEMS)
    with pytest.raises(UserError, match=r"13 item rows.*12; leave it out of eval\.baselines"):
        GraphFilter.fit(grouped[1], TEST)
