"""Pixie walks on a planted graph: `python -m tests.benchmarks.bench_pixie`.

Makes 200,000 items of 100 topics and five languages on 100,000 boards (5M edges): one edge in five
is off its board's topic, one board in ten about everything, one item in ten of two topics. Prints
one JSON line:
- `early_stop`: overlap of the first 1,000 with those of the long walk (100,000 steps), from the
  same random numbers and from others, and the share of its steps; `repeat` is what two long walks
  share, the most that the second can reach; mean over seeds and 95% half-widths;
- `target_share`: share of a language among the first 100, by query -> target language;
- `pagerank_overlap`: of the first 100 with the exact order, by steps;
- `booster`: precision at 100 for items of both interests of a user;
- `pruning`: F1 at 20 for edges taken out of boards, by δ, after boards of high entropy are dropped;
- `latency`: ms a request, and the same walks in vectorised numpy.
Sizes: items=, boards=, edges=.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from data.graph.pixie import PixieSettings, PixieWalk
from data.graph.pruning import PruningSettings, about_everything, strongest, topical
from data.graph.store import EDGE, Graph
from data.graph.walks import Adjacency

Ints = npt.NDArray[np.int64]

SIZES = {"items": 200_000, "boards": 100_000, "edges": 5_000_000}
TOPICS = 100
LANGUAGES = (0.55, 0.2, 0.12, 0.08, 0.05)
ON_TOPIC, SAME_LANGUAGE, TWO_TOPICS, EVERYTHING = 0.8, 0.7, 0.1, 0.1
SEEDS = (0, 1, 2)
SETTINGS = PixieSettings()
LONG = replace(SETTINGS, early_stop=False)


@dataclass(frozen=True)
class Planted:
    """A graph and what it was made from. `second` is an item's other topic, -1 without."""

    edges: pa.Table
    graph: Graph
    topic: Ints
    second: Ints
    language: Ints

    @classmethod
    def of(cls, items: int, boards: int, edges: int) -> Planted:
        rng = np.random.default_rng(7)
        topic = np.sort(rng.integers(0, TOPICS, items))
        language = rng.choice(len(LANGUAGES), items, p=LANGUAGES)
        language = language[np.lexsort((language, topic))]
        second = np.where(rng.random(items) < TWO_TOPICS, (topic + 1) % TOPICS, -1)
        size = rng.lognormal(0, 0.7, boards)
        board = rng.choice(boards, edges, p=size / size.sum())
        item = _members(rng, board, boards, topic * len(LANGUAGES) + language)
        # An item of two topics gets half of its edges from boards of the other.
        moved = (second[item] >= 0) & (rng.random(edges) < 0.5)
        item[moved] = _two_topics(rng, item[moved], topic, second)
        times = rng.integers(1, 1 << 40, edges)
        table = pa.table([board, item, np.ones(edges), times], schema=EDGE)
        return cls(table, Graph.of(table, items, boards), topic, second, language)


def _members(rng: np.random.Generator, board: Ints, boards: int, cell: Ints) -> Ints:
    """An item of each edge: of the board's topic and language for the most part, by popularity."""
    topics, languages = rng.integers(0, TOPICS, boards), rng.choice(5, boards, p=LANGUAGES)
    stays = rng.random(len(board)) < np.where(rng.random(boards) < EVERYTHING, 0, ON_TOPIC)[board]
    topic = np.where(stays, topics[board], rng.integers(0, TOPICS, len(board)))
    speaks = rng.random(len(board)) < SAME_LANGUAGE
    others = rng.choice(5, len(board), p=LANGUAGES)
    wanted = topic * len(LANGUAGES) + np.where(speaks, languages[board], others)
    first, end = np.searchsorted(cell, wanted), np.searchsorted(cell, wanted, "right")
    return first + ((end - first) * rng.random(len(board)) ** 3).astype(np.int64)


def _two_topics(rng: np.random.Generator, items: Ints, topic: Ints, second: Ints) -> Ints:
    """For each item of two topics one of the topic before, whose second topic is its first."""
    theirs = np.flatnonzero(second >= 0)
    before = (topic[items] - 1) % TOPICS
    first = np.searchsorted(topic[theirs], before)
    count = np.searchsorted(topic[theirs], before, "right") - first
    return theirs[first + (count * rng.random(len(items))).astype(np.int64)]


def requests(planted: Planted, count: int, size: int, seed: int) -> list[Ints]:
    """Items by popularity, each request within one topic."""
    rng = np.random.default_rng([seed, size])
    popular = planted.graph.boards.indices
    found = []
    for _ in range(count):
        first = int(popular[rng.integers(len(popular))])
        alike = np.flatnonzero(planted.topic == planted.topic[first])
        degrees = planted.graph.items.degrees[alike].astype(float)
        others = rng.choice(alike, size - 1, p=degrees / degrees.sum())
        found.append(np.append(first, others))
    return found


def weights_of(queries: Ints) -> npt.NDArray[np.float64]:
    """By recency, the first being the last touched."""
    return 0.8 ** np.arange(len(queries))


def shared(one: Ints, other: Ints, count: int) -> float:
    """Overlap of the first `count`."""
    return len(np.intersect1d(one[:count], other[:count])) / count


def interval(values: list[float]) -> list[float]:
    """Mean over seeds and the half-width of its 95% interval (t, 2 degrees of freedom)."""
    return [round(np.mean(values), 3), round(4.303 * np.std(values, ddof=1) / 3**0.5, 3)]


def early_stop(planted: Planted) -> dict[str, Any]:
    """Against the long walk, for one and for five queries."""
    found: dict[str, Any] = {}
    for size in (1, 5):
        asked = {seed: requests(planted, 40, size, seed) for seed in SEEDS}
        first = {seed: _answers(planted, LONG, asked[seed], seed) for seed in SEEDS}
        again = {seed: _answers(planted, LONG, asked[seed], seed + 50) for seed in SEEDS}
        found[f"{size}_queries"] = {"repeat": _overlaps(first, again)} | {
            f"n_v={visits}": _stopped(planted, replace(SETTINGS, visits=visits), asked, first)
            for visits in (2, 4, 6, 10)
        }
    return found


Answers = list[Any]


def _stopped(
    planted: Planted,
    settings: PixieSettings,
    asked: dict[int, list[Ints]],
    long: dict[int, Answers],
) -> dict[str, list[float]]:
    same = {seed: _answers(planted, settings, asked[seed], seed) for seed in SEEDS}
    other = {seed: _answers(planted, settings, asked[seed], seed + 100) for seed in SEEDS}
    taken = [float(np.mean([a.steps.sum() / LONG.steps for a in same[seed]])) for seed in SEEDS]
    return {
        "overlap": _overlaps(same, long),
        "overlap_other_numbers": _overlaps(other, long),
        "steps_share": interval(taken),
    }


def _answers(planted: Planted, settings: PixieSettings, asked: list[Ints], seed: int) -> Answers:
    walk = PixieWalk.of(planted.graph, settings)
    return [walk.recommend(q, weights_of(q), seed * 1000 + n) for n, q in enumerate(asked)]


def _overlaps(one: dict[int, Answers], other: dict[int, Answers]) -> list[float]:
    pairs = (zip(one[seed], other[seed], strict=True) for seed in SEEDS)
    return interval([float(np.mean([shared(a.items, b.items, 1000) for a, b in p])) for p in pairs])


def target_share(planted: Planted) -> dict[str, dict[str, float]]:
    """From queries in a language to a language, without and with bias, one query each."""
    found: dict[str, dict[str, float]] = {}
    rng = np.random.default_rng(3)
    walk = PixieWalk.of(planted.graph, SETTINGS, planted.language)
    walks = {bias: replace_settings(walk, bias=bias) for bias in (0.0, 0.5, 0.9)}
    for source, target in ((0, 3), (3, 3), (0, 4), (4, 4)):
        some = (planted.language == source) & (planted.graph.items.degrees >= 5)
        queries = rng.choice(np.flatnonzero(some), 40)
        found[f"{source}->{target}"] = {
            f"bias={bias}": round(_share(planted, biased, queries, target), 3)
            for bias, biased in walks.items()
        }
    return found


def replace_settings(walk: PixieWalk, **changes: Any) -> PixieWalk:
    """The same graph under other settings."""
    return replace(walk, settings=replace(walk.settings, **changes))


def _share(planted: Planted, walk: PixieWalk, queries: Ints, target: int) -> float:
    answers = [walk.recommend(np.array([q]), np.ones(1), int(q), target) for q in queries]
    return float(np.mean([(planted.language[a.items[:100]] == target).mean() for a in answers]))


def pagerank_overlap(planted: Planted) -> dict[str, float]:
    """With the exact visits, by power iteration to hop 24 (the rest has a weight of 6e-8)."""
    hops = [_transitions(planted.graph.items), _transitions(planted.graph.boards)]
    asked = requests(planted, 12, 1, 9)
    found: dict[str, list[float]] = {"100000": [], "3000000": []}
    for query in asked:
        exact = _exact(hops, int(query[0]), planted.graph.num_items)
        for steps, overlaps in found.items():
            walk = PixieWalk.of(planted.graph, replace(LONG, steps=int(steps)))
            overlaps.append(shared(walk.recommend(query, np.ones(1), 1).items, exact, 100))
    return {steps: round(float(np.mean(overlaps)), 3) for steps, overlaps in found.items()}


def _transitions(side: Adjacency) -> sp.csr_array:
    """Transposed, so that a column of probabilities is multiplied from the right."""
    share = np.repeat(1 / np.maximum(side.degrees, 1), side.degrees)
    width = int(side.indices.max()) + 1
    return sp.csr_array((share, side.indices, side.indptr), (side.num_nodes, width)).T.tocsr()


def _exact(hops: list[sp.csr_array], query: int, num_items: int) -> Ints:
    here, visits = np.zeros(hops[0].shape[1]), np.zeros(num_items)
    here[query] = 1
    for hop in range(24):
        here = hops[1] @ (hops[0] @ here)
        visits[: len(here)] += 0.5**hop * here
        here = np.pad(here, (0, hops[0].shape[1] - len(here)))
    visits[query] = 0
    return np.argsort(-visits)[:100]


def booster(planted: Planted) -> dict[str, list[float]]:
    """Users of two neighbouring topics, three items of one and two of the other."""
    found: dict[str, list[float]] = {}
    for name, on in (("with", True), ("without", False)):
        walk = PixieWalk.of(planted.graph, replace(SETTINGS, booster=on))
        found[name] = interval([_both_interests(planted, walk, seed) for seed in SEEDS])
    return found


def _both_interests(planted: Planted, walk: PixieWalk, seed: int) -> float:
    rng = np.random.default_rng(seed)
    single = (planted.second < 0) & (planted.graph.items.degrees >= 5)
    precision = []
    for topic in rng.integers(0, TOPICS, 40):
        pools = [np.flatnonzero(single & (planted.topic == (topic + k) % TOPICS)) for k in (0, 1)]
        queries = np.concatenate([rng.choice(pools[0], 3), rng.choice(pools[1], 2)])
        answer = walk.recommend(queries, np.ones(5), seed).items[:100]
        both = (planted.topic[answer] == topic) & (planted.second[answer] >= 0)
        precision.append(float(both.mean()))
    return float(np.mean(precision))


def pruning(planted: Planted) -> dict[str, Any]:
    """Takes a fifth of the edges of 300 boards out and looks for them from ten others."""
    rng = np.random.default_rng(5)
    boards = planted.edges["board"].to_numpy()
    degrees = planted.graph.boards.degrees
    asked = rng.choice(np.flatnonzero((degrees >= 40) & (degrees < 400)), 300, replace=False)
    hidden = np.isin(boards, asked) & (rng.random(len(boards)) < 0.2)
    known, truth = planted.edges.filter(pa.array(~hidden)), planted.edges.filter(pa.array(hidden))
    task = _Task(planted, asked, Graph.of(known, *_sizes(planted)), _held(truth, asked))
    clear = known.filter(pa.array(~_everything(planted, known)[known["board"].to_numpy()]))
    vectors = _contents(planted)
    found = {"none": task.score(known), "entropy": task.score(clear)}
    for exponent in (0.95, 0.91, 0.85, 0.75, 0.65, 0.5):
        kept = clear.filter(pa.array(topical(clear, vectors, exponent)))
        found[f"entropy, δ={exponent}"] = task.score(kept)
    newest = strongest(clear, PruningSettings(degree_exponent=0.85))
    found["entropy, newest of both ends, δ=0.85"] = task.score(clear.filter(pa.array(newest)))
    return found


def _sizes(planted: Planted) -> tuple[int, int]:
    return planted.graph.num_items, planted.graph.num_boards


def _held(truth: pa.Table, asked: Ints) -> list[Ints]:
    board, item = truth["board"].to_numpy(), truth["item"].to_numpy().astype(np.int64)
    return [np.unique(item[board == b]) for b in asked]


def _everything(planted: Planted, edges: pa.Table) -> npt.NDArray[np.bool_]:
    """Boards of high entropy."""
    settings = PruningSettings(max_entropy=0.6)
    dropped = about_everything(
        lambda: iter([edges]), planted.topic + 1, planted.graph.num_boards, settings
    )
    assert dropped is not None
    return dropped


def _contents(planted: Planted) -> npt.NDArray[np.float32]:
    """Noisy vectors of the topics of items, [items, 16]."""
    rng = np.random.default_rng(11)
    centres = rng.normal(size=(TOPICS, 16)).astype(np.float32)
    both = np.where((planted.second >= 0)[:, None], centres[planted.second], 0)
    noise = rng.normal(0, 0.5, (len(planted.topic), 16))
    return (centres[planted.topic] + both + noise).astype(np.float32)


@dataclass(frozen=True)
class _Task:
    """Boards whose hidden items are looked for; what is known of them is no answer."""

    planted: Planted
    asked: Ints
    known: Graph
    held: list[Ints]

    def score(self, edges: pa.Table) -> dict[str, float]:
        """F1 of the first 20 on a graph of `edges`."""
        walk = PixieWalk.of(Graph.of(edges, *_sizes(self.planted)), LONG)
        values = [self._of_board(walk, n) for n in range(len(self.asked))]
        share = edges.num_rows / self.planted.edges.num_rows
        return {"edges": round(share, 3), "f1": round(float(np.mean(values)), 4)}

    def _of_board(self, walk: PixieWalk, number: int) -> float:
        boards = self.known.boards
        first, end = boards.indptr[self.asked[number]], boards.indptr[self.asked[number] + 1]
        members = boards.indices[first:end].astype(np.int64)
        queries = np.random.default_rng(number).choice(members, 10)
        found = walk.recommend(queries, np.ones(10), number).items
        found = found[~np.isin(found, members)][:20]
        right = np.isin(found, self.held[number]).sum()
        return 2 * right / max(len(found) + len(self.held[number]), 1)


def latency(planted: Planted) -> dict[str, Any]:
    """Per request of one and of five queries, one thread; requests per second on two."""
    found: dict[str, Any] = {}
    for name, settings in (("early_stop", SETTINGS), ("long", LONG)):
        walk = PixieWalk.of(planted.graph, settings)
        for size in (1, 5):
            asked = requests(planted, 200, size, 21)
            walk.recommend(asked[0], weights_of(asked[0]), 0)
            times = [_timed(walk, queries) for queries in asked]
            p50, p99 = np.percentile(times, (50, 99))
            found[f"{name}_{size}"] = {"p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}
    asked = requests(planted, 200, 5, 22)
    walk = PixieWalk.of(planted.graph, SETTINGS)
    found["requests_per_s"] = {n: round(_throughput(walk, asked, n)) for n in (1, 2)}
    found["numpy_long_1_ms"] = round(
        float(np.median([_numpy_walk(planted.graph, int(q[0])) for q in asked[:10]])), 1
    )
    return found


def _timed(walk: PixieWalk, queries: Ints) -> float:
    start = time.perf_counter()
    walk.recommend(queries, weights_of(queries), 0)
    return (time.perf_counter() - start) * 1000


def _throughput(walk: PixieWalk, asked: list[Ints], threads: int) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda q: walk.recommend(q, weights_of(q), 0), asked))
    return len(asked) / (time.perf_counter() - start)


def _numpy_walk(graph: Graph, query: int, walkers: int = 2048) -> float:
    """Ms of the long walk of one query, the walkers moved by numpy together."""
    rng, nodes = np.random.default_rng(0), np.full(walkers, query)
    start, visited = time.perf_counter(), []
    for _ in range(LONG.steps // walkers):
        for side in (graph.items, graph.boards):
            first, end = side.indptr[nodes], side.indptr[nodes + 1]
            nodes = side.indices[first + (rng.random(walkers) * (end - first)).astype(np.int64)]
        visited.append(nodes)
        nodes = np.where(rng.random(walkers) < LONG.restart, query, nodes)
    rows, counts = np.unique(np.concatenate(visited), return_counts=True)
    rows[np.argsort(-counts)[: LONG.candidates]]
    return (time.perf_counter() - start) * 1000


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    sizes = {name: int(words.get(name, default)) for name, default in SIZES.items()}
    began = time.perf_counter()
    planted = Planted.of(**sizes)
    parts = {}
    for part in (early_stop, target_share, pagerank_overlap, booster, pruning, latency):
        parts[part.__name__] = part(planted)
        print(f"{part.__name__}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    chosen = parts["early_stop"]["1_queries"][f"n_v={SETTINGS.visits}"]
    line = {
        "name": "pixie",
        "params": sizes | {"max_degree": int(planted.graph.items.degrees.max())},
        "value": chosen["overlap"][0],
        "unit": "overlap_at_1000",
        "overlap": chosen["overlap"][0],
        "steps_share": chosen["steps_share"][0],
        **parts,
        "p50_ms": parts["latency"]["early_stop_5"]["p50_ms"],
        "p99_ms": parts["latency"]["early_stop_5"]["p99_ms"],
        "seconds": round(time.perf_counter() - began),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    main()
