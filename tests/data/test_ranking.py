from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.schema import DAY_MS
from data.queries import build_queries
from data.ranking import Catalogue, rank
from data.splits import TEST
from tests.data.rows import NUM_ITEMS, NUM_USERS, SAVE, START, rows_of_a_log


@given(rows_of_a_log, st.integers(1, NUM_ITEMS + 3), st.integers(0, 100))
def test_rank_gives_the_best_items_that_may_be_shown(log_of, rows, k, seed):
    log = log_of(rows, blocks=2)
    rng = np.random.default_rng(seed)
    log.dataset.items_created_at[1:] = START + rng.integers(0, 200, NUM_ITEMS) * DAY_MS
    catalogue = Catalogue.of(log.dataset)
    queries = build_queries(log, TEST, 100)
    table = rng.permutation(NUM_USERS * 20 + 20).reshape(-1, 20)[:, : catalogue.rows]
    ranking = rank(lambda q: table[q.users % len(table)].astype(np.float32), queries, catalogue, k)
    assert ranking.items.shape == (len(queries), k)
    for n, user in enumerate(queries.users.tolist()):
        one = queries.take(np.array([n]))
        seen, positives, now = one.history.item.tolist(), one.positives.tolist(), one.now_ms[0]
        allowed = [r for r in range(1, catalogue.rows) if catalogue.created_at[r] <= now]
        best = sorted(set(allowed) - set(seen), key=lambda r: -table[user % len(table), r])[:k]
        assert ranking.items[n].tolist() == best + [-1] * (k - len(best))
        assert ranking.hits[n].tolist() == [r in positives for r in ranking.items[n].tolist()]
        assert ranking.num_positives[n] == len(positives)


@given(rows_of_a_log, st.integers(1, NUM_ITEMS + 1), st.integers(1, 60))
def test_hits_found_some_queries_at_a_time_are_those_of_all(log_of, rows, k, at_once):
    log = log_of(rows, blocks=2)
    queries, catalogue = build_queries(log, TEST, 100), Catalogue.of(log.dataset)
    table = np.random.default_rng(k).random((NUM_USERS + 1, catalogue.rows)).astype(np.float32)
    with mock.patch("data.ranking.CHUNK_SLOTS", at_once):
        found = rank(lambda q: table[q.users], queries, catalogue, k)
    own = np.split(queries.positives, np.cumsum(queries.num_positives))
    expected = [np.isin(line, positives) for line, positives in zip(found.items, own, strict=False)]
    assert found.hits.tolist() == [hits.tolist() for hits in expected]


@given(rows_of_a_log, st.integers(0, 100))
def test_queries_of_many_moments_are_scored_by_day_and_answered_in_their_order(log_of, rows, seed):
    log = log_of(rows, blocks=2)
    rng = np.random.default_rng(seed)
    found = build_queries(log, TEST, 100)
    queries = replace(found, now_ms=START + rng.integers(160, 170, len(found)) * DAY_MS)
    log.dataset.items_created_at[1:] = START + rng.integers(155, 175, NUM_ITEMS) * DAY_MS
    catalogue = Catalogue.of(log.dataset)
    table = rng.random((len(log.dataset.users_created_at), catalogue.rows)).astype(np.float32)
    asked = []

    def scorer(chunk):
        asked.extend(chunk.now_ms.tolist())
        return table[chunk.users]

    with mock.patch("data.ranking.CHUNK_SCORES", 3 * catalogue.rows):
        ranking = rank(scorer, queries, catalogue, 5)
    assert asked == sorted(queries.now_ms.tolist())
    for n in range(len(queries)):
        alone = rank(lambda q: table[q.users], queries.take(np.array([n])), catalogue, 5)
        assert ranking.items[n].tolist() == alone.items[0].tolist()


def test_rank_refuses_scores_that_are_not_numbers(log_of):
    queries = build_queries(log_of([(1, 1, SAVE, 170, 2)]), TEST, 5)
    catalogue = Catalogue(np.ones(4, bool), np.zeros(4, np.int64))
    with pytest.raises(ValueError, match="NaN"):
        rank(lambda q: np.full((len(q), 4), np.nan, np.float32), queries, catalogue, 2)
