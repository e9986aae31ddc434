from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.tallies import EVERYBODY, FOLDS, DayTallies, FoldTallies, LastTallies
from data.touches import Touches

WIDTH, DAYS = 3, 40
touched = st.lists(
    st.tuples(
        st.integers(0, 30), st.integers(0, 6), st.integers(0, WIDTH - 1), st.integers(1, DAYS)
    ),
    min_size=1,
    max_size=80,
)


def touches_of(rows) -> Touches:
    user, item, kind, day = np.array(rows).T
    return Touches(
        user.astype(np.int32), item.astype(np.int32), kind.astype(np.uint8), day.astype(np.int16)
    )


def tallies_of(rows, half_life=7.0) -> DayTallies:
    touches = touches_of(rows)
    return DayTallies.of(touches, touches.item, WIDTH, half_life)


def one(tallies, moment, key) -> list[float]:
    return tallies.before(np.array([moment]), np.array([key]))[0].tolist()


def test_an_event_counts_half_when_it_is_a_half_life_old():
    tallies = tallies_of([(1, 4, 0, 10), (2, 4, 0, 17), (2, 5, 1, 10)])
    assert one(tallies, 24, 4) == pytest.approx([0.75, 0, 0])
    assert one(tallies, 17, 5) == pytest.approx([0, 0.5, 0])


def test_the_day_itself_is_not_counted():
    tallies = tallies_of([(1, 4, 0, 10)])
    assert one(tallies, 10, 4) == [0, 0, 0]
    assert one(tallies, 11, 4)[0] > 0.9


def test_a_key_that_was_never_touched_has_nothing():
    tallies = tallies_of([(1, 4, 0, 10)])
    assert one(tallies, 50, 3) == one(tallies, 50, 5) == [0, 0, 0]


@given(touched, st.floats(1, 100))
def test_counts_are_those_of_earlier_days_by_age(rows, half_life):
    tallies = tallies_of(rows, half_life)
    moment, key = (a.ravel() for a in np.mgrid[1 : DAYS + 5, 0:8])
    expected = np.zeros((len(key), WIDTH))
    for _, item, kind, day in rows:
        counted = (key == item) & (moment > day)
        expected[counted, kind] += 0.5 ** ((moment[counted] - day) / half_life)
    np.testing.assert_allclose(tallies.before(moment, key), expected, rtol=1e-4, atol=1e-6)


@given(touched, st.integers(1, 9), st.floats(1, 100))
def test_counts_are_the_same_however_many_touches_are_counted_at_once(rows, at_once, half_life):
    whole = tallies_of(rows, half_life)
    with mock.patch("data.tallies.AT_ONCE", at_once):
        parts = tallies_of(rows, half_life)
    assert parts.places.tolist() == whole.places.tolist()
    assert parts.counts.tolist() == whole.counts.tolist()


@given(touched, st.integers(0, 80), st.integers(1, DAYS + 5))
def test_counts_of_blocks_as_of_one_day_are_those_of_all_as_of_any(rows, cut, moment):
    last, keys = LastTallies.empty(7, WIDTH, moment, 7.0), np.arange(7)
    for block in (rows[:cut], rows[cut:]):
        if block:
            touches = touches_of(block)
            last.add(touches, touches.item)
    expected = tallies_of(rows).before(np.full(7, moment), keys)
    np.testing.assert_allclose(
        last.before(np.full(7, moment), keys), expected, rtol=1e-4, atol=1e-6
    )


def test_a_touch_long_after_the_day_changes_no_count():
    last = LastTallies.empty(7, WIDTH, 31, 7.0)
    touches = touches_of([(1, 4, 0, 24), (2, 4, 0, 31 + 129 * 7)])
    last.add(touches, touches.item)
    assert one(last, 31, 4) == [0.5, 0, 0]


@given(touched)
def test_a_fold_reads_what_the_others_did(rows):
    touches = touches_of(rows)
    tallies = FoldTallies.of(touches, touches.item.astype(np.int64), WIDTH)
    fold, key = (a.ravel() for a in np.mgrid[0:FOLDS, 0:9])
    expected = np.zeros((len(key), WIDTH))
    for user, item, kind, _ in rows:
        expected[(key == item) & (fold != user % FOLDS), kind] += FOLDS / (FOLDS - 1)
    np.testing.assert_allclose(tallies.before(fold, key), expected, rtol=1e-5)


def test_everybody_is_counted_when_nobody_is_left_out():
    touches = touches_of([(1, 4, 0, 1), (2, 4, 0, 1), (12, 4, 2, 1)])
    tallies = FoldTallies.of(touches, touches.item.astype(np.int64), WIDTH)
    assert one(tallies, EVERYBODY, 4) == [2, 0, 1]
