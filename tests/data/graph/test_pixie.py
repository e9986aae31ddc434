import dataclasses
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from data.graph.pixie import PixieAnswer, PixieSettings, PixieWalk, allocate, group_by_class
from data.graph.store import EDGE, Graph

LONG = PixieSettings(steps=400_000, early_stop=False)
CLASSES = np.arange(400) % 4


def graph_of(edges: list[tuple[int, int]], size: tuple[int, int] = (12, 8)) -> Graph:
    """Edges are (board, item)."""
    board, item = np.array(edges, np.int64).reshape(-1, 2).T
    ones, zeros = np.ones(len(edges)), np.zeros(len(edges))
    return Graph.of(pa.table([board, item, ones, zeros], schema=EDGE), *size)


def clustered(seed: int = 0, items: int = 400, boards: int = 120, edges: int = 4000) -> Graph:
    """Four topics, item i being of topic i // (items / 4); one edge in five is of any topic."""
    rng = np.random.default_rng(seed)
    board, near = rng.integers(0, boards, edges), rng.random(edges) < 0.8
    within = (items // 4 * rng.random(edges) ** 2).astype(np.int64)
    topic = np.where(near, board % 4, rng.integers(0, 4, edges))
    pairs = zip(board.tolist(), (topic * (items // 4) + within).tolist(), strict=True)
    return graph_of(list(pairs), (items, boards))


def ask(
    graph: Graph, queries: list[int], settings: PixieSettings = LONG, seed: int = 1
) -> PixieAnswer:
    walk = PixieWalk.of(graph, settings)
    return walk.recommend(np.array(queries), np.ones(len(queries)), seed)


def scores_of(answer: PixieAnswer) -> dict[int, float]:
    return dict(zip(answer.items.tolist(), answer.scores.tolist(), strict=True))


def same(one: PixieAnswer, other: PixieAnswer) -> bool:
    pairs = [(one.items, other.items), (one.scores, other.scores)]
    return all(np.array_equal(a, b) for a, b in pairs)


def expected_visits(graph: Graph, query: int, restart: float) -> np.ndarray:
    """Share of the steps that end at each item, by power iteration."""
    hops = []
    for side, width in ((graph.items, graph.num_boards), (graph.boards, graph.num_items)):
        ones = np.ones(len(side.indices))
        matrix = sp.csr_array((ones, side.indices, side.indptr), (side.num_nodes, width))
        hops.append(sp.diags_array(1 / np.maximum(side.degrees, 1)) @ matrix)
    here, visits = np.eye(1, graph.num_items, query)[0], np.zeros(graph.num_items)
    for hop in range(200):
        here = (here @ hops[0]) @ hops[1]
        visits += restart * (1 - restart) ** hop * here
    return visits


def test_visits_are_shared_as_the_boards_say() -> None:
    answer = ask(graph_of([(0, 1), (0, 2), (0, 3), (0, 3)]), [1])
    assert scores_of(answer) == pytest.approx({2: 100_000, 3: 200_000}, rel=0.02)
    assert answer.items.tolist() == [3, 2]
    assert answer.steps.tolist() == [400_000]
    assert (answer.items.dtype, answer.scores.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("restart", [0.2, 0.5, 1.0])
def test_visits_are_personalised_pagerank(restart: float) -> None:
    graph = clustered()
    settings = dataclasses.replace(LONG, restart=restart)
    for query in (3, 150, 399):
        exact = expected_visits(graph, query, restart)
        exact[query] = 0
        measured = np.zeros(400)
        answer = ask(graph, [query], settings)
        measured[answer.items] = answer.scores / 400_000
        assert measured == pytest.approx(exact, abs=0.002)
        top = np.argsort(-exact)[:20]
        assert len(set(answer.items[:20].tolist()) & set(top.tolist())) >= 18


@given(
    st.lists(
        st.tuples(st.integers(0, 500), st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0])),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 1000),
    st.integers(1, 200_000),
)
def test_budgets_add_up_and_leave_nobody_out(
    queries: list[tuple[int, float]], more: int, steps: int
) -> None:
    degrees, weights = np.array([d for d, _ in queries]), np.array([w for _, w in queries])
    budgets = allocate(degrees, weights, int(degrees.max()) + more, steps)
    some = (degrees > 0) & (weights > 0)
    assert (budgets[some] >= 1).all()
    assert not budgets[~some].any()
    if some.any():
        assert abs(budgets.sum() - steps) <= len(queries)


@given(st.integers(1, 300), st.integers(2, 6), st.integers(1, 50))
def test_budgets_grow_less_than_degrees(degree: int, times: int, headroom: int) -> None:
    largest = degree * times * 3 * headroom  # where both are below largest / e: they still grow
    small, large = allocate(np.array([degree, degree * times]), np.ones(2), largest, 10**9)
    assert small < large < times * small


def test_a_query_of_little_weight_has_a_step() -> None:
    assert allocate(np.array([1, 500]), np.array([0.1, 3.0]), 1000, 10).tolist() == [1, 10]


def test_budgets_follow_weights_and_the_logarithm_of_the_degree() -> None:
    budgets = allocate(np.array([10, 100, 10]), np.array([1.0, 1.0, 3.0]), 1000, 100_000)
    wanted = np.array([10 * np.log(100), 100 * np.log(10), 3 * 10 * np.log(100)])
    assert budgets == pytest.approx(100_000 * wanted / wanted.sum(), abs=1)


def test_a_constant_that_is_the_degree_itself_would_allocate_linearly() -> None:
    degrees = np.array([10.0, 100.0])
    as_printed = degrees * (100_000 - np.log(degrees))
    assert as_printed[1] / as_printed[0] == pytest.approx(10, rel=1e-4)
    small, large = allocate(degrees.astype(np.int64), np.ones(2), 100_000, 100_000)
    assert large / small == pytest.approx(7.5, abs=0.01)


def test_the_constant_is_of_the_graph_so_that_the_largest_query_walks() -> None:
    edges = [(board, 1) for board in range(6)] + [(0, 2), (1, 2), (2, 3)]
    edges += [(board, 4) for board in range(7)] * 9
    answer = ask(graph_of(edges), [1, 2])
    assert answer.steps[0] > answer.steps[1] > 0


def test_the_hub_of_a_graph_walks_all_steps_where_it_is_alone() -> None:
    assert allocate(np.array([6, 2]), np.ones(2), 6, 10**6).tolist() == pytest.approx(
        [10**6 / (1 + 2 * np.log(3)), 10**6 * 2 * np.log(3) / (1 + 2 * np.log(3))], abs=1
    )
    graph = graph_of([(board, 1) for board in range(5)] + [(0, 2), (1, 2)])
    assert ask(graph, [1]).steps.tolist() == [400_000]
    assert ask(graph, [1, 2]).steps.min() >= 1


def test_queries_without_an_edge_or_outside_the_graph_give_nothing() -> None:
    graph = graph_of([(0, 1), (0, 2)])
    empty = ask(graph, [5, 11, 12, 10**9, -1])
    assert len(empty.items) == len(empty.scores) == 0
    assert empty.steps.tolist() == [0] * 5
    mixed = ask(graph, [5, 1, -1])
    assert mixed.items.tolist() == [2]
    assert mixed.steps.tolist() == [0, 400_000, 0]
    assert ask(graph, [-1, 2, 1]).steps.tolist() == [0, 200_000, 200_000]
    assert not len(ask(graph, []).items)


def test_walks_never_leave_their_piece_of_the_graph() -> None:
    # Items 1 and 2 have the numbers of boards that hold others.
    pieces = graph_of([(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6)])
    assert ask(pieces, [1]).items.tolist() == [2]
    assert ask(pieces, [4]).items.tolist() == [3]
    assert set(ask(pieces, [1, 5]).items.tolist()) == {2, 6}


def test_queries_are_left_out_and_weightless_ones_do_not_walk() -> None:
    graph = clustered()
    walk = PixieWalk.of(graph, PixieSettings(steps=20_000))
    answer = walk.recommend(np.array([1, 2, 3]), np.array([1.0, 0.0, 2.0]), seed=0)
    assert not set(answer.items.tolist()) & {1, 2, 3}
    assert answer.steps[1] == 0
    assert len(set(answer.items.tolist())) == len(answer.items)


def test_a_query_that_is_named_again_counts_once_with_both_weights() -> None:
    walk = PixieWalk.of(clustered(), PixieSettings(steps=20_000))
    twice = walk.recommend(np.array([7, 120, 7]), np.array([1.0, 1.0, 2.0]), seed=0)
    once = walk.recommend(np.array([120, 7]), np.array([1.0, 3.0]), seed=0)
    assert same(twice, once)
    assert twice.steps.tolist() == [once.steps[1], once.steps[0], 0]


def test_answers_are_best_first_and_no_longer_than_asked_for() -> None:
    graph = clustered()
    whole = ask(graph, [7])
    assert (np.diff(whole.scores) <= 0).all()
    tied = np.diff(whole.scores) == 0
    assert tied.any()
    assert (np.diff(whole.items)[tied] > 0).all()
    short = ask(graph, [7], dataclasses.replace(LONG, candidates=10))
    assert short.items.tolist() == whole.items[:10].tolist()


def test_what_is_not_allowed_is_passed_through_and_leaves_its_place_to_others() -> None:
    walk = PixieWalk.of(clustered(), dataclasses.replace(LONG, candidates=20))
    asked = np.array([7]), np.ones(1), 1
    whole = walk.recommend(*asked)
    even = walk.recommend(*asked, allowed=lambda rows: rows % 2 == 0)
    assert len(even.items) == 20
    assert not (even.items % 2).any()
    scores = scores_of(whole)
    kept = [item for item in whole.items.tolist() if item % 2 == 0]
    assert even.items[: len(kept)].tolist() == kept
    assert [scores_of(even)[item] for item in kept] == [scores[item] for item in kept]


@given(st.integers(0, 50), st.lists(st.integers(0, 399), min_size=1, max_size=6, unique=True))
def test_an_answer_is_that_of_its_seed_whatever_the_order(seed: int, queries: list[int]) -> None:
    graph, settings = clustered(), PixieSettings(steps=3000)
    first = ask(graph, queries, settings, seed)
    assert same(first, ask(graph, queries, settings, seed))
    backwards = ask(graph, queries[::-1], settings, seed)
    assert same(first, backwards)
    assert first.steps.tolist() == backwards.steps.tolist()[::-1]
    if graph.items.degrees[queries].any():
        assert not same(first, ask(graph, queries, settings, seed + 1))


def test_threads_share_a_walk() -> None:
    walk = PixieWalk.of(clustered(), PixieSettings(steps=5000))
    queries = [np.array([q, q + 9]) for q in range(24)]
    alone = [walk.recommend(q, np.ones(2), seed=3) for q in queries]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda q: walk.recommend(q, np.ones(2), seed=3), queries))
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_a_request_takes_no_python_memory_of_the_size_of_the_graph() -> None:
    # Of what compiled code allocates tracemalloc knows nothing.
    walk = PixieWalk.of(graph_of([(0, 1), (0, 2)], (200_000, 100_000)), PixieSettings(steps=500))
    walk.recommend(np.array([1, 2]), np.ones(2), seed=0)
    tracemalloc.start()
    walk.recommend(np.array([1, 2]), np.ones(2), seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 90_000  # a bit for each item would be 25,000, a byte 200,000


def test_early_stop_ends_when_enough_items_have_their_visits() -> None:
    graph = clustered()
    stopping = dataclasses.replace(LONG, early_stop=True, candidates=100, visits=400)
    answer = ask(graph, [7], stopping)
    assert answer.steps[0] < 250_000
    assert (answer.scores >= 400).sum() == 100
    everything = dataclasses.replace(stopping, early_stop=False, steps=int(answer.steps[0]))
    prefix = ask(graph, [7], dataclasses.replace(everything, candidates=400))
    assert (prefix.scores >= 400).sum() == 101  # one more than `candidates` ends the walks
    assert same(answer, ask(graph, [7], everything))
    shorter = dataclasses.replace(everything, steps=int(answer.steps[0]) - 1, candidates=400)
    assert (ask(graph, [7], shorter).scores >= 400).sum() == 100


def test_early_stop_keeps_most_of_the_answer_and_more_visits_keep_more() -> None:
    graph = clustered(0, 4000, 1200, 40_000)
    settings = PixieSettings(steps=100_000, candidates=400, early_stop=False)
    whole = set(ask(graph, [7], settings).items[:200].tolist())
    shares, steps = [], []
    for visits in (2, 8, 32):
        stopping = dataclasses.replace(settings, early_stop=True, visits=visits)
        answer = ask(graph, [7], stopping)
        shares.append(len(whole & set(answer.items[:200].tolist())) / 200)
        steps.append(int(answer.steps[0]))
    assert steps == sorted(steps)
    assert steps[0] < steps[-1] <= 100_000
    assert shares[0] < shares[-1]
    assert shares[1] > 0.7


def test_each_query_stops_by_its_share_of_the_candidates() -> None:
    # Two queries, two candidates each: item 1 sees three others, which stop it at once; item 5 sees
    # two, too few to stop.
    edges = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 5), (1, 6), (1, 7), (2, 8), (3, 8), (4, 8)]
    answer = ask(graph_of(edges), [1, 5], PixieSettings(steps=10_000, candidates=4, visits=4))
    assert answer.steps[0] < 100
    assert answer.steps[1] > 4000
    assert set(answer.items[:2].tolist()) == {6, 7}


def test_many_queries_do_not_walk_longer_each() -> None:
    graph = clustered(0, 4000, 1200, 40_000)
    settings = PixieSettings(steps=100_000, candidates=400)
    shares = [ask(graph, queries, settings).steps.sum() for queries in ([7], [7, 8, 9, 10])]
    assert shares[1] < 2 * shares[0] < 100_000


def test_the_booster_lifts_what_several_queries_reach() -> None:
    # Item 3 is on a board of either query, 4 and 5 on twice as many boards of one.
    edges = [(0, 1), (0, 3), (1, 1), (1, 4), (2, 1), (2, 4)]
    edges += [(3, 2), (3, 3), (4, 2), (4, 5), (5, 2), (5, 5)]
    settings = dataclasses.replace(LONG, restart=1.0)
    boosted = scores_of(ask(graph_of(edges), [1, 2], settings))
    plain = scores_of(ask(graph_of(edges), [1, 2], dataclasses.replace(settings, booster=False)))
    assert boosted[3] == pytest.approx(2 * plain[3], rel=0.01)
    assert boosted[4] == pytest.approx(plain[4])
    assert plain[3] == pytest.approx(plain[4], rel=0.05)


def test_the_booster_changes_nothing_of_one_query() -> None:
    graph = clustered()
    plain = ask(graph, [7], dataclasses.replace(LONG, booster=False))
    boosted = ask(graph, [7])
    assert np.array_equal(plain.items, boosted.items)
    assert boosted.scores == pytest.approx(plain.scores, rel=1e-6)


@given(st.integers(0, 10), st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_boards_are_grouped_by_the_class_of_their_items(seed: int, classes: list[int]) -> None:
    boards, of_items = clustered(seed, 60, 20, 300).boards, np.array(classes)
    grouped, edge_classes = group_by_class(boards, of_items)
    assert np.array_equal(of_items[grouped.indices], edge_classes)
    for first, end in zip(boards.indptr[:-1], boards.indptr[1:], strict=True):
        before = boards.indices[first:end]
        expected = before[np.argsort(of_items[before], kind="stable")]
        assert grouped.indices[first:end].tolist() == expected.tolist()


def share_of_class(bias: float, preferred: int, query: int = 7) -> float:
    """Share of the visits that go to items of a class (a quarter of the items)."""
    walk = PixieWalk.of(clustered(), dataclasses.replace(LONG, bias=bias), CLASSES)
    answer = walk.recommend(np.array([query]), np.ones(1), 1, preferred)
    return float(answer.scores[CLASSES[answer.items] == preferred].sum() / answer.scores.sum())


@pytest.mark.parametrize("preferred", [0, 1, 3])
def test_bias_raises_the_share_of_the_preferred_class(preferred: int) -> None:
    shares = [share_of_class(bias, preferred) for bias in (0.0, 0.3, 0.6, 1.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.4
    assert shares[-1] > 0.95


def test_bias_chooses_among_the_items_of_the_class_alone_and_otherwise_as_ever() -> None:
    graph = graph_of([(0, item) for item in range(1, 5)] + [(1, 1), (1, 5), (1, 6)])
    classes = np.array([0, 0, 2, 1, 2, 0, 1, 0, 0, 0, 0, 0])
    settings = dataclasses.replace(LONG, restart=1.0, bias=1.0)
    walk = PixieWalk.of(graph, settings, classes)
    answer = walk.recommend(np.array([1]), np.ones(1), 0, preferred=2)
    # Board 0 holds items 2 and 4 of class 2; board 1 none: its three, item 1 among them.
    expected = {2: 100_000, 4: 100_000, 5: 400_000 / 6, 6: 400_000 / 6}
    assert scores_of(answer) == pytest.approx(expected, rel=0.02)
    # Of class 1 either board has one: items 3 and 6.
    answer = walk.recommend(np.array([1]), np.ones(1), 0, preferred=1)
    assert scores_of(answer) == pytest.approx({3: 200_000, 6: 200_000}, rel=0.02)


def test_without_a_preferred_class_classes_change_only_the_draw() -> None:
    graph = clustered()
    settings = dataclasses.replace(LONG, bias=1.0)
    walk = PixieWalk.of(graph, settings, CLASSES)
    plain, grouped = ask(graph, [7]), walk.recommend(np.array([7]), np.ones(1), 1)
    assert len(set(plain.items[:20].tolist()) & set(grouped.items[:20].tolist())) >= 17
    nowhere = walk.recommend(np.array([7]), np.ones(1), 1, preferred=9)
    assert same(nowhere, grouped)


def test_what_does_not_fit_is_refused() -> None:
    graph = graph_of([(0, 1), (0, 2)])
    walk = PixieWalk.of(graph, PixieSettings())
    with pytest.raises(ValueError, match="class 1 is preferred"):
        walk.recommend(np.array([1]), np.ones(1), 0, preferred=1)
    with pytest.raises(ValueError, match="2 weights of 1 queries"):
        walk.recommend(np.array([1]), np.ones(2), 0)
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            walk.recommend(np.array([1]), np.array([weight]), 0)
    with pytest.raises(ValueError, match="classes of 3 items"):
        PixieWalk.of(graph, PixieSettings(), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="classes -1 to"):
        PixieWalk.of(graph, PixieSettings(), np.arange(-1, 11))
