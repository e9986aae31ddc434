import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.blend import (
    cap_per_creator,
    least_items,
    occurrence,
    with_least_share,
    within_gates,
)


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 12))
def test_gates_leave_out_what_is_above_them_and_never_let_a_feed_run_short(
    above: list[bool], num_items: int
) -> None:
    order = np.random.default_rng(len(above)).permutation(len(above))
    kept = within_gates(order, np.array(above, bool), num_items).tolist()
    within = [at for at in order.tolist() if not above[at]]
    beyond = [at for at in order.tolist() if above[at]]
    assert kept[: len(within)] == within
    assert kept[len(within) :] == beyond[: len(kept) - len(within)]
    assert len(kept) == max(len(within), min(num_items, len(above)))


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 4), st.randoms())
def test_capping_is_a_permutation_that_only_moves_items_back(
    creators: list[int], cap: int, random: object
) -> None:
    order = np.random.default_rng(len(creators)).permutation(len(creators))
    creator = np.array(creators, np.int64)
    capped = cap_per_creator(order, creator, cap)
    assert sorted(capped.tolist()) == sorted(order.tolist())
    place = {at: n for n, at in enumerate(order.tolist())}
    counts: dict[int, int] = {}
    head = []
    for at in order.tolist():
        counts[creators[at]] = counts.get(creators[at], 0) + 1
        if creators[at] == 0 or counts[creators[at]] <= cap:
            head.append(at)
    assert capped[: len(head)].tolist() == head
    tail = [place[at] for at in capped[len(head) :].tolist()]
    assert tail == sorted(tail)


def test_without_creators_the_order_stands() -> None:
    order = np.array([2, 0, 1])
    assert cap_per_creator(order, None, 1) is order


@given(st.lists(st.integers(0, 5), max_size=30))
def test_occurrence_counts_what_came_before(values: list[int]) -> None:
    expected = [values[:n].count(value) for n, value in enumerate(values)]
    assert occurrence(np.array(values, np.int64)).tolist() == expected


@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.integers(1, 12),
    st.lists(st.integers(0, 4), min_size=4, max_size=4),
)
def test_sources_have_their_least_number_and_the_order_stays(
    sources: list[int], num_items: int, least: list[int]
) -> None:
    order = np.random.default_rng(len(sources)).permutation(len(sources))
    source, wanted = np.array(sources, np.int64), np.array(least, np.int64)
    moved = with_least_share(order, source, num_items, wanted)
    assert sorted(moved.tolist()) == sorted(order.tolist())
    place = {at: n for n, at in enumerate(order.tolist())}
    first = [place[at] for at in moved[:num_items].tolist()]
    assert first == sorted(first)
    counts = np.bincount(source, minlength=4)
    due = np.minimum(wanted, counts)
    if due.sum() <= num_items:
        shown = np.bincount(source[moved[:num_items]], minlength=4)
        assert (shown >= due).all()
    if not wanted.any():
        assert moved.tolist() == order.tolist()


def test_parts_of_a_place_are_drawn() -> None:
    draws = np.random.default_rng(0).random((4000, 3))
    found = np.array([least_items(0.05, 10, 3, draw) for draw in draws])
    assert set(np.unique(found).tolist()) == {0, 1}
    assert found.mean() == pytest.approx(0.5, abs=0.02)
    assert least_items(0.05, 40, 3, np.zeros(3)).tolist() == [2, 2, 2]
    assert least_items(1.0, 6, 3, np.zeros(3)).tolist() == [2, 2, 2]
    assert least_items(0.0, 10, 3, np.full(3, 0.999)).tolist() == [0, 0, 0]
