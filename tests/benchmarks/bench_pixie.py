"""Pixie walks on a planted graph: `python -m tests.benchmarks.bench_pixie`.

200,000 items on 100,000 boards, 5M edges (`planted_graph.py`). Prints one JSON line:
- `early_stop`: overlap of the first 1,000 with those of a walk without it, and the share of its
  steps, by queries, steps of the long walk and n_v; `repeat` is what two long walks share, the most
  to be reached; mean over three seeds and the half-width of its 95% interval. `overlap` and
  `steps_share` repeat the figures of the defaults for one query;
- `target_share`: share of a language among the first 100, by query -> target language;
- `pagerank_overlap`: of the first 100 with the exact order, by steps;
- `booster`: share of items of both interests of a user among the first 100, on the whole graph and
  on a pruned one;
- `pruning`: F1 at 20 for edges taken out of boards (`pruning_f1.py`);
- `latency`: ms a request, of the clock and of the processor, and the same in vectorised numpy.
Sizes: items=, boards=, edges=.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from data.graph.pixie import PixieAnswer, PixieSettings, PixieWalk
from tests.benchmarks.planted_graph import TOPICS, Ints, Planted, requests, weights_of
from tests.benchmarks.pruning_f1 import pruned, pruning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.graph.store import Adjacency, Graph

SIZES = {"items": 200_000, "boards": 100_000, "edges": 5_000_000}
SEEDS = (0, 1, 2)
SETTINGS = PixieSettings()
LONG = replace(SETTINGS, early_stop=False)


def shared(one: Ints, other: Ints, count: int) -> float:
    """Overlap of the first `count`."""
    return len(np.intersect1d(one[:count], other[:count])) / count


def interval(values: Sequence[Any]) -> list[float]:
    """Mean over seeds and the half-width of its 95% interval (t, 2 degrees of freedom)."""
    half = 4.303 * np.std(values, ddof=1) / 3**0.5
    return [round(float(np.mean(values)), 3), round(float(half), 3)]


Answers = list[PixieAnswer]


def early_stop(planted: Planted) -> dict[str, Any]:
    """Against long walks, each of other random numbers."""
    found: dict[str, Any] = {}
    for size, steps in ((1, 100_000), (1, SETTINGS.steps), (1, 300_000), (5, SETTINGS.steps)):
        settings = replace(LONG, steps=steps)
        asked = {seed: requests(planted, 25, size, seed) for seed in SEEDS}
        long = {seed: _answers(planted, settings, asked[seed], seed) for seed in SEEDS}
        again = {seed: _answers(planted, settings, asked[seed], seed + 50) for seed in SEEDS}
        found[f"{size} of {steps}"] = {"repeat": _overlaps(again, long)} | {
            f"n_v={visits}": _stopped(planted, replace(settings, visits=visits), asked, long)
            for visits in (2, 3, 4, 6)
        }
    return found


def _stopped(
    planted: Planted,
    settings: PixieSettings,
    asked: dict[int, list[Ints]],
    long: dict[int, Answers],
) -> dict[str, list[float]]:
    settings = replace(settings, early_stop=True)
    answers = {seed: _answers(planted, settings, asked[seed], seed + 100) for seed in SEEDS}
    taken = [np.mean([a.steps.sum() / settings.steps for a in answers[seed]]) for seed in SEEDS]
    return {"overlap": _overlaps(answers, long), "steps_share": interval(taken)}


def _answers(planted: Planted, settings: PixieSettings, asked: list[Ints], seed: int) -> Answers:
    walk = PixieWalk.of(planted.graph, settings)
    return [walk.recommend(q, weights_of(q), seed * 1000 + n) for n, q in enumerate(asked)]


def _overlaps(one: dict[int, Answers], other: dict[int, Answers]) -> list[float]:
    pairs = (zip(one[seed], other[seed], strict=True) for seed in SEEDS)
    return interval([np.mean([shared(a.items, b.items, 1000) for a, b in p]) for p in pairs])


def target_share(planted: Planted) -> dict[str, dict[str, float]]:
    """From queries in a language to a language, without and with bias, one query each."""
    found: dict[str, dict[str, float]] = {}
    rng = np.random.default_rng(3)
    walk = PixieWalk.of(planted.graph, SETTINGS, planted.language)
    walks = {b: replace(walk, settings=replace(SETTINGS, bias=b)) for b in (0.0, 0.5, 0.9)}
    for source, target in ((0, 3), (3, 3), (0, 4), (4, 4)):
        some = (planted.language == source) & (planted.graph.items.degrees >= 5)
        queries = rng.choice(np.flatnonzero(some), 40)
        found[f"{source}->{target}"] = {
            f"bias={bias}": round(_share(planted, biased, queries, target), 3)
            for bias, biased in walks.items()
        }
    return found


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


def booster(planted: Planted) -> dict[str, dict[str, list[float]]]:
    """Users of two neighbouring topics, by how many of their queries are of either."""
    return {
        f"{name}, {split[0]} and {split[1]}": _boosted(graph, split)
        for name, graph in (("all edges", planted), ("pruned", pruned(planted, 0.85)))
        for split in ((1, 1), (3, 2))
    }


def _boosted(planted: Planted, split: tuple[int, int]) -> dict[str, list[float]]:
    walks = [PixieWalk.of(planted.graph, replace(SETTINGS, booster=on)) for on in (True, False)]
    pairs = [[_both_interests(planted, walk, split, seed) for walk in walks] for seed in SEEDS]
    boosted, plain = np.array(pairs).T
    return {
        "with": interval(boosted),
        "without": interval(plain),
        "difference": interval(boosted - plain),
    }


def _both_interests(planted: Planted, walk: PixieWalk, split: tuple[int, int], seed: int) -> float:
    rng = np.random.default_rng(seed)
    single = (planted.second < 0) & (planted.graph.items.degrees >= 5)
    shares = []
    for topic in rng.integers(0, TOPICS, 100):
        pools = [np.flatnonzero(single & (planted.topic == (topic + k) % TOPICS)) for k in (0, 1)]
        chosen = [rng.choice(pool, size) for pool, size in zip(pools, split, strict=True)]
        answer = walk.recommend(np.concatenate(chosen), np.ones(sum(split)), seed).items[:100]
        shares.append(((planted.topic[answer] == topic) & (planted.second[answer] >= 0)).mean())
    return float(np.mean(shares))


def latency(planted: Planted) -> dict[str, Any]:
    """Per request of one and of five queries, one thread; requests per second on two."""
    found: dict[str, Any] = {}
    for name, settings in (("early_stop", SETTINGS), ("long", LONG)):
        walk = PixieWalk.of(planted.graph, settings)
        for size in (1, 5):
            asked = requests(planted, 200, size, 21)
            times = np.array([_timed(walk, queries) for queries in asked])
            p50, p99 = np.percentile(times[:, 0], (50, 99)).round(2)
            cpu = np.median(times[:, 1]).round(2)
            found[f"{name}_{size}"] = {"p50_ms": p50, "p99_ms": p99, "cpu_p50_ms": cpu}
    asked = requests(planted, 300, 5, 22)
    walk = PixieWalk.of(planted.graph, SETTINGS)
    found["requests_per_s"] = {n: round(_throughput(walk, asked, n)) for n in (1, 2)}
    baseline = [_numpy_walk(planted.graph, int(queries[0])) for queries in asked[:20]]
    found["numpy_long_1"] = {"cpu_p50_ms": round(float(np.median(baseline)), 2)}
    return found


def _timed(walk: PixieWalk, queries: Ints) -> tuple[float, float]:
    clock, cpu = time.perf_counter(), time.thread_time()
    walk.recommend(queries, weights_of(queries), 0)
    return (time.perf_counter() - clock) * 1000, (time.thread_time() - cpu) * 1000


def _throughput(walk: PixieWalk, asked: list[Ints], threads: int) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda q: walk.recommend(q, weights_of(q), 0), asked))
    return len(asked) / (time.perf_counter() - start)


def _numpy_walk(graph: Graph, query: int, walkers: int = 2048) -> float:
    """Ms of the long walk of one query, its walkers moved together by numpy."""
    rng, nodes = np.random.default_rng(0), np.full(walkers, query)
    start, visited = time.thread_time(), []
    for _ in range(LONG.steps // walkers):
        for side in (graph.items, graph.boards):
            first, end = side.indptr[nodes], side.indptr[nodes + 1]
            nodes = side.indices[first + (rng.random(walkers) * (end - first)).astype(np.int64)]
        visited.append(nodes)
        nodes = np.where(rng.random(walkers) < LONG.restart, query, nodes)
    rows, counts = np.unique(np.concatenate(visited), return_counts=True)
    rows[np.argsort(-counts)[: LONG.candidates]]
    return (time.thread_time() - start) * 1000


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
    chosen = parts["early_stop"][f"1 of {SETTINGS.steps}"][f"n_v={SETTINGS.visits}"]
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
