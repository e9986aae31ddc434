import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.encode import Events
from data.graph.pairs import (
    CO_BOARD,
    NEXT_ENGAGEMENT,
    USER_ITEM,
    co_board,
    joined,
    next_engagements,
    other_items,
    user_items,
)
from tests.data.graph.test_walks import graph_of


def engaged(*users: list[tuple[int, int]]) -> Events:
    """Events of users, each (item, hour)."""
    item, hour = np.array([event for user in users for event in user], np.int64).reshape(-1, 2).T
    lengths = [len(user) for user in users]
    ones = np.ones(len(item), np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Events(offsets, item, ones, ones, hour * 3_600_000, ones.astype(np.float32))


def test_an_item_is_paired_with_what_its_user_engaged_with_next() -> None:
    events = engaged([(3, 0), (4, 1), (4, 2), (5, 60)], [], [(7, 0), (8, 1)])
    every = next_engagements(events, None)
    assert list(zip(every.query, every.positive, strict=True)) == [(3, 4), (4, 5), (7, 8)]
    assert set(every.objective) == {NEXT_ENGAGEMENT}
    soon = next_engagements(events, 24 * 3_600_000)
    assert list(zip(soon.query, soon.positive, strict=True)) == [(3, 4), (7, 8)]


def test_items_off_the_boards_make_no_pair() -> None:
    graph = graph_of([(0, 1), (0, 2)])
    found = co_board(graph, engaged([(1, 0), (5, 1), (2, 2)]), np.random.default_rng(0))
    assert set(zip(found.query.tolist(), found.positive.tolist(), strict=True)) <= {(1, 2), (2, 1)}
    assert len(found.query) == 2


def test_pairs_of_several_objectives_stand_one_after_the_other() -> None:
    events = engaged([(3, 0), (4, 1)])
    graph = graph_of([(0, 3), (0, 4)])
    found = joined(
        [
            next_engagements(events, None),
            co_board(graph, events, np.random.default_rng(0)),
            user_items(np.array([9]), events),
        ]
    )
    assert found.objective.tolist() == [
        NEXT_ENGAGEMENT,
        CO_BOARD,
        CO_BOARD,
        USER_ITEM,
        USER_ITEM,
    ]
    assert found.query.tolist() == [3, 3, 4, 9, 9]


@given(st.lists(st.integers(0, 6), max_size=5), st.integers(1, 5), st.booleans())
def test_a_user_is_their_other_items_and_never_the_one_asked_for(
    lengths: list[int], width: int, ordered: bool
) -> None:
    users = [[(10 * u + place + 1, place) for place in range(n)] for u, n in enumerate(lengths)]
    events = engaged(*users)
    found = other_items(events, width, ordered, np.random.default_rng(0))
    row = 0
    for user in users:
        items = [item for item, _ in user]
        for place, item in enumerate(items):
            near = [n for n in found.neighbors[row].tolist() if n]
            others = items[:place] if ordered else [i for i in items if i != item]
            assert item not in near
            assert set(near) <= set(others)
            assert len(set(near)) == len(near) == min(len(others), width)
            if ordered:
                assert near == items[:place][::-1][:width]
            assert found.weights[row].sum() == pytest.approx(float(bool(near)))
            row += 1
    assert row == len(found.neighbors)
