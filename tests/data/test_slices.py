import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from data.contract.encode import Events
from data.contract.schema import DAY_MS
from data.queries import Queries
from data.ranking import Catalogue, Ranking
from data.slices import (
    by_activity,
    by_age,
    by_interest,
    by_popularity,
    by_share,
    slice_recall,
)

NOW = 1000 * DAY_MS


def queries_of(history_lengths, positives, now_ms=None):
    """Queries with so many past events each (of item 1) and these positives."""
    lengths = np.array(history_lengths)
    total = int(lengths.sum())
    ones = np.ones(total, np.int64)
    events = Events(
        np.concatenate([[0], np.cumsum(lengths)]), ones, ones, ones, ones, ones.astype(np.float32)
    )
    return Queries(
        np.arange(len(lengths)),
        events,
        np.array([item for line in positives for item in line], np.int64),
        np.array([len(line) for line in positives]),
        now_ms,
    )


def ranking_of(items, queries):
    items = np.array(items)
    hits = np.zeros(items.shape, bool)
    for n in range(len(queries)):
        hits[n] = np.isin(items[n], queries.positives[queries.positive_owners == n])
    return Ranking(items, hits, queries.num_positives)


def test_activity_groups_users_by_their_number_of_events():
    queries = queries_of([0, 1, 9, 10, 49, 50, 199, 200, 900], [[2]] * 9)
    ranking = ranking_of([[2], [2], [3], [3], [2], [3], [3], [2], [2]], queries)
    found = slice_recall(by_activity(queries), ranking, queries, k=1)
    assert found.positives.tolist() == [1, 2, 2, 2, 2]
    assert found.recall == [1.0, 0.5, 0.5, 0.0, 1.0]


def test_only_the_first_k_ranks_count():
    queries = queries_of([5, 5], [[2, 3], [4]])
    ranking = ranking_of([[9, 2, 3], [4, 9, 8]], queries)
    group = by_activity(queries)
    hits = [slice_recall(group, ranking, queries, k).hits.sum() for k in (1, 2, 3)]
    assert hits == [1, 2, 3]


def test_popularity_cuts_the_live_items_into_tenths():
    counts = np.concatenate([[1e9], np.arange(100)]).astype(np.float32)
    catalogue = Catalogue(np.arange(101) > 0, np.zeros(101, np.int64))
    members = by_popularity(counts, catalogue).members(np.zeros(100, int), np.arange(1, 101))
    assert members.sum(axis=0).tolist() == [10] * 10
    assert members[0].argmax() == 0
    assert members[99].argmax() == 9


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_items_of_one_popularity_share_a_tenth(values):
    counts = np.array([0, *values], np.float32)
    catalogue = Catalogue(np.arange(len(counts)) > 0, np.zeros(len(counts), np.int64))
    rows = np.arange(1, len(counts))
    decile = by_popularity(counts, catalogue).members(rows * 0, rows).argmax(axis=1)
    for value in set(values):
        assert len(set(decile[counts[1:] == value])) == 1
    assert (np.diff(decile[np.argsort(counts[1:], kind="stable")]) >= 0).all()


def groups_by_share(counts, live=None):
    counts = np.array(counts, np.float32)
    there = np.ones(len(counts), bool) if live is None else np.array(live)
    rows = np.arange(len(counts))
    share = by_share(counts, Catalogue(there, np.zeros(len(counts), np.int64)))
    return share.members(rows * 0, rows).argmax(axis=1).tolist()


def test_head_holds_half_of_the_past_and_torso_the_next_three_tenths():
    assert groups_by_share([0, 30, 20, 15, 15, 14, 6, 0]) == [3, 0, 0, 1, 1, 2, 2, 3]
    assert groups_by_share([60, 25, 15]) == [0, 1, 2], "the item that crosses a border is before it"


def test_dead_rows_hold_no_share():
    assert groups_by_share([900, 50, 30, 20], live=[False, True, True, True]) == [3, 0, 1, 2]


def test_without_a_past_no_item_has_an_event():
    assert groups_by_share([0, 0, 0]) == [3, 3, 3]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_shares_equal_their_definition(values):
    total = sum(values)
    for value, group in zip(values, groups_by_share(values), strict=True):
        above = sum(other for other in values if other > value)
        expected = 0 if 2 * above < total else 1 if 10 * above < 8 * total else 2
        assert group == (expected if value else 3)


def test_age_is_counted_from_the_query():
    ages = [-1, 0.5, 3, 10, 60, 400]
    created = np.array([0, *(NOW - int(age * DAY_MS) for age in ages), 0])
    catalogue = Catalogue(np.arange(8) > 0, created)
    queries = queries_of([1], [[1, 2, 3, 4, 5, 6, 7]], np.array([NOW]))
    group = by_age(queries, catalogue)
    members = group.members(queries.positive_owners, queries.positives)
    assert members[:6].argmax(axis=1).tolist() == [0, 1, 2, 3, 4, 5]
    assert not members[6].any(), "an item of unknown age is in no group"


def test_age_needs_a_clock_and_creation_times():
    catalogue = Catalogue(np.ones(3, bool), np.array([0, 5, 5]))
    assert by_age(queries_of([1], [[1]]), catalogue) is None
    unknown = Catalogue(catalogue.live, np.zeros(3, np.int64))
    assert by_age(queries_of([1], [[1]], np.array([NOW])), unknown) is None


def test_interests_are_the_commonest_among_the_positives():
    column = pa.array([[], [7, 8], [8], [], [9]], pa.list_(pa.int64()))
    queries = queries_of([1, 1], [[1, 2], [2, 3]])
    group = by_interest(column, queries, most=2)
    ranking = ranking_of([[1, 4], [3, 4]], queries)
    found = slice_recall(group, ranking, queries, k=2)
    assert found.positives.tolist() == [1, 3]
    assert found.hits.tolist() == [1, 1]
    assert by_interest(column, queries_of([1], [[3]])) is None
