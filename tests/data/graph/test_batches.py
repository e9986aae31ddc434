import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.graph.batches import graph_arrays
from data.graph.example_rows import Examples, example_table
from data.graph.pairs import USER_ITEM, Pairs
from data.graph.walks import Neighborhoods

WIDTH = 3


def near(nodes: np.ndarray) -> Neighborhoods:
    """Neighbours that follow from the node: n + 1, n + 2 and none."""
    neighbors = np.stack([nodes + 1, nodes + 2, nodes * 0], axis=1).astype(np.int32)
    weights = np.tile(np.float32([0.75, 0.25, 0.0]), (len(nodes), 1))
    return Neighborhoods(neighbors, weights)


def examples(
    query: list[int], objective: list[int], items: list[list[int]], num_random: int = 1
) -> Examples:
    pairs = Pairs(np.array(objective), np.array(query), np.array(items)[:, 0])
    rows = np.array(items)
    table = example_table(pairs, near(pairs.query), rows, near(rows.ravel()))
    return Examples.of(table, num_random)


def test_rows_travel_unchanged() -> None:
    made = examples([4, 9], [0, USER_ITEM], [[5, 6, 7], [8, 5, 0]])
    assert made.items.tolist() == [[5, 6, 7], [8, 5, 0]]
    assert made.neighbors[1].tolist() == [[10, 11, 0], [9, 10, 0], [6, 7, 0], [1, 2, 0]]
    assert made.of_users.tolist() == [False, True]
    assert made.drawn.tolist() == [6, 5]
    assert made.take(np.array([1])).query.tolist() == [9]
    assert len(made) == 2


LINE = st.tuples(st.integers(1, 9), st.sampled_from([0, 1, USER_ITEM]), st.integers(1, 9))


@given(st.lists(LINE, min_size=1, max_size=8), st.integers(0, 2))
def test_every_node_has_its_own_neighbours(lines: list[tuple[int, int, int]], hard: int) -> None:
    query, objective, positive = (list(column) for column in zip(*lines, strict=True))
    items = [[p, 1 + (p + 3) % 9, *range(hard)] for p in positive]
    made = examples(query, objective, items)
    pool = np.unique(made.items[:, :2])
    found = graph_arrays(made, pool)
    arrays = found.arrays
    own = found.items[arrays["node.item"]]
    of_items = found.items[arrays["node.neighbors"][: len(own)]]
    expected = near(own).neighbors
    assert np.array_equal(of_items, expected)
    users = arrays["node.neighbors"][len(own) :]
    assert np.array_equal(found.items[users], near(made.query[made.of_users]).neighbors)
    assert arrays["node.weights"].shape == arrays["node.neighbors"].shape
    assert own[arrays["positive"]].tolist() == positive
    assert np.array_equal(own[arrays["pool.node"]], pool)
    for at, (node, of_user) in enumerate(zip(arrays["query"], made.of_users, strict=True)):
        if of_user:
            assert found.users[node - len(own)] == query[at]
        else:
            assert own[node] == query[at]


def test_known_items_are_no_negatives_and_missing_hard_ones_are_marked() -> None:
    made = examples([4, 4], [0, USER_ITEM], [[7, 9, 0], [8, 9, 7]])
    pool = np.array([4, 5, 6, 7, 8, 9])
    found = graph_arrays(made, pool)
    pairs = zip(found.arrays["known.query"], pool[found.arrays["known.pool"]], strict=True)
    # The item 4 and its positive 7; of the user the positive 8, and 5 and 6 who stand for them.
    assert {(int(q), int(i)) for q, i in pairs} == {(0, 4), (0, 7), (1, 8), (1, 5), (1, 6)}
    rows = found.items[found.arrays["node.item"]]
    hard = found.arrays["hard.node"][:, 0]
    assert hard[0] == -1
    assert rows[hard[1]] == 7


def test_a_batch_without_users_looks_up_the_unknown_one() -> None:
    found = graph_arrays(examples([4], [0], [[7, 9]]), np.array([7, 9]))
    assert found.users.tolist() == [0]
    assert len(found.arrays["node.neighbors"]) == len(found.arrays["node.item"])


@pytest.mark.parametrize("chunks", [1, 2])
def test_examples_open_from_any_chunks(chunks: int) -> None:
    query = np.arange(1, 5)
    items = np.stack([query + 1, query + 2], axis=1)
    pairs = Pairs(np.zeros(4, np.int64), query, items[:, 0])
    whole = example_table(pairs, near(query), items, near(items.ravel()))
    cut = pa.concat_tables(whole.slice(at, 4 // chunks) for at in range(0, 4, 4 // chunks))
    opened = Examples.of(cut, 1)
    assert opened.items.tolist() == items.tolist()
    assert np.array_equal(opened.neighbors, Examples.of(whole, 1).neighbors)
