import dataclasses

import numpy as np
import pytest
from hypothesis import given

from data import factorization
from data.factorization import MatrixFactorization
from data.queries import build_queries
from data.splits import TEST
from tests.data.rows import HIDE, NUM_ITEMS, SAVE, rows_of_a_log

# Two groups of users with six items each; every user lacks one item of the own group.
OWN = {u: range(1, 7) if u <= 4 else range(7, 13) for u in range(1, 9)}
LACKED = {u: 1 + (u - 1) % 4 + (0 if u <= 4 else 6) for u in OWN}
GROUPS = [(u, i, SAVE, 1, 0) for u, items in OWN.items() for i in items if i != LACKED[u]]
ASKED = [(u, i, SAVE, 170, 2) for u, i in LACKED.items()]


def test_a_user_finds_the_missing_item_of_the_own_group(log_of):
    log = log_of(GROUPS + ASKED)
    queries = build_queries(log, TEST, 20)
    scores = MatrixFactorization.fit(log, TEST).scores(queries)
    for user, line in zip(queries.users.tolist(), scores, strict=True):
        others = [item for item in range(1, 13) if item not in OWN[user]]
        assert line[LACKED[user]] > line[others].max()


def test_one_step_is_the_gradient_of_the_loss():
    x, y, z = (np.array([v], np.float32) for v in ([0.5, -1.0], [0.2, 0.4], [1.0, 0.3]))
    users, items = x.copy(), np.concatenate([y, z])
    known = (np.array([0, 1]), np.zeros(1, np.int32), np.zeros(1, np.int32))
    rate, decay = np.float32(0.1), np.float32(0.02)
    other = np.ones(1, np.int32)
    factorization._descend((users, items), known, np.zeros(1, np.int64), other, rate, decay)

    def loss(p):
        margin = p[0] @ (p[1] - p[2])
        return np.log1p(np.exp(-margin)) + decay / 2 * (p**2).sum()

    before = np.concatenate([x, y, z]).astype(np.float64)
    steps = 1e-5 * np.eye(6).reshape(6, 3, 2)
    slopes = np.array([(loss(before + s) - loss(before - s)) / 2e-5 for s in steps])
    after = np.concatenate([users, items])
    assert after == pytest.approx(before - rate * slopes.reshape(3, 2), abs=1e-6)


def test_an_item_of_the_user_is_never_a_negative(log_of):
    """Whoever likes all items gives nothing to learn from; without one of them, there is."""
    everything = [(1, item, SAVE, 1, 0) for item in range(1, NUM_ITEMS + 1)]
    one, many = (MatrixFactorization.fit(log_of(everything), TEST, epochs=n) for n in (1, 30))
    assert (one.items == many.items).all()
    assert (one.users == many.users).all()
    short = MatrixFactorization.fit(log_of(everything[:-1]), TEST, epochs=30)
    assert (short.items[NUM_ITEMS] != many.items[NUM_ITEMS]).any()
    assert (short.users[1] != many.users[1]).any()


@given(rows_of_a_log)
def test_rows_that_are_no_items_and_users_without_events_are_not_learnt(log_of, rows):
    log = log_of(rows, kind="column", order="none", blocks=2)
    found = MatrixFactorization.fit(log, TEST, epochs=2)
    untouched = MatrixFactorization.fit(log, TEST, epochs=0)
    assert (found.items[0] == untouched.items[0]).all()
    known = {user for user, _, action, _, part in rows if action == SAVE and part < TEST}
    assert set(found.users.any(axis=1).nonzero()[0].tolist()) == known
    assert np.isfinite(found.users).all()
    assert np.isfinite(found.items).all()


@given(rows_of_a_log)
def test_counts_are_the_users_of_an_item(log_of, rows):
    found = MatrixFactorization.fit(log_of(rows, kind="column", order="none"), TEST, epochs=0)
    pairs = {(u, i) for u, i, action, _, part in rows if action == SAVE and part < TEST}
    expected = [sum(item == row for _, item in pairs) for row in range(NUM_ITEMS + 1)]
    assert found.counts.tolist() == expected


def test_users_without_a_vector_get_what_is_popular(log_of):
    asked = [(9, 2, HIDE, 1, 0), (9, 1, SAVE, 170, 2)]
    log = log_of(GROUPS + ASKED + asked)
    found = MatrixFactorization.fit(log, TEST, epochs=3)
    queries = build_queries(log, TEST, 20)
    scores = found.scores(queries)
    assert scores[queries.users == 9].tolist() == [found.counts.tolist()]
    assert (scores[queries.users != 9] != found.counts).any(axis=1).all()


def test_the_seed_decides_and_later_events_do_not(log_of):
    log = log_of(GROUPS)
    first, again, later = (
        MatrixFactorization.fit(x, TEST, epochs=3) for x in (log, log, log_of(GROUPS + ASKED))
    )
    assert (first.items == again.items).all()
    assert (first.users == later.users).all()
    assert (first.items == later.items).all()
    other = MatrixFactorization.fit(dataclasses.replace(log, seed=1), TEST, epochs=3)
    assert (first.items != other.items).any()
