from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.graph.store import EDGE, Adjacency, Graph, build_graph
from data.graph.walks import Neighborhoods, Side, WalkSettings, co_items, rank_band, sample

Matrix = npt.NDArray[np.float64]
Edges = list[tuple[int, int]]

MANY = WalkSettings(neighbors=40, walks=40_000, max_hops=1)
SIDES: tuple[Side, Side] = ("item", "board")


def table_of(edges: Edges, weights: list[float] | None = None) -> pa.Table:
    """Edges are (board, item)."""
    board, item = np.array(edges, np.int64).reshape(-1, 2).T
    columns = [board, item, weights or [1.0] * len(edges), [0] * len(edges)]
    return pa.table(columns, schema=EDGE)


def graph_of(
    edges: Edges, weights: list[float] | None = None, size: tuple[int, int] = (8, 6)
) -> Graph:
    return Graph.of(table_of(edges, weights), *size)


def random_table(
    seed: int, size: tuple[int, int] = (40, 25), edges: int = 150, weighted: bool = False
) -> pa.Table:
    rng = np.random.default_rng(seed)
    board, item = rng.integers(0, size[1], edges), rng.integers(1, size[0], edges)
    weights = rng.exponential(1, edges).tolist() if weighted else None
    return table_of(list(zip(board.tolist(), item.tolist(), strict=True)), weights)


def random_graph(seed: int, weighted: bool = False) -> Graph:
    return Graph.of(random_table(seed, weighted=weighted), 40, 25)


def shares(found: Neighborhoods, line: int = 0) -> dict[int, float]:
    there = found.neighbors[line] > 0
    pairs = zip(
        found.neighbors[line][there].tolist(), found.weights[line][there].tolist(), strict=True
    )
    return dict(pairs)


def around(
    graph: Graph, node: int, settings: WalkSettings, side: Side = "item"
) -> dict[int, float]:
    return shares(sample(graph, np.array([node]), side, settings, 3))


def same(one: Neighborhoods, other: Neighborhoods) -> bool:
    return np.array_equal(one.neighbors, other.neighbors) and np.array_equal(
        one.weights, other.weights
    )


def test_the_members_of_a_board_share_the_visits() -> None:
    star = graph_of([(0, 1), (0, 2), (0, 3), (0, 4)])
    assert around(star, 1, MANY) == pytest.approx({2: 1 / 3, 3: 1 / 3, 4: 1 / 3}, abs=0.02)


def test_a_path_is_followed_as_far_as_hops_go() -> None:
    path = graph_of([(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4)])
    for hops, reached in ((1, {2}), (2, {2, 3}), (3, {2, 3, 4})):
        assert set(around(path, 1, WalkSettings(walks=2000, max_hops=hops))) == reached


def test_walks_stay_in_their_piece_of_the_graph() -> None:
    pieces = graph_of([(0, 1), (0, 2), (1, 3), (1, 4)])
    assert set(around(pieces, 1, WalkSettings())) == {2}
    assert set(around(pieces, 3, WalkSettings())) == {4}


def test_an_edge_that_is_there_twice_is_walked_twice_as_often() -> None:
    twice = graph_of([(0, 1), (0, 2), (0, 2), (0, 3)])
    assert around(twice, 1, MANY) == pytest.approx({2: 2 / 3, 3: 1 / 3}, abs=0.02)


def test_edges_are_walked_by_their_weights() -> None:
    weighted = graph_of([(0, 1), (0, 2), (0, 3), (1, 1), (1, 4)], [1.0, 3.0, 1.0, 2.0, 2.0])
    # Board 0 by 1/3, board 1 by 2/3; in board 0 items 1, 2, 3 by 1, 3, 1, in board 1 by halves.
    visits = {2: 1 / 3 * 3 / 5, 3: 1 / 3 * 1 / 5, 4: 2 / 3 * 1 / 2}
    total = sum(visits.values())
    expected = {item: share / total for item, share in visits.items()}
    assert around(weighted, 1, MANY) == pytest.approx(expected, abs=0.02)


def test_a_board_is_walked_from_its_own_items_which_count() -> None:
    pieces = graph_of([(0, 5), (1, 1), (1, 2), (1, 2), (1, 2)])
    # The half hop and the hop after it both choose an edge of the board.
    assert around(pieces, 1, MANY, "board") == pytest.approx({1: 0.25, 2: 0.75}, abs=0.02)
    assert around(pieces, 0, MANY, "board") == {5: 1.0}


def test_a_board_may_have_a_number_that_no_item_has() -> None:
    graph = graph_of([(90, 1), (90, 2), (7, 3)], size=(4, 100))
    assert set(around(graph, 90, WalkSettings(), "board")) == {1, 2}
    assert around(graph, 3, WalkSettings(), "board") == {}
    assert around(graph, 90, WalkSettings()) == {}


def test_nodes_without_an_edge_or_outside_the_graph_have_no_neighbours() -> None:
    star = graph_of([(0, 1), (0, 2)])
    for side in SIDES:
        found = sample(star, np.array([5, 7, 8, 1000, -1]), side, WalkSettings(), 0)
        assert not found.neighbors.any()
        assert not found.weights.any()
    assert around(graph_of([(0, 1)]), 1, WalkSettings()) == {}


def test_the_unknown_item_has_no_neighbours_and_is_none() -> None:
    graph = graph_of([(0, 0), (0, 0), (0, 1), (0, 2)])
    assert around(graph, 0, WalkSettings()) == {}
    assert around(graph, 1, WalkSettings()) == {2: 1.0}
    assert set(around(graph, 0, WalkSettings(), "board")) == {1, 2}


def transitions(side: Adjacency, width: int) -> Matrix:
    """Chances of an edge from each node to each of the `width` nodes of the other side."""
    dense = np.zeros((side.num_nodes, width))
    weight = np.ones(len(side.indices)) if side.weight is None else side.weight
    np.add.at(dense, (np.repeat(np.arange(side.num_nodes), side.degrees), side.indices), weight)
    totals: Matrix = dense.sum(axis=1, keepdims=True)
    return dense / np.where(totals > 0, totals, 1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("hops", "stop"), [(1, 0.3), (2, 0.0), (3, 0.3), (3, 1.0), (6, 0.5)])
@pytest.mark.parametrize("side", SIDES)
def test_visits_are_those_of_the_exact_chain(
    side: Side, hops: int, stop: float, weighted: bool
) -> None:
    graph = random_graph(hops, weighted=weighted)
    to_item = transitions(graph.boards, graph.num_items)
    hop = transitions(graph.items, graph.num_boards) @ to_item
    start = 3 if side == "board" else int(np.flatnonzero(graph.items.degrees > 2)[0])
    here = to_item[start] if side == "board" else np.eye(graph.num_items)[start]
    expected = here if side == "board" else np.zeros(graph.num_items)
    for number in range(hops):
        here = here @ hop
        expected = expected + (1 - stop) ** number * here
    if side == "item":
        expected[start] = 0
    settings = WalkSettings(neighbors=39, walks=60_000, max_hops=hops, stop=stop)
    measured = np.zeros(graph.num_items)
    for item, share in around(graph, start, settings, side).items():
        measured[item] = share
    assert measured == pytest.approx(expected / expected.sum(), abs=0.01)


@given(
    st.integers(0, 3),
    st.lists(st.integers(0, 45), min_size=1, max_size=30),
    st.sampled_from(["random_walk", "k_hop"]),
    st.sampled_from(SIDES),
)
def test_a_record_does_not_depend_on_who_else_is_asked_for(
    seed: int, nodes: list[int], kind: str, side: Side
) -> None:
    graph = random_graph(seed, weighted=seed > 1)
    settings = WalkSettings(neighbors=6, walks=20, kind=kind)  # type: ignore[arg-type]
    together = sample(graph, np.array(nodes), side, settings, seed)
    for place, node in enumerate(nodes):
        alone = sample(graph, np.array([node]), side, settings, seed)
        assert same(alone, together.take(np.array([place])))


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="numba has one thread")
def test_threads_change_nothing_and_seeds_do() -> None:
    graph = Graph.of(random_table(1, (3000, 900), edges=20_000), 3000, 900)
    nodes = np.arange(3000)
    before = numba.get_num_threads()
    found = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        found.append(sample(graph, nodes, "item", WalkSettings(), 7))
    numba.set_num_threads(before)
    assert same(*found)
    assert not same(found[0], sample(graph, nodes, "item", WalkSettings(), 8))


def test_sides_of_the_same_number_are_walked_independently() -> None:
    # Both sides alike, so that only the random numbers can differ.
    graph = graph_of([(i, j) for i in range(1, 31) for j in range(1, 31)], size=(31, 31))
    one_hop = WalkSettings(max_hops=1, walks=30)
    item, board = (sample(graph, np.array([4]), side, one_hop, 0) for side in SIDES)
    assert not same(item, board)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_mapped_graph_is_walked_like_a_resident_one(tmp_path: Path, weighted: bool) -> None:
    table = random_table(5, weighted=weighted)
    build_graph(lambda: iter([table.slice(0, 60), table.slice(60)]), 40, 25, tmp_path)
    graphs = [Graph.open(tmp_path), Graph.open(tmp_path, resident=True), Graph.of(table, 40, 25)]
    mapped, resident, made = (
        sample(graph, np.arange(40), "item", WalkSettings(), 0) for graph in graphs
    )
    assert same(mapped, resident)
    assert same(mapped, made)


@given(st.integers(0, 20), st.sampled_from(SIDES), st.integers(1, 60), st.integers(1, 300))
def test_weights_fall_and_add_up_to_one(seed: int, side: Side, width: int, walks: int) -> None:
    graph = random_graph(seed)
    size = graph.num_items if side == "item" else graph.num_boards
    found = sample(graph, np.arange(size), side, WalkSettings(neighbors=width, walks=walks), seed)
    some = found.weights.any(axis=1)
    assert found.weights.sum(axis=1)[some] == pytest.approx(1.0, abs=1e-5)
    assert (np.diff(found.weights, axis=1) <= 0).all()
    assert ((found.neighbors > 0) == (found.weights > 0)).all()
    assert all(len(set(line[line > 0])) == (line > 0).sum() for line in found.neighbors)
    if side == "item":
        assert not (found.neighbors == np.arange(size)[:, None])[1:].any()


@given(st.integers(0, 20), st.integers(1, 38), st.integers(1, 300))
def test_a_narrow_record_is_the_beginning_of_a_wide_one(seed: int, width: int, walks: int) -> None:
    graph = random_graph(seed)
    wide = sample(graph, np.arange(40), "item", WalkSettings(neighbors=39, walks=walks), seed)
    narrow = sample(graph, np.arange(40), "item", WalkSettings(neighbors=width, walks=walks), seed)
    assert np.array_equal(narrow.neighbors, wide.neighbors[:, :width])
    kept = wide.weights[:, :width]
    total = np.maximum(kept.sum(axis=1, keepdims=True), 1e-9)
    assert narrow.weights == pytest.approx(kept / total, abs=1e-5)


def test_a_k_hop_neighbourhood_is_what_is_reached_all_alike() -> None:
    graph = graph_of([(0, 1), (0, 2), (0, 2), (0, 3), (1, 3), (1, 4)])
    one_hop = WalkSettings(kind="k_hop", walks=500, max_hops=1)
    assert around(graph, 1, one_hop) == pytest.approx({2: 0.5, 3: 0.5})
    two_hops = WalkSettings(kind="k_hop", walks=500, max_hops=2)
    assert around(graph, 1, two_hops) == pytest.approx({2: 1 / 3, 3: 1 / 3, 4: 1 / 3})


def test_of_a_large_k_hop_neighbourhood_any_may_be_kept() -> None:
    star = graph_of([(0, item) for item in range(1, 31)], size=(31, 1))
    settings = WalkSettings(kind="k_hop", walks=2000, max_hops=1, neighbors=5)
    kept = np.zeros(31)
    for seed in range(300):
        kept[sample(star, np.array([1]), "item", settings, seed).neighbors[0]] += 1
    # 300 times 5 of 29: 52 each, standard deviation 6.5.
    assert 25 < kept[2:].min() <= kept[2:].max() < 80
    assert kept[2:].sum() == 300 * 5


def drawn(graph: Graph, item: int, times: int) -> dict[int, float]:
    found = co_items(graph, np.repeat(item, times), np.random.default_rng(0))
    rows, counts = np.unique(found, return_counts=True)
    return dict(zip(rows.tolist(), (counts / times).tolist(), strict=True))


def test_co_items_are_others_of_a_random_board() -> None:
    graph = graph_of([(0, 1), (0, 2), (0, 2), (1, 1), (1, 3), (2, 4), (3, 5), (3, 0)])
    # Board 0 leads elsewhere with 2 of 3, board 1 with 1 of 2.
    assert drawn(graph, 1, 20_000) == pytest.approx({2: 4 / 7, 3: 3 / 7}, abs=0.02)
    assert drawn(graph, 2, 10) == {1: 1.0}


@pytest.mark.parametrize("item", [0, 4, 5, 7, 8, 1000, -1])
def test_an_item_without_a_co_item_gets_none(item: int) -> None:
    assert drawn(graph_of([(2, 4), (3, 5), (3, 0), (4, 5), (4, 5)]), item, 10) == {0: 1.0}


def test_a_co_item_is_found_however_seldom_it_is() -> None:
    alone = [(board, 1) for board in range(400)]
    graph = graph_of([*alone, *[(399, 1)] * 100, (399, 2), (399, 3), (398, 3)], size=(4, 400))
    # 101 edges lead to board 399 and from there elsewhere with 2 of 103, one to board 398.
    to_2, to_3 = 101 / 103, 101 / 103 + 1 / 2
    expected = {2: to_2 / (to_2 + to_3), 3: to_3 / (to_2 + to_3)}
    assert drawn(graph, 1, 20_000) == pytest.approx(expected, abs=0.02)


def test_hard_negatives_come_from_the_band_of_ranks() -> None:
    edges = [(0, 1)] + [(0, 2)] * 50 + [(0, 3)] * 20 + [(0, 4)] * 5 + [(0, 5)]
    graph = graph_of(edges)
    longer = WalkSettings(walks=3000)
    rng = np.random.default_rng(0)
    found = rank_band(graph, np.array([1, 6, 0]), longer, (1, 3), 4, rng)
    assert sorted(found[0][:2].tolist()) == [3, 4]
    assert not found[0][2:].any()
    assert not found[1:].any()
    first = rank_band(graph, np.repeat(1, 2000), longer, (1, 3), 1, rng)
    assert set(first[:, 0].tolist()) == {3, 4}
    assert (first == 3).mean() == pytest.approx(0.5, abs=0.05)


def test_a_band_that_walks_do_not_reach_gives_none() -> None:
    star = graph_of([(0, item) for item in range(1, 6)])
    rng = np.random.default_rng(0)
    assert not rank_band(star, np.array([1]), WalkSettings(walks=500), (4, 9), 3, rng).any()
    last = rank_band(star, np.array([1]), WalkSettings(walks=500), (2, 9), 3, rng)[0]
    assert len(set(last[:2].tolist()) & {2, 3, 4, 5}) == 2
    assert last[2] == 0
