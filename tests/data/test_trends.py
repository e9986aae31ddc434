"""Counts of the days before a moment: never its own day, never of a part that may not be read."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from data.contract.schema import DAY_MS, TREND_DAYS, Calendar
from data.splits import TEST, TRAIN, VALID
from data.trends import Trends, days_of
from tests.data.rows import HIDE, SAVE

SPAN_OF_A_WEEK = TREND_DAYS.index(7)


def test_a_day_knows_the_days_before_it_and_not_itself(log_of) -> None:
    rows = [(1, 3, SAVE, day, 0) for day in (10, 11, 11, 20)] + [(2, 3, HIDE, 11, 0)]
    trends = Trends.of(log_of(rows), (TRAIN,))
    counts = trends.before(np.array([10, 11, 12, 18, 19, 21]), np.array(3))["trend.counts"]
    assert counts[:, 0].tolist() == [0, 1, 2, 0, 0, 1]
    assert counts[:, SPAN_OF_A_WEEK].tolist() == [0, 1, 3, 2, 0, 1]


def test_events_of_other_parts_do_not_count(log_of) -> None:
    rows = [(1, 3, SAVE, 5, 0), (2, 3, SAVE, 6, 1), (3, 3, SAVE, 7, 2)]
    for parts, expected in (((TRAIN,), 1), ((TRAIN, VALID), 2), ((TRAIN, VALID, TEST), 3)):
        found = Trends.of(log_of(rows, kind="column"), parts).before(np.array(9), np.array(3))
        assert found["trend.counts"][SPAN_OF_A_WEEK] == expected


def test_a_log_without_a_clock_has_none(log_of) -> None:
    log = log_of([(1, 3, SAVE, 5, 0)], kind="leave_one_out", order="position")
    assert Trends.of(log, (TRAIN,)) is None


def test_age_is_of_the_start_of_the_day_and_minus_one_where_unknown(log_of) -> None:
    log = log_of([(1, 3, SAVE, 5, 0)])
    start = log.dataset.calendar.start_ms
    log.dataset.items_created_at[[4, 5]] = start(2), start(30)
    age = Trends.of(log, (TRAIN,)).before(np.array(12), np.array([3, 4, 5]))["trend.age_ms"]
    assert age.tolist() == [-1, 10 * DAY_MS, 0]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 4)), max_size=60), st.integers(1, 41))
def test_counts_are_those_of_brute_force(events: list[tuple[int, int]], today: int) -> None:
    totals = np.zeros((41, 5), np.int32)
    for day, item in events:
        totals[day, item] += 1
    trends = Trends(
        np.cumsum(totals, 0), np.zeros(5, np.int64), Calendar(first_day_ms=0, num_days=40)
    )
    found = trends.before(np.array(today), np.arange(5))["trend.counts"]
    for item in range(5):
        for span, count in zip(TREND_DAYS, found[item], strict=True):
            assert count == sum(i == item and today - span <= d < today for d, i in events)


def test_counts_by_day_tell_the_same_as_the_log(log_of, tmp_path) -> None:
    rows = [(1 + n % 9, n % 12 + 1, SAVE if n % 3 else HIDE, 1 + n * 7 % 180, 0) for n in range(80)]
    log = log_of(rows, kind="column")
    columns = {"day": [r[3] for r in rows], "item": [r[1] for r in rows]}
    counts = pa.table({**columns, "action": [r[2] for r in rows], "count": [1] * len(rows)})
    pq.write_table(counts, tmp_path / "item_days.parquet")
    log.dataset.artifact = SimpleNamespace(path=tmp_path)
    whole, counted = Trends.of(log, (TRAIN,)), Trends.of_all(log.dataset)
    np.testing.assert_array_equal(whole.totals, counted.totals)


def test_running_totals_take_the_memory_of_one_array(log_of) -> None:
    log = log_of([(1, 3, SAVE, 5, 0)])
    log.dataset.item_ids = SimpleNamespace(rows=20_000)
    tracemalloc.start()
    try:
        totals = Trends.of(log, (TRAIN,)).totals
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * totals.nbytes


def test_days_count_from_one() -> None:
    calendar = Calendar(first_day_ms=5 * DAY_MS, num_days=3)
    times = np.array([5 * DAY_MS, 6 * DAY_MS - 1, 6 * DAY_MS])
    assert days_of(calendar, times).tolist() == [1, 1, 2]
