import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.key_days import DayMarks, KeyDays
from data.tallies import (
    EVERYBODY,
    FOLDS,
    DayCounts,
    DayTallies,
    FoldTallies,
    LastTallies,
    left_after,
)
from data.touches import LAST_DAY, Touches

WIDTH, DAYS, KEYS = 3, 40, 8
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


def tallies_of(rows, half_life=7.0, block=100) -> DayTallies:
    blocks = [touches_of(rows[at : at + block]) for at in range(0, len(rows), block)]
    marks = DayMarks.empty(KEYS)
    for touches in blocks:
        marks.add(touches, touches.item)
    counts = DayCounts.empty(KeyDays.of(marks), WIDTH)
    for touches in blocks:
        counts.add(touches, touches.item)
    return DayTallies.of(counts, half_life)


def folds_of(rows, block=100) -> FoldTallies:
    tallies = FoldTallies.empty(KEYS, WIDTH)
    for at in range(0, len(rows), block):
        touches = touches_of(rows[at : at + block])
        tallies.add(touches, touches.item)
    return tallies


def carried(rows, half_life, moment, key) -> list[float]:
    """What is counted of a key as of a day, in the same arithmetic, a day after the other."""
    counts, last = np.zeros(WIDTH, np.float32), None
    for day in sorted({day for _, item, _, day in rows if item == key and day < moment}):
        kinds = [kind for _, item, kind, on in rows if item == key and on == day]
        own = np.bincount(kinds, minlength=WIDTH).astype(np.float32)
        gone = day if last is None else last
        counts, last = own + counts * left_after(np.array([day - gone]), half_life), day
    if last is None:
        return counts.tolist()
    return (counts * left_after(np.array([moment - last]), half_life)).tolist()


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
    moment, key = (a.ravel() for a in np.mgrid[1 : DAYS + 5, 0:KEYS])
    expected = np.zeros((len(key), WIDTH))
    for _, item, kind, day in rows:
        counted = (key == item) & (moment > day)
        expected[counted, kind] += 0.5 ** ((moment[counted] - day) / half_life)
    np.testing.assert_allclose(tallies.before(moment, key), expected, rtol=1e-4, atol=1e-6)


@given(touched, st.integers(1, 9), st.floats(1, 100))
def test_counts_are_to_the_bit_those_carried_from_day_to_day_whatever_the_blocks(
    rows, block, half_life
):
    tallies = tallies_of(rows, half_life, block)
    moment, key = (a.ravel() for a in np.mgrid[1 : DAYS + 45 : 3, 0:KEYS])
    expected = [carried(rows, half_life, *at) for at in zip(moment, key, strict=True)]
    assert tallies.before(moment, key).tolist() == expected


def test_events_of_days_that_lie_far_apart_take_no_lines_between_them():
    rows = [(1, 4, 0, 3), (1, 4, 1, 2000), (1, 5, 0, LAST_DAY)]
    tallies = tallies_of(rows, 1e9)
    assert len(tallies.counts) == 3
    for moment, expected in ((4, 1), (1999, 1), (2000, 1), (2001, 2), (LAST_DAY + 9, 2)):
        assert sum(one(tallies, moment, 4)) == pytest.approx(expected, rel=1e-3)
    assert one(tallies, LAST_DAY, 5) == [0, 0, 0]
    assert one(tallies, LAST_DAY + 1, 5) == [1, 0, 0]


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


@given(touched, st.integers(1, 9))
def test_a_fold_reads_what_the_others_did_whatever_the_blocks(rows, block):
    tallies = folds_of(rows, block)
    fold, key = (a.ravel() for a in np.mgrid[0:FOLDS, 0:KEYS])
    expected = np.zeros((len(key), WIDTH), np.float32)
    for user, item, kind, _ in rows:
        expected[(key == item) & (fold != user % FOLDS), kind] += 1
    expected *= FOLDS / (FOLDS - 1)
    assert tallies.before(fold, key).tolist() == expected.tolist()


def test_everybody_is_counted_when_nobody_is_left_out():
    tallies = folds_of([(1, 4, 0, 1), (2, 4, 0, 1), (12, 4, 2, 1)])
    assert one(tallies, EVERYBODY, 4) == [2, 0, 1]
