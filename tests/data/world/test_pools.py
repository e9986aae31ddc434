import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.world.policy import rows_by_topic
from data.world.pools import (
    FOREIGN_PENALTY,
    PairSet,
    PoolItems,
    PoolUsers,
    build_pools,
    draw_from_pools,
    pool_propensities,
)

PAIRS = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)), max_size=60)


@given(st.lists(PAIRS, max_size=4), PAIRS)
def test_a_pair_set_agrees_with_a_python_set(added: list[list[tuple[int, int]]], asked) -> None:
    pairs, expected = PairSet(), set()
    for batch in added:
        rows = np.array(batch, np.int32).reshape(-1, 2)
        pairs.add(rows[:, 0], rows[:, 1])
        expected.update(batch)
    asked = asked + sorted(expected)
    rows = np.array(asked, np.int32).reshape(-1, 2)
    assert pairs.contains(rows[:, 0], rows[:, 1]).tolist() == [pair in expected for pair in asked]
    assert len(pairs) == len(expected)


def test_a_pair_set_outgrows_its_first_table() -> None:
    pairs, users = PairSet(), np.arange(100_000, dtype=np.int32)
    for part in np.array_split(users, 7):
        pairs.add(part, part // 3)
    assert len(pairs) == len(users)
    assert pairs.contains(users, users // 3).all()
    assert not pairs.contains(users, users // 3 + 1).any()


def catalogue(rng: np.random.Generator) -> PoolItems:
    topic = rng.integers(5, size=200).astype(np.int32)
    by_topic, starts = rows_by_topic(topic, 5)
    return PoolItems(
        vector=rng.standard_normal((200, 8), dtype=np.float32),
        bias=rng.standard_normal(200, dtype=np.float32),
        language=rng.integers(2, size=200).astype(np.int32),
        by_topic=by_topic,
        starts=starts,
        neighbours=np.array([[t, (t + 1) % 5, (t + 2) % 5] for t in range(5)], np.int32),
    )


def test_pools_hold_the_best_items_of_the_searched_topics() -> None:
    rng = np.random.default_rng(0)
    items = catalogue(rng)
    users = PoolUsers(
        interests=rng.standard_normal((7, 2, 8), dtype=np.float32),
        log_weights=np.log(np.full((7, 2), 0.5, np.float32)),
        topics=rng.integers(5, size=(7, 2)).astype(np.int32),
        language=rng.integers(2, size=7).astype(np.int32),
    )
    pools = build_pools(users, items, 20)
    topic = np.repeat(np.arange(5), np.diff(items.starts))[np.argsort(items.by_topic)]
    for user in range(7):
        scores = users.interests[user] @ items.vector.T + users.log_weights[user][:, None]
        searched = [np.isin(topic, items.neighbours[t]) for t in users.topics[user]]
        best = np.where(searched, scores, -np.inf).max(axis=0) + items.bias
        best -= FOREIGN_PENALTY * (items.language != users.language[user])
        expected = np.argsort(-best)[:20]
        np.testing.assert_array_equal(pools.items[user], expected)
        softmax = np.exp(best[expected] - best[expected].max())
        np.testing.assert_allclose(pools.probabilities[user], softmax / softmax.sum(), rtol=1e-4)


def test_interests_that_a_user_does_not_have_are_not_searched() -> None:
    rng = np.random.default_rng(1)
    items = catalogue(rng)._replace(neighbours=np.arange(5, dtype=np.int32)[:, None])
    users = PoolUsers(
        interests=rng.standard_normal((1, 2, 8), dtype=np.float32),
        log_weights=np.log(np.array([[1.0, 1e-9]], np.float32)),
        topics=np.array([[2, 4]], np.int32),
        language=np.zeros(1, np.int32),
    )
    pools = build_pools(users, items, 200)
    in_topic = items.by_topic[items.starts[2] : items.starts[3]]
    found = pools.items[0][pools.items[0] >= 0]
    assert set(found.tolist()) == set(in_topic.tolist())
    assert (pools.probabilities[0, len(found) :] == 0).all()


def test_a_user_without_any_candidate_gets_an_empty_pool() -> None:
    rng = np.random.default_rng(2)
    items = catalogue(rng)
    users = PoolUsers(
        interests=np.zeros((1, 1, 8), np.float32),
        log_weights=np.full((1, 1), -30.0, np.float32),
        topics=np.zeros((1, 1), np.int32),
        language=np.zeros(1, np.int32),
    )
    pools = build_pools(users, items, 10)
    assert (pools.items == -1).all()
    drawn = draw_from_pools(pools.items, pools.probabilities, np.array([0]), np.array([[0.3]]))
    assert drawn.tolist() == [[-1]]


@given(st.floats(0, 1, exclude_max=True))
def test_a_draw_takes_the_item_whose_share_covers_the_number(uniform: float) -> None:
    items = np.array([[7, 3, 5]], np.int32)
    shares = np.array([[0.5, 0.25, 0.25]], np.float32)
    drawn = draw_from_pools(items, shares, np.array([0]), np.array([[uniform]]))
    assert drawn[0, 0] == (7 if uniform < 0.5 else 3 if uniform < 0.75 else 5)


def test_propensities_are_the_shares_of_the_pool_and_none_outside() -> None:
    items, shares = np.array([[7, 3, -1]], np.int32), np.array([[0.75, 0.25, 0]], np.float32)
    found = pool_propensities(items, shares, np.zeros(3, int), np.array([3, 7, 4]))
    assert found.tolist() == pytest.approx([0.25, 0.75, 0.0])
