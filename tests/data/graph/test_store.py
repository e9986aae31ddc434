from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.graph.store import EDGE, Adjacency, Graph, build_graph


def table_of(rows: list[tuple[int, int, float, int]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, EDGE, strict=True)], schema=EDGE)


ROWS = st.lists(
    st.tuples(
        st.integers(0, 4), st.integers(0, 6), st.sampled_from([1.0, 2.0]), st.sampled_from([0, 9])
    ),
    max_size=25,
)


def same(one: Adjacency, other: Adjacency) -> bool:
    for name in Adjacency.__slots__:
        left, right = getattr(one, name), getattr(other, name)
        if (left is None) != (right is None):
            return False
        if left is not None and not np.array_equal(left, right):
            return False
    return True


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, st.integers(1, 30))
def test_a_graph_on_disk_is_the_graph_in_memory_whatever_the_blocks(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, float, int]], size: int
) -> None:
    folder = tmp_path_factory.mktemp("graph")
    table = table_of(rows)

    def blocks() -> Iterator[pa.Table]:
        for start in range(0, len(rows), size):
            yield table.slice(start, size)

    build_graph(blocks, 7, 5, folder)
    whole = Graph.of(table, 7, 5)
    for resident in (False, True):
        opened = Graph.open(folder, resident)
        assert same(opened.items, whole.items)
        assert same(opened.boards, whole.boards)
        assert opened.num_edges == len(rows)


def test_edges_of_a_node_stay_in_order_of_input() -> None:
    graph = Graph.of(table_of([(2, 1, 1.0, 5), (0, 1, 1.0, 7), (1, 1, 1.0, 6)]), 3, 3)
    assert graph.items.indices[graph.items.indptr[1] : graph.items.indptr[2]].tolist() == [2, 0, 1]
    assert graph.items.timestamp is not None
    assert graph.items.timestamp.tolist() == [5, 7, 6]
    assert graph.items.degrees.tolist() == [0, 3, 0]


def test_weights_and_times_that_say_nothing_take_no_room(tmp_path: Path) -> None:
    build_graph(lambda: iter([table_of([(0, 1, 1.0, 0)])]), 2, 1, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        f"{side}.{column}.npy" for side in ("items", "boards") for column in ("indptr", "indices")
    }


def test_weights_of_a_node_lie_beside_its_edges() -> None:
    graph = Graph.of(table_of([(0, 2, 1.0, 0), (0, 1, 3.0, 0), (1, 2, 2.0, 0)]), 3, 2)
    assert graph.boards.weight is not None
    assert graph.boards.weight.tolist() == [1.0, 3.0, 2.0]
    assert graph.items.weight is not None
    assert graph.items.weight.tolist() == [3.0, 1.0, 2.0]
    assert graph.items.alias is not None
    assert len(graph.items.alias) == 3


def test_an_edge_to_a_node_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="item 9 to 9 of 7"):
        build_graph(lambda: iter([table_of([(0, 9, 1.0, 0)])]), 7, 5, tmp_path)
    with pytest.raises(ValueError, match="board -1 to 0 of 5"):
        Graph.of(table_of([(0, 1, 1.0, 0), (-1, 1, 1.0, 0)]), 7, 5)
