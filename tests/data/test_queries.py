import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.contract.schema import DAY_MS
from data.queries import build_queries
from data.ranking import Catalogue, rank
from data.splits import TEST, VALID
from tests.data.rows import HIDE, NUM_USERS, SAVE, START, rows_of_a_log


def as_sets(queries):
    """user -> (items of the history, positives)."""
    found = {}
    for n, user in enumerate(queries.users.tolist()):
        one = queries.take(np.array([n]))
        found[user] = (one.history.item.tolist(), set(one.positives.tolist()))
    return found


@given(rows_of_a_log, st.sampled_from([VALID, TEST]), st.integers(1, 3))
def test_time_queries_know_only_the_days_before_the_part(log_of, rows, part, blocks):
    first, last = {VALID: (153, 166), TEST: (167, 180)}[part]
    expected = {}
    for user in {row[0] for row in rows}:
        own = sorted((row for row in rows if row[0] == user), key=lambda row: row[3])
        history = [item for _, item, _, day, _ in own if day < first]
        positives = {i for _, i, a, day, _ in own if a == SAVE and first <= day <= last}
        if positives - set(history):
            expected[user] = (history, positives - set(history))
    queries = build_queries(log_of(rows, blocks=blocks), part, max_users=100)
    assert as_sets(queries) == expected
    assert queries.now_ms.tolist() == [START + (first - 1) * DAY_MS] * len(queries)
    assert (queries.history.timestamp < queries.now_ms[queries.history_owners]).all()


@given(rows_of_a_log, st.sampled_from([VALID, TEST]), st.sampled_from(["clock", "position"]))
def test_held_out_queries_know_only_what_precedes_the_target(log_of, rows, part, order):
    expected = {}
    for user in {row[0] for row in rows}:
        own = sorted((row for row in rows if row[0] == user), key=lambda row: row[3])
        saves = [n for n, row in enumerate(own) if row[2] == SAVE]
        held_out = 1 if part == TEST else 2
        if len(saves) > held_out:
            target = saves[-held_out]
            history = [row[1] for row in own[:target]]
            if own[target][1] not in history:
                expected[user] = (history, {own[target][1]})
    log = log_of(rows, kind="leave_one_out", order=order)
    queries = build_queries(log, part, max_users=100)
    assert as_sets(queries) == expected
    assert (queries.now_ms is None) == (order == "position")


@given(rows_of_a_log, st.sampled_from([VALID, TEST]))
def test_column_queries_know_the_earlier_parts(log_of, rows, part):
    expected = {}
    for user in {row[0] for row in rows}:
        own = sorted((row for row in rows if row[0] == user), key=lambda row: row[3])
        history = [row[1] for row in own if row[4] < part]
        fresh = {row[1] for row in own if row[4] == part and row[2] == SAVE} - set(history)
        if fresh:
            expected[user] = (history, fresh)
    queries = build_queries(log_of(rows, kind="column", order="none"), part, max_users=100)
    assert as_sets(queries) == expected
    assert queries.now_ms is None


@given(rows_of_a_log, st.integers(1, 6), st.integers(2, 5))
def test_drawn_users_do_not_depend_on_the_blocks(log_of, rows, max_users, blocks):
    whole = build_queries(log_of(rows), TEST, max_users)
    parts = build_queries(log_of(rows, blocks=blocks), TEST, max_users)
    everyone = build_queries(log_of(rows), TEST, 100)
    assert len(whole) == min(max_users, len(everyone))
    assert as_sets(whole) == as_sets(parts)
    assert as_sets(whole).items() <= as_sets(everyone).items()


def test_another_seed_draws_other_users(log_of):
    rows = [(user, 1, SAVE, 170, 2) for user in range(1, NUM_USERS + 1)]
    drawn = {tuple(build_queries(log_of(rows, seed=s), TEST, 4).users) for s in range(8)}
    assert len(drawn) > 1


@given(rows_of_a_log)
def test_chunks_are_the_queries_in_order(log_of, rows):
    queries = build_queries(log_of(rows), TEST, 100)
    chunks = list(queries.chunks(2))
    assert [len(c) for c in chunks[:-1]] == [2] * (len(chunks) - 1)
    joined = {user: line for chunk in chunks for user, line in as_sets(chunk).items()}
    assert joined == as_sets(queries)


def test_a_query_moment_is_the_held_out_event_when_there_is_a_clock(log_of):
    rows = [(1, 1, SAVE, 3, 0), (1, 2, SAVE, 5, 0), (1, 3, SAVE, 9, 0)]
    queries = build_queries(log_of(rows, "leave_one_out"), TEST, 5)
    assert (queries.now_ms - START) // DAY_MS + 1 == [9]


def test_what_was_hidden_can_be_asked_for_too(log_of):
    rows = [(1, 1, SAVE, 3, 0), (1, 2, HIDE, 170, 0), (1, 3, SAVE, 171, 0), (2, 4, HIDE, 171, 0)]
    log = log_of(rows)
    assert as_sets(build_queries(log, TEST, 5)).keys() == {1}
    asked = build_queries(log, TEST, 5, (SAVE, HIDE))
    assert asked.users.tolist() == [1, 2]
    assert asked.positives.tolist() == [2, 3, 4]


def test_a_log_outside_its_windows_gives_no_queries(log_of):
    log = log_of([(1, 1, SAVE, 3, 0)])
    queries = build_queries(log, TEST, 5)
    assert len(queries) == 0
    assert (
        rank(lambda q: np.zeros((len(q), 13)), queries, Catalogue.of(log.dataset), 3).items.size
        == 0
    )


def test_users_who_join_after_the_moment_are_not_asked(log_of):
    log = log_of([(user, 1, SAVE, 170, 2) for user in (1, 2, 3)])
    log.dataset.users_created_at[1:4] = START + np.array([165, 166, 167]) * DAY_MS
    assert build_queries(log, TEST, 5).users.tolist() == [1, 2]
