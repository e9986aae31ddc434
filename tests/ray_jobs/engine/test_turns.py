import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.contract.encode import Events
from data.queries import Queries
from data.ranking import top
from ray_jobs.engine.turns import scores_in_turns
from serve.candidates import in_turns, shares_of_list

DIM, ITEMS, SLOTS = 4, 30, 3


def queries(seen: list[list[int]]) -> Queries:
    lengths = np.array([len(one) for one in seen])
    items = np.array([item for one in seen for item in one], np.int64)
    columns = {name: np.zeros(len(items), np.int64) for name in ("action", "surface", "timestamp")}
    events = Events(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item=items,
        duration_s=np.zeros(len(items), np.float32),
        **columns,
    )
    ones = np.ones(len(seen), np.int64)
    return Queries(np.arange(len(seen)), events, ones, ones, None)


@given(st.integers(0, 2**31), st.integers(1, 4))
@settings(deadline=None)
def test_the_order_is_that_in_which_serving_merges(seed: int, users: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(users, 1 + SLOTS, DIM)).astype(np.float32)
    items = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
    importance = rng.random((users, SLOTS)).astype(np.float32) * (rng.random((users, SLOTS)) < 0.7)
    importance /= np.maximum(importance.sum(1, keepdims=True), 1e-9)
    shares = shares_of_list(importance)
    priors = rng.normal(size=(users, ITEMS)).astype(np.float32)
    seen = [rng.choice(ITEMS, 3, replace=False).tolist() for _ in range(users)]
    scores = scores_in_turns(vectors, shares, items, priors, queries(seen))
    for user in range(users):
        allowed = np.setdiff1d(np.arange(ITEMS), seen[user])
        there = np.flatnonzero(shares[user])
        each = (vectors[user][there] @ items.T + priors[user])[:, allowed]
        lists = [allowed[np.argsort(-line, kind="stable")] for line in each]
        expected = in_turns(lists, shares[user][there])
        kept = np.where(np.isin(np.arange(ITEMS), allowed), scores[user], -np.inf)
        got = top(kept[None].astype(np.float32), len(allowed))[0]
        turn = {row: float(kept[row]) for row in got.tolist()}
        assert [turn[row] for row in expected.tolist()] == pytest.approx(
            sorted(turn.values(), reverse=True)
        )


def test_of_users_without_interests_the_one_vector_ranks() -> None:
    rng = np.random.default_rng(0)
    vectors, items = rng.normal(size=(1, 1, DIM)), rng.normal(size=(ITEMS, DIM))
    priors = np.zeros((1, ITEMS), np.float32)
    shares = np.ones((1, 1), np.float32)
    found = scores_in_turns(
        vectors.astype(np.float32), shares, items.astype(np.float32), priors, queries([[]])
    )
    expected = np.argsort(-(vectors[0, 0] @ items.T), kind="stable")
    assert top(found, ITEMS)[0].tolist() == expected.tolist()
