import dataclasses
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.baselines import ItemNeighbors, Popularity
from data.contract.schema import DAY_MS, Calendar, Vocabulary
from data.queries import SplitLog, build_queries
from data.ranking import Catalogue, rank
from data.splits import TEST, VALID, SplitSettings
from data.timelines import group
from data.windows import WindowSettings, resolve

SAVE, HIDE = 1, 2
START = 1_700_000_000_000 // DAY_MS * DAY_MS
NUM_ITEMS, NUM_USERS = 12, 9


def log_of(rows, kind="time", order="clock", blocks=1, seed=0):
    """A log of (user, item, action, day, part) rows; users are dealt to `blocks` tables."""
    user, item, action, day, part = (np.array(x) for x in zip(*rows, strict=True))
    calendar = Calendar(first_day_ms=START, num_days=180, base_days=180)
    count = len(rows)
    events = pa.table(
        {
            "user": user,
            "item": item,
            "action": action,
            "surface": np.ones(count, np.int16),
            "timestamp": START + (day - 1) * DAY_MS + np.arange(count),
            "duration_s": np.zeros(count, np.float32),
            "part": part,
        }
    )
    tables = [
        group(events.filter(pa.array(user % blocks == b)), day[user % blocks == b])
        for b in range(blocks)
    ]
    dataset = SimpleNamespace(
        vocabulary=Vocabulary(
            order=order, actions=("save", "hide"), polarity=("positive", "negative")
        ),
        calendar=calendar if order == "clock" else None,
        item_ids=SimpleNamespace(rows=NUM_ITEMS + 1, first_row=1),
        user_ids=SimpleNamespace(rows=NUM_USERS + 1),
        items_created_at=np.zeros(NUM_ITEMS + 1, np.int64),
        users_created_at=np.zeros(NUM_USERS + 1, np.int64),
        timelines=lambda: iter(tables),
    )
    column = "part" if kind == "column" else None
    windows = resolve(WindowSettings(), calendar) if kind == "time" else None
    return SplitLog(dataset, SplitSettings(kind=kind, column=column), windows, seed)


def as_sets(queries):
    """user -> (items of the history, positives)."""
    found = {}
    for n, user in enumerate(queries.users.tolist()):
        one = queries.take(np.array([n]))
        found[user] = (one.history.item.tolist(), set(one.positives.tolist()))
    return found


events = st.lists(
    st.tuples(
        st.integers(1, NUM_USERS),
        st.integers(1, NUM_ITEMS),
        st.sampled_from([SAVE, HIDE]),
        st.integers(1, 180),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=60,
)


@given(events, st.sampled_from([VALID, TEST]), st.integers(1, 3))
def test_time_queries_know_only_the_days_before_the_part(rows, part, blocks):
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


@given(events, st.sampled_from([VALID, TEST]), st.sampled_from(["clock", "position"]))
def test_held_out_queries_know_only_what_precedes_the_target(rows, part, order):
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


@given(events, st.sampled_from([VALID, TEST]))
def test_column_queries_know_the_earlier_parts(rows, part):
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


@given(events, st.integers(1, 6), st.integers(2, 5))
def test_drawn_users_do_not_depend_on_the_blocks(rows, max_users, blocks):
    whole = build_queries(log_of(rows), TEST, max_users)
    parts = build_queries(log_of(rows, blocks=blocks), TEST, max_users)
    everyone = build_queries(log_of(rows), TEST, 100)
    assert len(whole) == min(max_users, len(everyone))
    assert as_sets(whole) == as_sets(parts)
    assert as_sets(whole).items() <= as_sets(everyone).items()


def test_another_seed_draws_other_users():
    rows = [(user, 1, SAVE, 170, 2) for user in range(1, NUM_USERS + 1)]
    drawn = {tuple(build_queries(log_of(rows, seed=s), TEST, 4).users) for s in range(8)}
    assert len(drawn) > 1


@given(events)
def test_chunks_are_the_queries_in_order(rows):
    queries = build_queries(log_of(rows), TEST, 100)
    chunks = list(queries.chunks(2))
    assert [len(c) for c in chunks[:-1]] == [2] * (len(chunks) - 1)
    joined = {user: line for chunk in chunks for user, line in as_sets(chunk).items()}
    assert joined == as_sets(queries)


@given(events, st.integers(1, NUM_ITEMS + 3), st.integers(0, 100))
def test_rank_gives_the_best_items_that_may_be_shown(rows, k, seed):
    log = log_of(rows, blocks=2)
    rng = np.random.default_rng(seed)
    log.dataset.items_created_at[1:] = START + rng.integers(0, 200, NUM_ITEMS) * DAY_MS
    catalogue = Catalogue.of(log.dataset)
    queries = build_queries(log, TEST, 100)
    table = rng.permutation(NUM_USERS * 20 + 20).reshape(-1, 20)[:, : catalogue.rows]
    ranking = rank(lambda q: table[q.users % len(table)].astype(np.float32), queries, catalogue, k)
    assert ranking.items.shape == (len(queries), k)
    for n, (user, (seen, positives)) in enumerate(as_sets(queries).items()):
        now = queries.now_ms[n]
        allowed = [r for r in range(1, catalogue.rows) if catalogue.created_at[r] <= now]
        best = sorted(set(allowed) - set(seen), key=lambda r: -table[user % len(table), r])[:k]
        assert ranking.items[n].tolist() == best + [-1] * (k - len(best))
        assert ranking.hits[n].tolist() == [r in positives for r in ranking.items[n].tolist()]
        assert ranking.num_positives[n] == len(positives)


def test_rank_refuses_scores_that_are_not_numbers():
    queries = build_queries(log_of([(1, 1, SAVE, 170, 2)]), TEST, 5)
    catalogue = Catalogue(np.ones(4, bool), np.zeros(4, np.int64))
    with pytest.raises(ValueError, match="NaN"):
        rank(lambda q: np.full((len(q), 4), np.nan, np.float32), queries, catalogue, 2)


def test_popularity_halves_with_age_and_reads_nothing_of_the_part():
    rows = [(1, 1, SAVE, 166, 0), (1, 2, SAVE, 156, 0), (2, 3, SAVE, 167, 2), (2, 4, HIDE, 166, 0)]
    log = log_of(rows)
    counts = Popularity.fit(log, TEST, half_life_days=10).counts
    assert counts[1] / counts[2] == pytest.approx(2)
    assert counts[3] == counts[4] == 0
    assert not Popularity.fit(log, VALID, half_life_days=10).counts[1:3:2].any()


def test_popularity_of_a_log_without_a_clock_counts():
    rows = [(u, 1, SAVE, d, 0) for u in (1, 2) for d in (1, 2, 3)] + [(1, 2, SAVE, 4, 0)]
    counts = Popularity.fit(log_of(rows, "leave_one_out", "position"), TEST, 1).counts
    assert counts[1:3].tolist() == [5, 0]


@given(events, st.integers(1, 5))
def test_neighbors_equal_the_dense_cosine(rows, kept):
    log = log_of(rows, kind="column", order="none", blocks=2)
    found = ItemNeighbors.fit(log, TEST, neighbors=kept).similarity.toarray()
    sets = np.zeros((NUM_USERS + 1, NUM_ITEMS + 1))
    for user, item, action, _, part in rows:
        if action == SAVE and part < TEST:
            sets[user, item] = 1
    norms = np.sqrt(np.maximum(sets.sum(axis=0), 1))
    cosine = sets.T @ sets / norms / norms[:, None]
    np.fill_diagonal(cosine, 0)
    lines = np.sort(cosine, axis=1)[:, -kept:]
    assert np.sort(found, axis=1)[:, -kept:] == pytest.approx(lines, abs=1e-6)
    assert ((np.abs(found - cosine) < 1e-6) | (found == 0)).all()


def test_neighbor_scores_sum_over_the_positive_history():
    rows = [(u, i, SAVE, 1, 0) for u, items in {1: (1, 2), 2: (1, 3)}.items() for i in items]
    asked = [(3, 1, SAVE, 1, 0), (3, 2, SAVE, 2, 0), (3, 3, HIDE, 3, 0), (3, 5, SAVE, 170, 2)]
    log = log_of(rows + asked)
    neighbors = ItemNeighbors.fit(log, TEST)
    scores = neighbors.scores(build_queries(log, TEST, 5))
    dense = neighbors.similarity.toarray()
    assert scores[0] == pytest.approx(dense[1] + dense[2])


def test_a_query_moment_is_the_held_out_event_when_there_is_a_clock():
    rows = [(1, 1, SAVE, 3, 0), (1, 2, SAVE, 5, 0), (1, 3, SAVE, 9, 0)]
    queries = build_queries(log_of(rows, "leave_one_out"), TEST, 5)
    assert (queries.now_ms - START) // DAY_MS + 1 == [9]


def test_a_log_outside_its_windows_gives_no_queries():
    log = log_of([(1, 1, SAVE, 3, 0)])
    queries = build_queries(log, TEST, 5)
    assert len(queries) == 0
    assert (
        rank(lambda q: np.zeros((len(q), 13)), queries, Catalogue.of(log.dataset), 3).items.size
        == 0
    )


def test_days_after_the_reported_ones_are_known_to_nobody():
    log = log_of([(1, 1, SAVE, 180, 0), (2, 2, SAVE, 179, 0), (2, 3, SAVE, 160, 0)])
    windows = dataclasses.replace(log.windows, test=(167, 179))
    late = dataclasses.replace(log, windows=windows)
    assert Popularity.fit(late, TEST, half_life_days=10).counts.nonzero()[0].tolist() == [3]


def test_users_who_join_after_the_moment_are_not_asked():
    log = log_of([(user, 1, SAVE, 170, 2) for user in (1, 2, 3)])
    log.dataset.users_created_at[1:4] = START + np.array([165, 166, 167]) * DAY_MS
    assert build_queries(log, TEST, 5).users.tolist() == [1, 2]
