"""What states predict: never what they have read, never past their horizon."""

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.encode import Events, Mask
from data.contract.schema import UserObjective
from data.targets import Horizon, Targets, TargetSampler, num_windows, windows_of

OBJECTIVES = get_args(UserObjective)
GAPS = st.lists(st.lists(st.integers(0, 5), max_size=30), min_size=1, max_size=6)


def timelines(gaps: list[list[int]]) -> Events:
    lengths = np.array([len(of_user) for of_user in gaps])
    total = int(lengths.sum())
    times = [np.cumsum(of_user) for of_user in gaps]
    ones = np.ones(total, np.int64)
    timestamp = np.concatenate([np.zeros(0), *times]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Events(offsets, np.arange(total), ones, ones, timestamp, ones.astype(np.float32))


def some_labels(events: Events, seed: int) -> Mask:
    return np.random.default_rng(seed).random(len(events.item)) < 0.6


def drawn(events: Events, labels: Mask, objective: UserObjective, **fields: Any) -> Targets:
    horizon = fields.pop("horizon", Horizon(3))
    sampler = TargetSampler(objective, horizon, **fields)
    return sampler.draw(events, labels, np.random.default_rng(1))


def owners(events: Events, positions: Any) -> Any:
    return np.repeat(np.arange(len(events.lengths)), events.lengths)[positions]


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(GAPS, st.integers(0, 9), st.booleans())
def test_no_label_lies_at_or_before_its_state(
    objective: UserObjective, gaps: list[list[int]], seed: int, clock: bool
) -> None:
    events = timelines(gaps)
    labels = some_labels(events, seed)
    found = drawn(events, labels, objective, horizon=Horizon(3, 7 if clock else None))
    assert (found.label >= found.end).all()
    assert labels[found.label].all()
    assert np.array_equal(owners(events, found.label), found.user)
    assert (found.end >= events.offsets[found.user]).all()
    order = np.lexsort((found.end, found.user))
    assert np.array_equal(found.end[order], found.end)


@pytest.mark.parametrize("objective", ["all_action", "dense_all_action"])
@given(GAPS, st.integers(0, 9))
def test_labels_lie_within_the_horizon_of_their_state(
    objective: UserObjective, gaps: list[list[int]], seed: int
) -> None:
    events = timelines(gaps)
    labels = some_labels(events, seed)
    timed = drawn(events, labels, objective, horizon=Horizon(99, 7))
    ahead = events.timestamp[timed.label] - events.timestamp[timed.end - 1]
    assert (ahead <= 7).all()
    counted = drawn(events, labels, objective, horizon=Horizon(3))
    place = np.cumsum(labels)
    assert (place[counted.label] - place[counted.end - 1] <= 3).all()


@given(GAPS, st.integers(0, 9))
def test_states_predict_up_to_the_last_label_however_long_their_horizon(
    gaps: list[list[int]], seed: int
) -> None:
    events = timelines(gaps)
    labels = some_labels(events, seed) & (events.timestamp < 20)
    found = drawn(events, labels, "dense_all_action", horizon=Horizon(99, 10**6))
    at = np.flatnonzero(labels)
    last = [at[owners(events, at) == user].max(initial=-1) for user in range(len(events.lengths))]
    assert len(found.end) == sum(
        max(0, end - first) for first, end in zip(events.offsets[:-1], last, strict=True)
    )


@given(GAPS, st.integers(0, 9))
def test_every_state_with_a_label_ahead_predicts_one(gaps: list[list[int]], seed: int) -> None:
    events = timelines(gaps)
    labels = some_labels(events, seed)
    found = drawn(events, labels, "dense_all_action", horizon=Horizon(10**6))
    ends = np.arange(1, len(events.item) + 1)
    user = owners(events, ends - 1)
    ahead = [labels[end : events.offsets[u + 1]].any() for end, u in zip(ends, user, strict=True)]
    assert np.array_equal(found.end, ends[np.array(ahead, bool)])


def test_labels_of_a_state_are_drawn_evenly() -> None:
    events = timelines([[1] * 6])
    labels = np.ones(6, bool)
    sampler = TargetSampler("dense_all_action", Horizon(3))
    rng = np.random.default_rng(0)
    seen = [sampler.draw(events, labels, rng).label[0] for _ in range(3000)]
    counts = np.bincount(seen, minlength=6)
    assert counts[[0, 4, 5]].sum() == 0
    assert counts[1:4] == pytest.approx(1000, abs=120)


def test_all_action_takes_several_distinct_labels_of_one_state_of_each_user() -> None:
    events = timelines([[1] * 20, [1] * 3, [], [1]])
    found = drawn(events, np.ones(24, bool), "all_action", horizon=Horizon(10), most_labels=4)
    assert set(found.user.tolist()) == {0, 1}
    for user in (0, 1):
        mine = found.user == user
        assert len(set(found.end[mine].tolist())) == 1
        assert len(set(found.label[mine].tolist())) == mine.sum() <= 4


def test_next_action_is_one_label_of_each_user_from_right_before_it() -> None:
    events = timelines([[1] * 20, [1] * 3, [], [1]])
    found = drawn(events, np.ones(24, bool), "next_action")
    assert found.user.tolist() == [0, 1, 3]
    assert np.array_equal(found.end, found.label)


@given(GAPS, st.integers(0, 9), st.integers(1, 9))
def test_windows_read_what_came_before_each_state_as_far_as_it_fits(
    gaps: list[list[int]], seed: int, max_length: int
) -> None:
    events = timelines(gaps)
    targets = drawn(events, some_labels(events, seed), "sasrec")
    windows = windows_of(events, targets, max_length, np.random.default_rng(2))
    assert (windows.events.lengths <= max_length).all()
    assert len(windows.target_item) == len(targets.end)
    read = windows.events.offsets[:-1][windows.target_window] + windows.target_length
    some = np.flatnonzero(windows.target_length > 0)
    # Items are positions: what was read last stands right before the state.
    assert np.array_equal(windows.events.item[read[some] - 1], targets.end[some] - 1)
    assert np.array_equal(windows.target_item, targets.label)
    known = targets.end - events.offsets[targets.user]
    assert (windows.target_length >= np.minimum(known, max_length // 4)).all()


def test_a_user_who_fits_is_one_window() -> None:
    events = timelines([[1] * 9, [1] * 10, [1] * 11])
    targets = drawn(events, np.ones(30, bool), "sasrec")
    windows = windows_of(events, targets, 10, np.random.default_rng(0))
    assert np.bincount(windows.user)[:2].tolist() == [1, 1]
    assert np.bincount(windows.user)[2] > 1


def test_as_many_windows_are_cut_as_are_counted_on_average() -> None:
    lengths = [0, 1, 10, 11, 30, 95, 200]
    events = timelines([[1] * length for length in lengths])
    targets = drawn(events, np.ones(len(events.item), bool), "sasrec")
    cut = [len(windows_of(events, targets, 10, np.random.default_rng(n))) for n in range(200)]
    assert np.mean(cut) == pytest.approx(num_windows(np.array(lengths), 10).sum(), rel=0.02)
