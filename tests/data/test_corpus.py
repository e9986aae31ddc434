"""Blocked items, copies and what the size cuts off are left out, and nothing else is."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.schema import Calendar, Vocabulary
from data.contract.settings import UserError
from data.contract.signatures import Copies, image_keys
from data.corpus import (
    CorpusSettings,
    Standing,
    choose,
    engagement,
    fresh_items,
    popular_items,
    since_ms,
)

FIRST = 3
NONE = np.zeros(0, np.int64)

ITEM = st.tuples(st.integers(0, 5), st.integers(-3, 9), st.integers(0, 4))
SETTINGS = st.builds(
    CorpusSettings,
    size=st.one_of(st.none(), st.integers(1, 25)),
    fresh_share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)


def standing(items: list[tuple[int, int, int]]) -> Standing:
    """Items of (signature, own score, since), from row FIRST on."""
    signatures, own, since = (np.array(c, np.int64) for c in zip(*items, strict=True))
    rows = FIRST + np.arange(len(items))
    keys = image_keys(signatures, rows)
    own = own.astype(np.float64)
    return Standing(rows, keys, own, Copies.of(keys).summed(own), since)


@given(st.lists(ITEM, min_size=1, max_size=25), st.sets(st.integers(0, 24), max_size=8), SETTINGS)
def test_every_item_is_served_or_left_out_for_one_reason(
    items: list[tuple[int, int, int]], blocked: set[int], settings: CorpusSettings
) -> None:
    stand = standing(items)
    forbidden = FIRST + np.array(sorted(blocked), np.int64)
    corpus = choose(stand, forbidden, settings)
    assert corpus.items == len(items) == len(corpus.rows) + sum(corpus.left_out.values())
    assert corpus.left_out["blocked"] == np.isin(stand.rows, forbidden).sum()
    assert not np.isin(corpus.rows, forbidden).any()
    assert (np.diff(corpus.rows) > 0).all()
    images = len(set(stand.keys[~np.isin(stand.rows, forbidden)].tolist()))
    assert len(corpus.rows) == min(images, settings.size or images)
    served = stand.take(np.isin(stand.rows, corpus.rows))
    assert len(set(served.keys.tolist())) == len(corpus.rows)
    for key, own in zip(served.keys, served.own, strict=True):
        rivals = (stand.keys == key) & ~np.isin(stand.rows, forbidden)
        assert own == stand.own[rivals].max()


@given(st.lists(ITEM, min_size=1, max_size=25), SETTINGS)
def test_what_the_size_lets_in_is_the_newest_for_their_share_and_then_the_best(
    items: list[tuple[int, int, int]], settings: CorpusSettings
) -> None:
    stand = standing([(0, score, since) for _, score, since in items])
    chosen = np.isin(stand.rows, choose(stand, NONE, settings).rows)
    size = settings.size or len(items)
    quota = min(round(settings.fresh_share * size), int((stand.since_ms > 0).sum()))
    newest = np.lexsort((stand.rows, -stand.since_ms))[:quota]
    assert chosen.all() or chosen[newest].all()
    left = np.setdiff1d(np.flatnonzero(chosen), newest)
    if len(left) and not chosen.all():
        assert stand.scores[left].min() >= stand.scores[~chosen].max()


def test_a_small_catalogue_loses_nothing_by_default() -> None:
    stand = standing([(0, -100, 0), (0, 0, 0), (0, 5, 1)])
    corpus = choose(stand, NONE, CorpusSettings())
    assert corpus.rows.tolist() == stand.rows.tolist()
    assert not any(corpus.left_out.values())


def test_a_copy_counts_with_all_that_show_its_image() -> None:
    """Two copies of 3 each are together above 5, and the better one stands for both."""
    stand = standing([(0, 5, 0), (8, 2, 0), (8, 4, 0), (0, 1, 0)])
    settings = CorpusSettings(size=1, fresh_share=0.0)
    corpus = choose(stand, NONE, settings)
    assert corpus.rows.tolist() == [FIRST + 2]
    assert corpus.left_out == {"blocked": 0, "duplicate": 1, "below_score": 2}
    without = choose(stand, np.array([FIRST + 2]), settings)
    assert without.rows.tolist() == [FIRST + 1]


def dataset(folder: Any, events: list[tuple[int, int, int, int]], keys: Any = None) -> Any:
    """Ten rows; events are (day, item, action, count)."""
    columns = dict(zip(("day", "item", "action", "count"), zip(*events, strict=True), strict=True))
    pq.write_table(pa.table(columns), folder / "item_days.parquet")
    created = np.zeros(10, np.int64)
    created[5] = 50
    return SimpleNamespace(
        artifact=SimpleNamespace(path=folder),
        vocabulary=Vocabulary(
            order="clock",
            actions=("save", "hide", "view"),
            polarity=("positive", "negative", "neutral"),
        ),
        calendar=Calendar(first_day_ms=0, num_days=30),
        item_ids=SimpleNamespace(first_row=FIRST, rows=10, first_seen=np.arange(7) * 10),
        items_created_at=created,
        image_keys=-np.arange(10) if keys is None else np.array(keys),
    )


def test_a_score_is_the_sum_of_weights_that_fade(tmp_path: Any) -> None:
    data = dataset(tmp_path, [(1, 4, 1, 8), (21, 4, 2, 1), (11, 5, 1, 2), (21, 6, 3, 99)])
    found = Standing.of(data, CorpusSettings(half_life_days=10.0))
    assert found.rows.tolist() == list(range(FIRST, 10))
    assert found.scores.tolist() == [0, 8 / 4 - 1, 2 / 2, 0, 0, 0, 0]
    named = CorpusSettings(half_life_days=10.0, weights={"view": 0.5, "hide": -3.0})
    assert Standing.of(data, named).scores.tolist() == [0, 2 - 3, 1, 49.5, 0, 0, 0]
    with pytest.raises(UserError, match=r"corpus\.weights\.zap .* save, hide, view"):
        Standing.of(data, CorpusSettings(weights={"zap": 1.0}))


def test_age_is_from_the_last_day_that_counts(tmp_path: Any) -> None:
    data = dataset(tmp_path, [(5, 4, 1, 3), (30, 4, 3, 1)])
    assert engagement(data, (1.0, -1.0, 0.0), 1.0)[4] == 3


def test_a_day_after_the_log_makes_no_other_older(tmp_path: Any) -> None:
    data = dataset(tmp_path, [(30, 4, 1, 3), (29, 5, 1, 2), (27_000, 6, 1, 5)])
    assert engagement(data, (1.0, -1.0, 0.0), 1.0)[4:7].tolist() == [3, 1, 5]


def test_items_are_known_since_their_creation_or_first_event(tmp_path: Any) -> None:
    data = dataset(tmp_path, [(1, 4, 1, 1)])
    assert since_ms(data).tolist() == [0, 0, 0, 0, 10, 50, 30, 40, 50, 60]
    assert fresh_items(data, np.arange(FIRST, 10)).tolist() == [9, 5, 8, 7, 6, 4]


def test_popular_items_count_their_copies(tmp_path: Any) -> None:
    events = [(1, 4, 1, 3), (1, 5, 1, 2), (1, 6, 1, 2), (1, 7, 2, 50)]
    rows = np.array([4, 6, 7, 9])
    assert popular_items(dataset(tmp_path, events), rows, 7.0).tolist() == [4, 6, 7, 9]
    copies = dataset(tmp_path, events, [0, -1, -2, -3, -4, 66, 66, -7, -8, 66])
    assert popular_items(copies, rows, 7.0).tolist() == [6, 9, 4, 7]
