"""Windows tile labels once and read only what lies before; pools say what they hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.batching import (
    PoolSampler,
    cut_windows,
    even_chunks,
    shuffle_within_users,
)
from data.contract.encode import Events


def events_of(lengths: list[int]) -> Events:
    """Users whose events are numbered through, so that an item names its place."""
    total = sum(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ones = np.ones(total, np.int64)
    return Events(offsets, np.arange(total), ones, ones, np.arange(total) * 1000)


logs = st.tuples(
    st.lists(st.integers(0, 30), min_size=1, max_size=8),
    st.integers(1, 12),
    st.integers(0, 1000),
    st.floats(0, 1),
)


@given(logs)
def test_every_label_is_predicted_exactly_once(log: tuple[list[int], int, int, float]) -> None:
    lengths, max_length, seed, share = log
    events = events_of(lengths)
    rng = np.random.default_rng(seed)
    labels = rng.random(len(events.item)) < share
    windows = cut_windows(events, labels, max_length, rng)
    assert sorted(windows.target_item) == list(np.flatnonzero(labels))


@given(logs)
def test_a_window_reads_the_events_right_before_each_target_and_no_other(
    log: tuple[list[int], int, int, float],
) -> None:
    lengths, max_length, seed, share = log
    events = events_of(lengths)
    rng = np.random.default_rng(seed)
    labels = rng.random(len(events.item)) < share
    windows = cut_windows(events, labels, max_length, rng)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    for window, length, item in zip(
        windows.target_window, windows.target_length, windows.target_item, strict=True
    ):
        start = windows.events.offsets[window]
        read = windows.events.item[start : start + length]
        assert len(read) <= max_length
        assert list(read) == list(range(item - length, item))
        assert all(owner[read] == owner[item])
        assert windows.user[window] == owner[item]
    assert list(windows.target_time) == list(events.timestamp[windows.target_item])


@given(logs)
def test_taking_windows_keeps_their_events_and_targets(
    log: tuple[list[int], int, int, float],
) -> None:
    lengths, max_length, seed, share = log
    events = events_of(lengths)
    rng = np.random.default_rng(seed)
    windows = cut_windows(events, rng.random(len(events.item)) < share, max_length, rng)
    order = rng.permutation(len(windows))
    taken = windows.take(order)
    for new, old in enumerate(order):
        assert list(taken.target_item[taken.target_window == new]) == list(
            windows.target_item[windows.target_window == old]
        )
        assert taken.user[new] == windows.user[old]
    assert list(taken.target_time) == list(events.timestamp[taken.target_item])


def test_chunks_hold_every_row_once_and_are_of_nearly_equal_length() -> None:
    chunks = list(even_chunks(103, 25, np.random.default_rng(0)))
    assert sorted(np.concatenate(chunks)) == list(range(103))
    assert {len(chunk) for chunk in chunks} == {20, 21}


def test_shuffling_stays_within_users() -> None:
    events = events_of([5, 7])
    shuffled, order = shuffle_within_users(events, np.random.default_rng(1))
    assert sorted(shuffled.item[:5]) == list(range(5))
    assert list(shuffled.item) == list(events.item[order])
    assert list(order) != list(range(12))


def test_a_pool_counts_what_it_holds_and_expects_what_is_drawn_on_average() -> None:
    share = np.array([0.0, 0.0, 0.7, 0.2, 0.1])
    pools = PoolSampler(np.arange(2, 5), share, in_batch=50, random=30)
    rng = np.random.default_rng(0)
    positives = rng.choice(5, 4000, p=share)
    totals = np.zeros(5)
    for _ in range(400):
        pool = pools.sample(positives, rng)
        totals[pool.item] += np.exp(pool.log_count)
        assert np.exp(pool.log_count).sum() == pytest.approx(80)
    expected = np.exp(pools.log_expected(np.arange(2, 5), 50))
    assert totals[2:] / 400 == pytest.approx(expected, rel=0.05)
