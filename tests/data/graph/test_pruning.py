from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.graph.pruning import (
    PruningSettings,
    about_everything,
    board_entropy,
    first_interests,
    kept_edges,
    pruned,
    strongest,
    topical,
)
from data.graph.store import EDGE

Row = tuple[int, int, float, int]  # board, item, weight, timestamp
Blocks = Callable[[], Iterator[pa.Table]]
SIZES = (7, 5)
GROUPS = np.array([0, 1, 1, 2, 2, 3, 3])
FEW = PruningSettings(max_edges=2)

ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 6), st.sampled_from([1.0, 2.0]), st.integers(0, 3)),
    max_size=40,
)


def table_of(rows: list[Row]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, EDGE, strict=True)], schema=EDGE)


def blocks_of(rows: list[Row], size: int = 3) -> Blocks:
    table = table_of(rows)

    def blocks() -> Iterator[pa.Table]:
        for start in range(0, len(rows), size):
            yield table.slice(start, size)

    return blocks


def rows_of(edges: Blocks) -> list[Row]:
    return [tuple(row.values()) for block in edges() for row in block.to_pylist()]


def plain(pairs: list[tuple[int, int]]) -> list[Row]:
    return [(board, item, 1.0, 0) for board, item in pairs]


def test_nodes_keep_a_power_of_their_degree_within_bounds() -> None:
    degrees = np.array([0, 3, 10, 11, 100, 1000, 10**6])
    settings = PruningSettings(degree_exponent=0.86)
    floors = [0, 3, 10, 10, 52, 380, 10_000]
    assert kept_edges(degrees, settings).tolist() == floors
    assert kept_edges(degrees, PruningSettings()).tolist() == [0, 3, 10, 11, 100, 1000, 10_000]
    assert kept_edges(degrees, FEW).tolist() == [0, 2, 2, 2, 2, 2, 2]


@given(ROWS, st.integers(1, 10))
def test_by_default_only_hubs_lose_edges(rows: list[Row], size: int) -> None:
    settings = PruningSettings()
    assert about_everything(blocks_of(rows, size), GROUPS, 5, settings) is None
    assert rows_of(pruned(blocks_of(rows, size), SIZES, settings, None)) == rows
    assert strongest(table_of(rows), settings).all()


def test_entropy_is_that_of_the_classes_a_board_holds() -> None:
    pairs = [(0, 1), (0, 2), (1, 1), (1, 3), (1, 4), (1, 4), (2, 1), (2, 3), (2, 5), (3, 0)]
    found = board_entropy(blocks_of(plain(pairs)), GROUPS, 5)
    quarter = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert found == pytest.approx([0, quarter, np.log(3), 0, 0])


@given(ROWS, st.integers(1, 10))
def test_entropy_does_not_depend_on_the_blocks(rows: list[Row], size: int) -> None:
    found = board_entropy(blocks_of(rows, size), GROUPS, 5)
    for board in range(5):
        groups = GROUPS[[item for b, item, _, _ in rows if b == board and item > 0]]
        shares = np.bincount(groups, minlength=4)[1:] / max(len(groups), 1)
        expected = -sum(s * np.log(s) for s in shares if s > 0)
        assert found[board] == pytest.approx(expected)


def test_boards_about_everything_lose_all_their_edges() -> None:
    pairs = [(0, 1), (0, 2), (1, 1), (1, 3), (2, 1), (2, 3), (2, 5)]
    # Board 1 has an entropy of ln 2, which is .63 of ln 3.
    settings = PruningSettings(max_entropy=0.66)
    dropped = about_everything(blocks_of(plain(pairs)), GROUPS, 5, settings)
    assert dropped is not None
    assert dropped.tolist() == [False, False, True, False, False]
    left = rows_of(pruned(blocks_of(plain(pairs)), SIZES, settings, dropped))
    assert left == plain(pairs[:4])


def test_hubs_keep_their_last_edges() -> None:
    pairs = [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (0, 3)]
    left = rows_of(pruned(blocks_of(plain(pairs)), SIZES, FEW, None))
    # Board 0 had items 1, 2, 3 and keeps the last two; item 1 keeps boards 2 and 3.
    assert left == plain([(2, 1), (3, 1), (0, 2), (0, 3)])


@given(ROWS, st.integers(1, 10), st.integers(1, 4))
def test_no_node_keeps_more_than_its_share_whatever_the_blocks(
    rows: list[Row], size: int, most: int
) -> None:
    settings = PruningSettings(max_edges=most)
    left = rows_of(pruned(blocks_of(rows, size), SIZES, settings, None))
    assert left == rows_of(pruned(blocks_of(rows, 100), SIZES, settings, None))
    for end in (0, 1):
        assert np.bincount([row[end] for row in left], minlength=1).max() <= most


@given(ROWS, st.integers(1, 4))
def test_where_edges_are_alike_the_strongest_are_the_last(rows: list[Row], most: int) -> None:
    alike = [(board, item, 1.0, 0) for board, item, _, _ in rows]
    settings = PruningSettings(max_edges=most)
    kept = strongest(table_of(alike), settings)
    assert rows_of(lambda: iter([table_of(alike).filter(pa.array(kept))])) == rows_of(
        pruned(blocks_of(alike), SIZES, settings, None)
    )


def test_hubs_keep_their_heaviest_then_newest_edges() -> None:
    rows = [(0, 1, 1.0, 9), (1, 1, 2.0, 1), (2, 1, 1.0, 8), (3, 1, 3.0, 0), (4, 2, 1.0, 0)]
    assert strongest(table_of(rows), FEW).tolist() == [False, True, False, True, True]
    newest = [(board, item, 1.0, time) for board, item, _, time in rows]
    assert strongest(table_of(newest), FEW).tolist() == [True, False, True, False, True]


@given(ROWS, st.integers(1, 4))
def test_what_an_end_lets_go_is_weaker_than_all_it_keeps(rows: list[Row], most: int) -> None:
    kept = strongest(table_of(rows), PruningSettings(max_edges=most))
    ranked = [(weight, time, place) for place, (_, _, weight, time) in enumerate(rows)]
    for place in np.flatnonzero(~kept).tolist():
        stronger = [other for other in range(len(rows)) if ranked[other] > ranked[place]]
        around = [sum(rows[other][end] == rows[place][end] for other in stronger) for end in (0, 1)]
        assert max(around) >= most


VECTORS = np.array([[0, 0], [1, 0], [1, 0], [0, 1], [0, 1], [1, 0], [-1, 0]], np.float32)


def test_an_item_keeps_the_boards_that_are_most_about_it() -> None:
    # Board 0 is about x, 1 about y, 2 about both; item 5 (x) is on all three and on 3 alone.
    pairs = [(0, 1), (0, 2), (1, 3), (1, 4), (2, 1), (2, 3), (0, 5), (1, 5), (2, 5), (3, 5)]
    kept = topical(table_of(plain(pairs)), VECTORS, 0.5)
    assert kept[6:].tolist() == [True, False, False, True]  # two of four: 4^.5
    assert topical(table_of(plain(pairs)), VECTORS, 1.0).all()
    three = topical(table_of(plain(pairs)), VECTORS, 0.8)
    assert three[6:].tolist() == [True, False, True, True]


@given(ROWS, st.sampled_from([0.3, 0.7, 0.91, 1.0]))
def test_an_item_keeps_the_rounded_power_of_its_boards(rows: list[Row], exponent: float) -> None:
    kept = topical(table_of(rows), VECTORS, exponent)
    items = np.array([item for _, item, _, _ in rows], np.int64)
    degrees, left = (np.bincount(chosen, minlength=7) for chosen in (items, items[kept]))
    some = degrees > 0
    assert left[some].tolist() == np.rint(degrees[some].astype(float) ** exponent).tolist()
    assert (left[some] >= 1).all()


def dataset_of(lists: dict[str, list[list[int]]]) -> SimpleNamespace:
    features = [SimpleNamespace(name=name, kind="multi") for name in lists]
    columns = {
        name: SimpleNamespace(
            offsets=np.cumsum([0, *map(len, of_items)]), values=np.concatenate(of_items)
        )
        for name, of_items in lists.items()
    }
    rows = len(next(iter(lists.values()))) if lists else 3
    return SimpleNamespace(
        vocabulary=SimpleNamespace(item_features=features),
        item_ids=SimpleNamespace(rows=rows),
        items=SimpleNamespace(columns=columns),
    )


def test_the_class_of_an_item_is_its_first_interest() -> None:
    tags, interests = [[3], [3], [4], [3]], [[], [9, 2], [2], [9]]
    assert first_interests(dataset_of({"tags": tags, "interests": interests})).tolist() == [
        0,
        2,
        1,
        2,
    ]
    assert first_interests(dataset_of({"tags": tags})).tolist() == [1, 1, 2, 1]
    assert not first_interests(dataset_of({})).any()
