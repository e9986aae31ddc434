import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.schema import DAY_MS
from data.refresh import CADENCES, one_by_one
from tests.data.rows import NUM_USERS, SAVE, START, rows_of_a_log

EVERYBODY = np.arange(1, NUM_USERS + 1)
FIRST_DAY = 167


def asked(log, cadence, users=EVERYBODY, codes=(SAVE,)):
    """(user, item, moment) -> items of the history, in order."""
    queries = one_by_one(log, users, cadence, codes)
    assert queries.num_positives.tolist() == [1] * len(queries)
    ones = (queries.take(np.array([n])) for n in range(len(queries)))
    return {
        (int(one.users[0]), int(one.positives[0]), int(one.now_ms[0])): one.history.item.tolist()
        for one in ones
    }


def expected(rows, cadence):
    found = {}
    for user in {row[0] for row in rows}:
        own = [
            (START + (day - 1) * DAY_MS + n, item, action)
            for n, (u, item, action, day, _) in enumerate(rows)
            if u == user
        ]
        own.sort()
        for place, (moment, item, action) in enumerate(own):
            before = own[:place]
            if action != SAVE or moment < START + (FIRST_DAY - 1) * DAY_MS:
                continue
            if item in [other for _, other, _ in before]:
                continue
            until = {
                "once": START + (FIRST_DAY - 1) * DAY_MS,
                "daily": START + (moment - START) // DAY_MS * DAY_MS,
                "realtime": moment,
            }[cadence]
            found[user, item, moment] = [i for at, i, _ in before if at < until]
    return found


@given(rows_of_a_log, st.sampled_from(CADENCES), st.integers(1, 3))
def test_every_positive_of_the_part_is_asked_for_from_what_its_cadence_knows(
    log_of, rows, cadence, blocks
):
    assert asked(log_of(rows, blocks=blocks), cadence) == expected(rows, cadence)


@given(rows_of_a_log)
def test_all_cadences_ask_for_the_same_and_know_more_and_more(log_of, rows):
    once, daily, realtime = (asked(log_of(rows), cadence) for cadence in CADENCES)
    assert once.keys() == daily.keys() == realtime.keys()
    for key, history in realtime.items():
        assert history[: len(daily[key])] == daily[key]
        assert daily[key][: len(once[key])] == once[key]


def test_only_the_users_and_actions_asked_for(log_of):
    rows = [(user, item, SAVE, 170, 2) for user in (1, 2, 3) for item in (1, 2)]
    assert {key[0] for key in asked(log_of(rows), "daily", np.array([2]))} == {2}
    assert asked(log_of(rows), "daily", codes=(2,)) == {}


@pytest.mark.parametrize("cadence", CADENCES)
def test_the_events_of_a_day_are_known_to_a_vector_of_the_moment_alone(log_of, cadence):
    rows = [(1, 1, SAVE, 170, 2), (1, 2, SAVE, 170, 2)]
    histories = [len(history) for history in asked(log_of(rows), cadence).values()]
    assert sorted(histories) == ([0, 1] if cadence == "realtime" else [0, 0])
