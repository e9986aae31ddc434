"""Windows tile labels once and read only what lies before; pools say what they hold."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.batching import even_chunks, known_pairs
from data.contract.encode import Events
from data.negatives import PoolSampler
from data.sequence_windows import cut_windows, draw_moments, shuffle_within_users


def events_of(lengths: list[int]) -> Events:
    """Users whose events are numbered through, so that an item names its place."""
    total = sum(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ones = np.ones(total, np.int64)
    return Events(
        offsets, np.arange(total), ones, ones, np.arange(total) * 1000, ones.astype(np.float32)
    )


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
    windows = cut_windows(events, labels, events.timestamp, max_length, rng)
    assert sorted(windows.target_item) == list(np.flatnonzero(labels))


@given(logs)
def test_a_window_reads_the_events_right_before_each_target_and_no_other(
    log: tuple[list[int], int, int, float],
) -> None:
    lengths, max_length, seed, share = log
    events = events_of(lengths)
    rng = np.random.default_rng(seed)
    labels = rng.random(len(events.item)) < share
    windows = cut_windows(events, labels, events.timestamp, max_length, rng)
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
    assert list(windows.target_moment) == list(events.timestamp[windows.target_item])


@given(logs)
def test_taking_windows_keeps_their_events_and_targets(
    log: tuple[list[int], int, int, float],
) -> None:
    lengths, max_length, seed, share = log
    events = events_of(lengths)
    rng = np.random.default_rng(seed)
    labels = rng.random(len(events.item)) < share
    windows = cut_windows(events, labels, events.timestamp, max_length, rng)
    order = rng.permutation(len(windows))
    taken = windows.take(order)
    for new, old in enumerate(order):
        assert list(taken.target_item[taken.target_window == new]) == list(
            windows.target_item[windows.target_window == old]
        )
        assert taken.user[new] == windows.user[old]
    assert list(taken.target_moment) == list(events.timestamp[taken.target_item])


@given(logs, st.integers(0, 20_000))
def test_what_is_foretold_is_told_from_the_events_before_its_moment(
    log: tuple[list[int], int, int, float], horizon_ms: int
) -> None:
    lengths, max_length, seed, share = log
    events, rng = events_of(lengths), np.random.default_rng(seed)
    labels = rng.random(len(events.item)) < share
    moments = draw_moments(events, np.zeros(len(events.item), np.int64), horizon_ms, rng)
    windows = cut_windows(events, labels, moments, max_length, rng)
    assert sorted(windows.target_item) == list(np.flatnonzero(labels))
    for window, length, item, moment in zip(
        windows.target_window,
        windows.target_length,
        windows.target_item,
        windows.target_moment,
        strict=True,
    ):
        assert moment == moments[item]
        read = windows.events.item[windows.events.offsets[window] :][:length]
        assert all(read < item)
        later = read[events.timestamp[read] >= moment]
        # As much is read in any case, so that a busy user's state is not an empty one.
        assert not len(later) or len(read) <= max_length // 2 + 1


def test_without_a_clock_or_with_ties_all_that_stands_before_is_read() -> None:
    """Times of a log without a clock are 0; many real logs have several events a second."""
    rng = np.random.default_rng(0)
    for times in (np.zeros(40, np.int64), np.arange(40) // 8 * 1000):
        events = dataclasses.replace(events_of([25, 15]), timestamp=times)
        moments = draw_moments(events, np.zeros(40, np.int64), 0, rng)
        windows = cut_windows(events, np.ones(40, bool), moments, 100, rng)
        starts = windows.events.item[windows.events.offsets[windows.target_window]]
        read = windows.target_length + np.where(windows.target_length > 0, starts, 0)
        assert read.tolist() == [*range(25), 0, *range(26, 40)]


@given(st.integers(0, 10**6), st.integers(0, 50_000))
def test_moments_lie_within_the_horizon_and_after_the_item_is_there(
    seed: int, horizon_ms: int
) -> None:
    rng = np.random.default_rng(seed)
    events = events_of([30, 0, 20])
    created_at = rng.integers(0, 60_000, 50)
    ahead = events.timestamp - draw_moments(events, created_at, horizon_ms, rng)
    assert (ahead >= 0).all()
    assert (ahead <= horizon_ms).all()
    assert (events.timestamp - ahead >= np.minimum(created_at[events.item], events.timestamp)).all()


def test_half_of_the_events_are_foretold_right_before_they_happen() -> None:
    events, rng = events_of([4000]), np.random.default_rng(0)
    moments = draw_moments(events, np.zeros(4000, np.int64), 10**9, rng)
    assert 0.45 < (moments == events.timestamp).mean() < 0.55


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
    pools = PoolSampler(np.arange(2, 5), share, in_batch=50, random=2)
    rng = np.random.default_rng(0)
    positives = np.repeat(np.arange(5), np.rint(4000 * share).astype(int))
    totals = np.zeros(5)
    for _ in range(400):
        pool = pools.sample(positives, rng)
        totals[pool.item] += np.exp(pool.log_count)
        assert np.exp(pool.log_count).sum() == pytest.approx(52)
    expected = np.exp(pools.log_expected(np.arange(2, 5), 50, pools.random))
    assert totals[2:] / 400 == pytest.approx(expected, rel=0.05)


@given(st.integers(0, 10**6), st.booleans())
def test_own_items_are_no_negatives_once_read_or_from_the_start(seed: int, spare: bool) -> None:
    rng = np.random.default_rng(seed)
    events = dataclasses.replace(events_of([9, 4]), item=rng.integers(0, 6, 13).astype(np.int32))
    moments = draw_moments(events, np.zeros(50, np.int64), 0, rng)
    windows = cut_windows(events, np.ones(13, bool), moments, 6, rng)
    place = np.array([0, -1, 1, 2, -1, 3])
    read, predicted = place[windows.events.item], place[windows.target_item]
    found = known_pairs(windows, read, predicted, 4, spare)
    pairs = zip(found["known.sequence"], found["known.pool"], strict=True)
    after = dict(zip(pairs, found["known.after"], strict=True))
    assert len(after) == len(found["known.after"])
    for window, length in zip(windows.target_window, windows.target_length, strict=True):
        mine = slice(*windows.events.offsets[window : window + 2])
        foretold = predicted[windows.target_window == window]
        own = [*read[mine], *foretold] if spare else read[mine][:length]
        assert {p for (w, p), n in after.items() if w == window and n <= length} == {
            p for p in own if p >= 0
        }


def test_as_many_random_items_as_there_are_make_the_whole_catalogue_once() -> None:
    share = np.array([0.0, 0.0, 0.7, 0.2, 0.1])
    pool = PoolSampler(np.arange(2, 5), share, in_batch=50, random=3).sample(
        np.array([2, 2, 4]), np.random.default_rng(0)
    )
    assert pool.item.tolist() == [2, 3, 4]
    for correction in (pool.log_count, pool.log_q, pool.positive_log_q):
        assert not correction.any()
