import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve.candidates import (
    Candidates,
    Found,
    depths,
    in_turns,
    merge,
    shares_of_list,
    without_duplicates,
)

NONE = np.zeros(0, np.int64)


def found(source: str, rows: list[int]) -> Found:
    return Found(source, np.array(rows, np.int64), -np.arange(len(rows), dtype=np.float32))


def test_each_source_gets_its_share() -> None:
    lists = [found("a", list(range(100))), found("b", list(range(1000, 1100)))]
    merged = merge(lists, NONE, {"a": 0.75, "b": 0.25}, 40)
    assert np.bincount(merged.source).tolist() == [30, 10]


def test_a_share_is_one_of_items_that_no_source_before_has() -> None:
    lists = [found("a", list(range(100))), found("b", list(range(5, 105)))]
    merged = merge(lists, NONE, {"a": 0.75, "b": 0.25}, 40)
    assert np.bincount(merged.source).tolist() == [30, 10]
    assert merged.rows[merged.source == 1].tolist() == list(range(30, 40))


def test_what_a_source_leaves_goes_to_the_others() -> None:
    lists = [found("a", [1, 2]), found("b", list(range(1000, 1100)))]
    merged = merge(lists, NONE, {"a": 0.9, "b": 0.1}, 20)
    assert np.bincount(merged.source).tolist() == [2, 18]


def test_no_source_no_candidates() -> None:
    assert len(merge([], NONE, {}, 10).rows) == 0


rows = st.lists(st.integers(0, 40), unique=True, max_size=30)


@given(st.lists(rows, min_size=1, max_size=4), st.sets(st.integers(0, 40)), st.integers(1, 50))
def test_merging_gives_distinct_allowed_rows_and_as_many_as_there_are(
    lists: list[list[int]], excluded: set[int], limit: int
) -> None:
    names = [f"s{n}" for n in range(len(lists))]
    together = [found(name, one) for name, one in zip(names, lists, strict=True)]
    merged = merge(together, np.array(sorted(excluded), np.int64), {}, limit)
    available = set().union(*lists) - excluded
    assert len(set(merged.rows.tolist())) == len(merged.rows) == min(limit, len(available))
    assert set(merged.rows.tolist()) <= available
    for row, source in zip(merged.rows.tolist(), merged.source.tolist(), strict=True):
        assert row in lists[source]


def test_lists_take_turns_by_their_shares() -> None:
    lists = [np.arange(10), np.arange(100, 110), np.arange(100, 104)]
    found = in_turns(lists, np.array([0.5, 0.25, 0.25], np.float32))
    assert found[:6].tolist() == [0, 1, 100, 2, 3, 101]
    assert sorted(found.tolist()) == [*range(10), *range(100, 110)]


@given(st.lists(rows.filter(len), min_size=1, max_size=4), st.data())
def test_turns_give_every_row_once_and_keep_the_order_of_a_list(
    lists: list[list[int]], data: st.DataObject
) -> None:
    share = st.floats(0.0625, 1, width=32)
    shares = np.array(data.draw(st.lists(share, min_size=len(lists), max_size=len(lists))))
    found = in_turns([np.array(one) for one in lists], shares.astype(np.float32)).tolist()
    assert sorted(found) == sorted(set().union(*lists))
    assert len(lists) > 1 or found == lists[0]


def test_shares_of_interests_stand_beside_what_is_found_for_all_of_a_user() -> None:
    found = shares_of_list(np.array([[0.5, 0.25, 0.25], [0, 0, 0]], np.float32))
    assert found.tolist() == [[0.5, 0.25, 0.125, 0.125], [1, 0, 0, 0]]


def test_the_first_of_each_image_is_kept() -> None:
    candidates = Candidates(np.arange(5), np.zeros(5, np.int64), ("a",))
    kept = without_duplicates(candidates, np.array([7, -1, 7, 8, -4]))
    assert kept.rows.tolist() == [0, 1, 3, 4]


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6), st.integers(1, 500))
def test_lists_are_asked_for_twice_their_share_and_never_for_more_than_all(
    shares: list[float], limit: int
) -> None:
    deep = depths(limit, np.float32(shares))
    assert (deep <= limit).all()
    assert deep.sum() >= limit
    assert len(shares) > 1 or deep.tolist() == [limit]
