"""What a request may know of its user."""

import tracemalloc

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from data.contract.encode import HISTORY_COLUMNS, Events
from data.contract.schema import DAY_MS
from data.requests import NOT_COUNTED, Requests, UserEvents
from data.splits import TEST, TRAIN, VALID
from data.training_log import TrainingLog
from tests.data.rows import NUM_USERS, START, rows_of_a_log

USERS = 3
moments = st.lists(st.integers(0, 60), max_size=12)


def events_of(times: list[list[int]]) -> UserEvents:
    lengths = [len(of) for of in times]
    flat = np.concatenate([np.sort(np.array(of, np.int64)) for of in times])
    count = len(flat)
    item, ones = np.arange(count), np.ones(count, np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return UserEvents(Events(offsets, item, ones, ones, flat, np.zeros(count, np.float32)))


def requests_at(times: list[int]) -> Requests:
    count = len(times)
    none = np.zeros(count, np.int64)
    return Requests(
        user=np.arange(count) % USERS,
        timestamp=np.array(times),
        known=np.full(count, NOT_COUNTED),
        offsets=np.arange(count + 1),
        item=none,
        position=none,
        labels=np.zeros((count, 1), np.float32),
        surface=none,
        context=none,
    )


@given(
    st.lists(moments, min_size=USERS, max_size=USERS),
    st.lists(st.integers(0, 60), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(0, 30),
)
def test_a_request_knows_the_newest_events_before_it_but_for_those_hidden(
    times, asked, most, hidden
):
    events, requests = events_of(times), requests_at(asked)
    found = events.histories(requests, most, np.full(len(asked), hidden))
    for at, moment in enumerate(asked):
        own = found.timestamp[found.offsets[at] : found.offsets[at + 1]].tolist()
        known = sorted(t for t in times[at % USERS] if t < moment - hidden)
        assert own == known[len(known) - min(most, len(known)) :]


@given(
    st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=4), max_size=5),
    st.lists(moments, min_size=USERS, max_size=USERS),
)
def test_a_request_knows_nothing_of_what_followed_on_its_first_impression(slates, times):
    lengths = [len(slate) for slate in slates]
    request = np.repeat(np.arange(len(slates)), lengths)
    shown = np.array([time for slate in slates for time in slate], np.int64)
    columns = {"request_id": request, "user": request % USERS, "timestamp": shown}
    others = dict.fromkeys(("item", "position", "label.save"), np.zeros(len(shown), np.int64))
    requests = Requests.of(pa.table(columns | others), ("save",))
    known = events_of(times).histories(requests, 100)
    for at, slate in enumerate(slates):
        own = known.timestamp[known.offsets[at] : known.offsets[at + 1]].tolist()
        assert own == sorted(time for time in times[at % USERS] if time < min(slate))


def test_nothing_is_hidden_unless_asked():
    events, requests = events_of([[1, 5, 9], [], [2]]), requests_at([9, 9, 9])
    assert events.histories(requests, 5).timestamp.tolist() == [1, 5, 2]


@given(rows_of_a_log, st.integers(1, 3))
def test_events_of_all_users_are_those_of_each_user_in_the_order_of_the_log(log_of, rows, blocks):
    log = log_of(rows, blocks=blocks, kind="column")
    found = UserEvents.of(TrainingLog(log, (TRAIN, VALID))).events
    assert {name: getattr(found, name).dtype for name in HISTORY_COLUMNS} == HISTORY_COLUMNS
    for user in range(NUM_USERS + 1):
        own = [(n, row) for n, row in enumerate(rows) if row[0] == user and row[4] != TEST]
        expected = sorted((START + (row[3] - 1) * DAY_MS + n, row[1], row[2]) for n, row in own)
        part = slice(*found.offsets[user : user + 2])
        columns = (found.timestamp[part], found.item[part], found.action[part])
        assert [*zip(*(column.tolist() for column in columns), strict=True)] == expected


def test_events_of_all_users_take_little_more_memory_than_they_are_held_in(log_of):
    log = log_of([(1 + n % 9, 1 + n % 12, 1, 1 + n % 180, 0) for n in range(9_000)], blocks=9)
    tracemalloc.start()
    try:
        held = UserEvents.of(TrainingLog(log, (TRAIN, VALID, TEST))).events
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.8 * sum(getattr(held, name).nbytes for name in HISTORY_COLUMNS)


@given(rows_of_a_log, st.integers(0, 2**NUM_USERS - 1), st.integers(1, 3))
def test_users_who_are_asked_for_have_all_of_their_events_and_others_none(
    log_of, rows, drawn, blocks
):
    log = TrainingLog(log_of(rows, blocks=blocks), (TRAIN, VALID))
    asked = np.array([False, *((drawn >> at) % 2 == 1 for at in range(NUM_USERS))])
    whole, few = UserEvents.of(log).events, UserEvents.of(log, asked).events
    for user in range(NUM_USERS + 1):
        own = slice(*whole.offsets[user : user + 2]) if asked[user] else slice(0, 0)
        part = slice(*few.offsets[user : user + 2])
        for name in ("item", "action", "timestamp"):
            assert getattr(few, name)[part].tolist() == getattr(whole, name)[own].tolist()
