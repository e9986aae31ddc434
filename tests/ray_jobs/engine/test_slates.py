import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.settings import UserError
from data.requests import Requests
from ray_jobs.engine.slates import Slates, ratio_interval


def requests_of(lengths):
    """Requests of so many items each, by users 7, 8 and so on."""
    count = len(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items, zeros = np.arange(offsets[-1]), np.zeros(count, np.int64)
    labels = np.zeros((len(items), 1), np.float32)
    return Requests(7 + np.arange(count), zeros, zeros, offsets, items, items, labels, zeros, zeros)


def slates_of(lengths, worth, above=None, top=2):
    above = np.zeros(len(worth), bool) if above is None else above
    return Slates.of(requests_of(lengths), worth, above, top)


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(0, 2**31),
    st.lists(st.floats(0, 3), min_size=2, max_size=2),
)
def test_the_best_items_are_those_of_a_loop_over_requests(lengths, top, seed, weights):
    rng = np.random.default_rng(seed)
    worth = rng.normal(size=(sum(lengths), 3))
    above = rng.random(len(worth)) < 0.3
    if max(lengths) <= top:
        with pytest.raises(UserError, match=f"top={top}; lower top"):
            slates_of(lengths, worth, above, top)
        return
    found = slates_of(lengths, worth, above, top).ranked_by(np.array(weights))
    ends = np.cumsum(lengths)
    for request, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        own, gated = worth[end - length : end], above[end - length : end]
        order = np.lexsort((-(own[:, 0] + own[:, 1:] @ weights), gated))[:top]
        np.testing.assert_allclose(found[request], own[order].mean(axis=0), atol=1e-7)


def test_a_party_gets_most_where_it_alone_decides():
    worth = np.array([[5.0, 0.0], [4.0, 0.1], [3.0, 0.0], [2.0, 0.2]])
    slates = slates_of([4], worth)
    assert slates.ranked_by(np.zeros(1)).tolist() == [[4.5, 0.05]]
    assert slates.at_own_best(0).tolist() == [[3.0, pytest.approx(0.15)]]
    assert slates_of([4], worth, top=3).at_own_best(0)[0, 0] == pytest.approx(11 / 3), "ties: user"


@given(st.integers(0, 2**31), st.sampled_from([1e-6, 1.0, 100.0, 1e6]))
def test_what_a_party_gets_at_its_best_does_not_depend_on_its_unit(seed, unit):
    rng = np.random.default_rng(seed)
    worth, above = rng.random((30, 2)), rng.random(30) < 0.5
    found = slates_of([6] * 5, worth * [1, unit], above, top=3).at_own_best(0)
    for request in range(5):
        own, gated = worth[6 * request :][:6], above[6 * request :][:6]
        best = np.lexsort((-own[:, 1], gated))[:3]
        np.testing.assert_allclose(found[request], own[best].mean(axis=0) * [1, unit])


@given(st.integers(0, 2**31), st.floats(0, 5), st.floats(0, 5))
def test_a_higher_weight_never_costs_its_party(seed, weight, more):
    rng = np.random.default_rng(seed)
    slates = slates_of([6] * 5, rng.normal(size=(30, 3)), top=3)
    low, high = (slates.ranked_by(np.array([w, 1.0])) for w in (weight, weight + more))
    assert (high[:, 1] >= low[:, 1] - 1e-9).all()


def test_the_interval_of_a_ratio_draws_whole_users():
    rng = np.random.default_rng(0)
    each = rng.normal(1, 0.5, 200)
    users = np.repeat(np.arange(200), 10)
    ratio, low, high = ratio_interval(users, np.repeat(each, 10), np.full(2000, 2.0), 0)
    assert ratio == pytest.approx(each.mean() / 2)
    half = 1.96 * each.std() / np.sqrt(200) / 2
    assert low == pytest.approx(ratio - half, abs=half / 5)
    assert high == pytest.approx(ratio + half, abs=half / 5)
    paired = ratio_interval(users, 3 * np.repeat(each, 10), np.repeat(each, 10), 0)
    assert paired == pytest.approx((3, 3, 3)), "numerator and denominator are drawn together"


@given(st.integers(1, 3), st.integers(30, 200), st.integers(0, 2**31))
def test_what_a_few_can_be_offered_has_an_interval_all_the_same(few, users, seed):
    offered = np.arange(users) < few
    ratio, low, high = ratio_interval(np.arange(users), 0.3 * offered, 1.0 * offered, seed)
    assert (ratio, low, high) == pytest.approx((0.3, 0.3, 0.3))


def test_what_nobody_can_be_offered_has_none():
    none = np.zeros(5)
    assert np.isnan(ratio_interval(np.arange(5), none, none, 0)).all()
