import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.encode import FeatureTable
from data.contract.schema import DAY_MS, Feature
from data.requests import Requests
from data.splits import OUTSIDE, TEST, TRAIN, VALID
from data.track_record import Standings, TrackRecord
from data.trends import Trends
from tests.data import rows as small_logs
from tests.data.rows import HIDE, NUM_ITEMS, NUM_USERS, SAVE, START, rows_of_a_log

EVERY = (TRAIN, VALID, TEST)
CREATOR = Feature(name="creator", kind="categorical", cardinality=8)
CREATORS = 11 + np.arange(NUM_ITEMS + 1) % 3


def log_of(rows, **kind):
    log = small_logs.log_of(rows, **kind)
    log.dataset.counts = {"impressions": 0}
    log.dataset.items = FeatureTable.of("item", (CREATOR,), pa.table({"creator": CREATORS}))
    return log


def standings_of(rows, half_life=1e9, **kind):
    return Standings.of(log_of(rows, **kind), EVERY, half_life)


def request(user, item, day):
    return Requests(
        np.array([user]),
        np.array([START + (day - 1) * DAY_MS + 5]),
        np.array([-1]),
        np.array([0, 1]),
        np.array([item]),
        np.array([0]),
        np.zeros((1, 2), np.float32),
        np.array([0]),
        np.array([0]),
    )


def test_an_item_comes_with_the_average_and_with_those_of_its_creator():
    standings = standings_of([(1, 4, SAVE, 10, 0), (1, 7, SAVE, 10, 0), (2, 5, HIDE, 10, 0)])
    found = standings.of_items(np.array([50]), np.array([4]))[0]
    average = np.array([2, 1, 0]) / NUM_ITEMS
    np.testing.assert_allclose(found, [average, [1, 0, 0], [2, 0, 0]], rtol=1e-4)


def test_users_come_with_the_average_and_with_their_own():
    standings = standings_of([(1, 4, SAVE, 10, 0), (1, 7, SAVE, 10, 0), (2, 5, HIDE, 10, 0)])
    found = standings.of_users(np.array([50, 50]), np.array([1, 3]))
    average = np.array([2, 1, 0]) / (NUM_USERS + 1)
    np.testing.assert_allclose(found[0], [average, [2, 0, 0]], rtol=1e-4)
    np.testing.assert_allclose(found[1], [average, [0, 0, 0]], rtol=1e-4)


def test_users_who_are_asked_for_have_the_counts_that_they_have_among_all():
    log = log_of([(1, 4, SAVE, 10, 0), (2, 7, SAVE, 10, 0), (2, 5, HIDE, 11, 0)])
    asked = np.arange(log.dataset.user_ids.rows) == 2
    moments, users = np.array([50, 50]), np.array([2, 1])
    whole, few = (Standings.of(log, EVERY, 20.0, one) for one in (None, asked))
    expected, found = (standings.of_users(moments, users) for standings in (whole, few))
    assert found[0].tolist() == expected[0].tolist()
    assert found[1, 0].tolist() == expected[1, 0].tolist(), "all is that of all"
    assert expected[1, 1].any()
    assert not found[1, 1].any(), "one who was not to be asked for"
    items = np.array([4, 7])
    assert few.of_items(moments, items).tolist() == whole.of_items(moments, items).tolist()


@pytest.mark.parametrize("kind", [{}, {"kind": "column", "order": "position"}])
def test_memory_does_not_grow_with_touches(kind):
    rows = [(1 + n % 9, 1 + n % 12, SAVE, 1 + n % 180, 0) for n in range(3000)]
    log, peaks = log_of(rows, **kind), []
    block = next(log.dataset.timelines())
    tracemalloc.start()
    try:
        for blocks in (2, 20):
            log.dataset.timelines = lambda blocks=blocks: iter([block] * blocks)
            tracemalloc.reset_peak()
            Standings.of(log, EVERY, 20.0)
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@given(rows_of_a_log, st.integers(1, 4))
def test_standings_are_to_the_bit_the_same_whatever_the_blocks(rows, blocks):
    whole, cut = (Standings.of(log_of(rows, blocks=n), EVERY, 20.0) for n in (1, blocks))
    moments, items = (a.ravel() for a in np.mgrid[1:183:7, 1 : NUM_ITEMS + 1])
    assert cut.of_items(moments, items).tolist() == whole.of_items(moments, items).tolist()
    users = items % NUM_USERS
    assert cut.of_users(moments, users).tolist() == whole.of_users(moments, users).tolist()


@given(rows_of_a_log)
def test_counts_as_of_the_last_moment_alone_are_those_as_of_any(rows):
    log = log_of(rows)
    whole, last = Standings.of(log, EVERY, 20.0), Standings.at_last(log, EVERY, 20.0)
    items, users = np.arange(NUM_ITEMS + 1), np.arange(log.dataset.user_ids.rows)
    moments = np.full(len(items), last.last_moment)
    found, expected = last.of_items(moments, items), whole.of_items(moments, items)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    moments = np.full(len(users), last.last_moment)
    found, expected = last.of_users(moments, users), whole.of_users(moments, users)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="as of day"):
        last.of_users(moments - 1, users)


def test_the_last_moment_counts_the_last_day():
    standings = standings_of([(1, 4, SAVE, 180, 2)])
    assert standings.of_items(np.array([standings.last_moment]), np.array([4]))[0, 1, 0] > 0.9


def test_an_event_long_after_the_log_leaves_counts_of_its_end_numbers():
    """With a half-life of a week, what lies 129 weeks ahead overflows what a count may hold."""
    log = log_of([(1, 4, SAVE, 10, 0), (1, 4, SAVE, 181 + 129 * 7, 0)])
    last, whole = (make(log, (OUTSIDE, *EVERY), 7.0) for make in (Standings.at_last, Standings.of))
    moments = np.full(NUM_ITEMS, last.last_moment)
    items, users = np.arange(1, NUM_ITEMS + 1), np.arange(NUM_ITEMS) % NUM_USERS
    for name, keys in (("of_items", items), ("of_users", users)):
        found, expected = (getattr(made, name)(moments, keys) for made in (last, whole))
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_without_a_clock_users_have_no_counts_and_items_those_of_other_folds():
    rows = [(1, 4, SAVE, 1, 0), (2, 4, SAVE, 1, 0)]
    standings = standings_of(rows, kind="column", order="position")
    moments = standings.moments(np.array([1, 9]), np.zeros(2, np.int64))
    assert standings.of_users(moments, np.array([1, 9])) is None
    found = standings.of_items(moments, np.array([4, 4]))[:, 1, 0]
    assert found[1] == pytest.approx(2 * found[0])
    whole = standings.of_items(np.array([standings.last_moment]), np.array([4]))
    assert whole[0, 1, 0] == 2


@given(rows_of_a_log)
def test_nothing_of_the_day_or_later_is_known(rows):
    """Point in time: what happens from a request's day on changes nothing that it reads."""
    day = 90
    earlier = [row for row in rows if row[3] < day]
    found = []
    for kept in (rows, earlier or [(1, 1, SAVE, day, 0)]):
        log = log_of(kept)
        record = TrackRecord(Trends.of(log, EVERY), Standings.of(log, EVERY, 20.0))
        found.append(record.arrays(request(2, 3, day)))
    assert found[0].keys() == found[1].keys()
    for name, array in found[0].items():
        np.testing.assert_allclose(array, found[1][name], rtol=1e-5, err_msg=name)


def test_only_what_is_there_is_named():
    log = log_of([(1, 4, SAVE, 10, 0)])
    assert not TrackRecord().arrays(request(1, 4, 20))
    of_trends = TrackRecord(Trends.of(log, EVERY)).arrays(request(1, 4, 20))
    assert sorted(of_trends) == ["candidate.trend.age_ms", "candidate.trend.counts"]
    standings = Standings.of(log, EVERY, 20.0)
    of_tallies = TrackRecord(standings=standings).arrays(request(1, 4, 20))
    assert {name: array.shape for name, array in of_tallies.items()} == {
        "candidate.tally.counts": (1, 3, 3),
        "user_tally.counts": (1, 2, 3),
    }
