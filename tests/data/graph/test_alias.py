import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.graph.alias import fill_aliases

WEIGHTS = st.floats(2.0**-10, 2.0**10, width=32)


def chances(indptr: list[int], weight: list[float]) -> np.ndarray:
    """How often each edge is drawn, by the table; the other end of an edge is its own place."""
    indices = np.arange(len(weight), dtype=np.int32)
    table = np.zeros(len(weight), np.uint64)
    fill_aliases(np.array(indptr), indices, np.array(weight, np.float32), table)
    stays = (table >> np.uint64(32)).astype(np.float64) / 2**32
    to = (table & np.uint64(0xFFFFFFFF)).astype(np.int64)
    drawn = stays.copy()
    np.add.at(drawn, to, 1 - stays)
    return drawn / np.repeat(np.diff(indptr), np.diff(indptr))


@given(st.lists(st.lists(WEIGHTS, max_size=12), max_size=5))
def test_an_edge_is_drawn_in_proportion_to_its_weight(nodes: list[list[float]]) -> None:
    indptr = np.cumsum([0, *map(len, nodes)]).tolist()
    expected = [w / sum(node) for node in nodes for w in node]
    assert chances(indptr, [w for node in nodes for w in node]) == pytest.approx(expected, abs=1e-6)


def test_equal_weights_are_drawn_alike() -> None:
    assert chances([0, 3, 4], [7.0, 7.0, 7.0, 0.1]) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1.0])


def test_one_heavy_edge_among_many_light_ones_takes_its_share() -> None:
    weight = [1.0] * 999 + [999.0]
    assert chances([0, 1000], weight)[-1] == pytest.approx(0.5)
