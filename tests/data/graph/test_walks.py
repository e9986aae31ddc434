import numba
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.graph.store import EDGE, Graph
from data.graph.walks import WalkSettings, co_items, rank_band, sample


def graph_of(
    edges: list[tuple[int, int]], weights: list[float] | None = None, size: tuple[int, int] = (8, 6)
) -> Graph:
    """Edges are (board, item)."""
    board, item = np.array(edges, np.int64).reshape(-1, 2).T
    table = pa.table(
        [board, item, weights or [1.0] * len(edges), [0] * len(edges)],
        schema=EDGE,
    )
    return Graph.of(table, *size)


def random_graph(seed: int, items: int = 40, boards: int = 25, edges: int = 150) -> Graph:
    rng = np.random.default_rng(seed)
    pairs = zip(rng.integers(0, boards, edges), rng.integers(1, items, edges), strict=True)
    return graph_of([(int(b), int(i)) for b, i in pairs], size=(items, boards))


MANY = WalkSettings(neighbors=40, walks=40_000, max_hops=1)


def as_dict(
    graph: Graph, node: int, settings: WalkSettings, side: str = "item"
) -> dict[int, float]:
    found = sample(graph, np.array([node]), side, settings, 3)  # type: ignore[arg-type]
    there = found.neighbors[0] > 0
    return dict(
        zip(found.neighbors[0][there].tolist(), found.weights[0][there].tolist(), strict=True)
    )


def test_the_members_of_a_board_share_the_visits() -> None:
    star = graph_of([(0, 1), (0, 2), (0, 3), (0, 4)])
    assert as_dict(star, 1, MANY) == pytest.approx({2: 1 / 3, 3: 1 / 3, 4: 1 / 3}, abs=0.02)


def test_walks_stay_in_their_piece_of_the_graph() -> None:
    pieces = graph_of([(0, 1), (0, 2), (1, 3), (1, 4)])
    assert set(as_dict(pieces, 1, WalkSettings())) == {2}
    assert set(as_dict(pieces, 3, WalkSettings())) == {4}


def test_an_edge_that_is_there_twice_is_walked_twice_as_often() -> None:
    twice = graph_of([(0, 1), (0, 2), (0, 2), (0, 3)])
    assert as_dict(twice, 1, MANY) == pytest.approx({2: 2 / 3, 3: 1 / 3}, abs=0.02)


def test_edges_are_walked_by_their_weights() -> None:
    weighted = graph_of([(0, 1), (0, 2), (0, 3), (1, 1), (1, 4)], [1.0, 3.0, 1.0, 2.0, 2.0])
    # Board 0 by 1/3, board 1 by 2/3; in board 0 items 1, 2, 3 by 1, 3, 1, in board 1 by halves.
    visits = {2: 1 / 3 * 3 / 5, 3: 1 / 3 * 1 / 5, 4: 2 / 3 * 1 / 2}
    total = sum(visits.values())
    expected = {item: share / total for item, share in visits.items()}
    assert as_dict(weighted, 1, MANY) == pytest.approx(expected, abs=0.02)


def test_a_board_is_walked_from_its_own_items_which_count() -> None:
    star = graph_of([(0, 1), (0, 2)])
    assert as_dict(star, 0, MANY, side="board") == pytest.approx({1: 0.5, 2: 0.5}, abs=0.02)


def test_nodes_without_an_edge_or_outside_the_graph_have_no_neighbours() -> None:
    star = graph_of([(0, 1), (0, 2)])
    found = sample(star, np.array([5, 7, 8, 1000, -1]), "item", WalkSettings(), 0)
    assert not found.neighbors.any()
    assert not found.weights.any()
    lonely = graph_of([(0, 1)])
    assert as_dict(lonely, 1, WalkSettings()) == {}


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_visits_are_those_of_the_exact_chain(hops: int) -> None:
    graph = random_graph(hops)
    settings = WalkSettings(neighbors=39, walks=60_000, max_hops=hops, stop=0.3)
    to_board = np.zeros((graph.num_items, graph.num_boards))
    for item in range(graph.num_items):
        edges = graph.items.indices[graph.items.indptr[item] : graph.items.indptr[item + 1]]
        np.add.at(to_board[item], edges, 1 / max(len(edges), 1))
    to_item = np.zeros((graph.num_boards, graph.num_items))
    for board in range(graph.num_boards):
        edges = graph.boards.indices[graph.boards.indptr[board] : graph.boards.indptr[board + 1]]
        np.add.at(to_item[board], edges, 1 / max(len(edges), 1))
    hop = to_board @ to_item
    start = int(np.flatnonzero(graph.items.degrees > 2)[0])
    here, expected = np.eye(graph.num_items)[start], np.zeros(graph.num_items)
    for number in range(hops):
        here = here @ hop
        expected += 0.7**number * here
    expected[start] = 0
    expected /= expected.sum()
    found = sample(graph, np.array([start]), "item", settings, 5)
    measured = np.zeros(graph.num_items)
    measured[found.neighbors[0]] = found.weights[0]
    assert measured == pytest.approx(expected, abs=0.01)


@given(st.integers(0, 3), st.lists(st.integers(0, 45), min_size=1, max_size=30), st.booleans())
def test_a_record_does_not_depend_on_who_else_is_asked_for(
    seed: int, nodes: list[int], k_hop: bool
) -> None:
    graph = random_graph(seed)
    settings = WalkSettings(neighbors=6, walks=20, kind="k_hop" if k_hop else "random_walk")
    together = sample(graph, np.array(nodes), "item", settings, seed)
    for place, node in enumerate(nodes):
        alone = sample(graph, np.array([node]), "item", settings, seed)
        assert np.array_equal(alone.neighbors[0], together.neighbors[place])
        assert np.array_equal(alone.weights[0], together.weights[place])


def test_threads_change_nothing_and_seeds_do() -> None:
    graph = random_graph(1, items=3000, boards=900, edges=20_000)
    nodes = np.arange(3000)
    before = numba.get_num_threads()
    found = []
    for threads in (1, min(2, before)):
        numba.set_num_threads(threads)
        found.append(sample(graph, nodes, "item", WalkSettings(), 7))
    numba.set_num_threads(before)
    assert np.array_equal(found[0].neighbors, found[1].neighbors)
    assert np.array_equal(found[0].weights, found[1].weights)
    other = sample(graph, nodes, "item", WalkSettings(), 8)
    assert not np.array_equal(found[0].neighbors, other.neighbors)


@given(st.integers(0, 20), st.sampled_from(["item", "board"]), st.integers(1, 60))
def test_weights_fall_and_add_up_to_one(seed: int, side: str, width: int) -> None:
    graph = random_graph(seed)
    size = graph.num_items if side == "item" else graph.num_boards
    settings = WalkSettings(neighbors=width, walks=30)
    found = sample(graph, np.arange(size), side, settings, seed)  # type: ignore[arg-type]
    some = found.weights.any(axis=1)
    assert found.weights.sum(axis=1)[some] == pytest.approx(1.0, abs=1e-5)
    assert (np.diff(found.weights, axis=1) <= 0).all()
    assert ((found.neighbors > 0) == (found.weights > 0)).all()
    if side == "item":
        assert not (found.neighbors == np.arange(size)[:, None])[1:].any()


def test_a_k_hop_neighbourhood_is_what_is_reached_all_alike() -> None:
    graph = graph_of([(0, 1), (0, 2), (0, 2), (0, 3), (1, 3), (1, 4)])
    one_hop = WalkSettings(kind="k_hop", walks=500, max_hops=1)
    assert as_dict(graph, 1, one_hop) == pytest.approx({2: 0.5, 3: 0.5})
    two_hops = WalkSettings(kind="k_hop", walks=500, max_hops=2)
    assert as_dict(graph, 1, two_hops) == pytest.approx({2: 1 / 3, 3: 1 / 3, 4: 1 / 3})


def test_of_a_large_k_hop_neighbourhood_any_may_be_kept() -> None:
    star = graph_of([(0, item) for item in range(1, 31)], size=(31, 1))
    settings = WalkSettings(kind="k_hop", walks=2000, max_hops=1, neighbors=5)
    kept = np.zeros(31)
    for seed in range(300):
        kept[sample(star, np.array([1]), "item", settings, seed).neighbors[0]] += 1
    assert kept[2:].min() > 20
    assert kept[2:].sum() == 300 * 5


def test_co_items_are_other_items_of_a_board() -> None:
    graph = graph_of([(0, 1), (0, 2), (1, 1), (1, 3), (2, 4)])
    found = co_items(graph, np.repeat([1, 2, 4, 5], 200), np.random.default_rng(0)).reshape(4, 200)
    assert set(found[0].tolist()) <= {0, 2, 3}
    assert {2, 3} <= set(found[0].tolist())
    assert set(found[1].tolist()) <= {0, 1}
    assert not found[2:].any()


def test_hard_negatives_come_from_the_band_of_ranks() -> None:
    edges = [(0, 1)] + [(0, 2)] * 50 + [(0, 3)] * 20 + [(0, 4)] * 5 + [(0, 5)]
    graph = graph_of(edges)
    longer = WalkSettings(walks=3000)
    rng = np.random.default_rng(0)
    found = rank_band(graph, np.array([1, 6]), longer, (1, 3), 64, rng)
    assert set(found[0].tolist()) == {3, 4}
    assert not found[1].any()
