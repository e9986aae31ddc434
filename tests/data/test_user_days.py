"""A user's vector is that of the last day before a moment, and of nobody else."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.contract.encode import Events
from data.contract.schema import DAY_MS, Calendar
from data.targets import ends_of_days
from data.user_days import UserDays, keys_of

CALENDAR = Calendar(first_day_ms=1_700_000_000_000, num_days=20, base_days=20)
PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 20)), max_size=30)


def moment(day: int, hour: float = 0) -> int:
    return CALENDAR.start_ms(day) + int(hour * 3_600_000)


def made(pairs: Any) -> tuple[UserDays, list[tuple[int, int]]]:
    """Each pair's vector is user, day."""
    known = sorted(set(pairs))
    users, days = (np.array([pair[side] for pair in known], np.int64) for side in (0, 1))
    vectors = np.stack([users, days], 1).astype(np.float16)
    return UserDays(keys_of(users, days), vectors, CALENDAR), known


@given(PAIRS, st.integers(0, 8), st.integers(0, 22), st.floats(0, 23.9))
def test_the_vector_is_that_of_the_last_day_before_the_midnight(
    pairs: Any, user: int, day: int, hour: float
) -> None:
    found, known = made(pairs)
    before = [pair for pair in known if pair[0] == user and pair[1] < day]
    expected = max(before, default=(0, 0))
    vectors = found.before(np.array([user]), np.array([moment(day, hour)]))
    assert vectors.tolist() == [list(expected)]


@given(PAIRS)
def test_the_newest_is_that_of_a_moment_after_the_log(pairs: Any) -> None:
    found, _ = made(pairs)
    users = np.arange(9)
    after = found.before(users, np.full(9, moment(30)))
    assert found.newest(9).tolist() == after.tolist()


@given(st.lists(st.lists(st.integers(0, 479), max_size=25), min_size=1, max_size=5))
def test_the_states_of_days_have_read_all_of_the_day_and_nothing_later(hours: Any) -> None:
    """Hours since the start of day 1; days before the eighth are one."""
    sorted_hours = [np.sort(np.array(one, np.int64)) for one in hours]
    times = np.concatenate(sorted_hours) * 3_600_000 + CALENDAR.first_day_ms
    lengths = [len(one) for one in hours]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ones = np.ones(len(times), np.int64)
    events = Events(offsets, ones, ones, ones, times, ones.astype(np.float32))
    states, days = ends_of_days(events, CALENDAR, 8)
    expected = set()
    for user, mine in enumerate(sorted_hours):
        named = np.maximum(mine // 24 + 1, 7)
        expected |= {(user, int(day), int((named <= day).sum())) for day in named}
    read = states.end - offsets[states.user]
    assert set(zip(states.user.tolist(), days.tolist(), read.tolist(), strict=True)) == expected
    assert len(days) == len(expected)
    assert (times[states.label] < CALENDAR.first_day_ms + days * DAY_MS).all()
