"""Speed of random-walk neighbourhoods: `python -m tests.benchmarks.bench_walks`.

The kernel beside a vectorised numpy arm, plain Python lists, and what the memory allows: four
random lines a hop, at the rate of random gathers from an array as large as the graph's, measured
in the same run. Medians of five alternated runs, one thread but for `ratio_two_threads`. The last
line is one JSON object; edges=5000000,60000000 names other sizes.

Extrapolation: items x 100 walks cost the same however many edges there are, but for the cache; 3
billion items at the rate of the largest graph are `core_hours_3e9`.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt

from data.graph.store import Adjacency, Graph
from data.graph.walks import WalkSettings, sample
from ray_jobs.engine.memory import PeakMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Ints = npt.NDArray[np.int64]

RUNS = 5
LINES_A_HOP = 4
WALK = WalkSettings()
EDGES = (5_000_000, 60_000_000)
NODES = {"kernel": 60_000, "numpy": 20_000, "python": 400}
GATHERS = 20_000_000


def synthetic_graph(edges: int, seed: int = 0) -> Graph:
    """Items by a power law (Gini about .7) on boards of log-normal size; 25 edges an item."""
    rng = np.random.default_rng(seed)
    num_items, num_boards = edges // 25, edges // 50
    item = _weighted(rng, (1 + np.arange(num_items)) ** -0.72, edges)
    item = rng.permutation(num_items).astype(np.int32)[item]
    board = _weighted(rng, rng.lognormal(0, 1, num_boards), edges)
    return Graph(_side(item, board, num_items), _side(board, item, num_boards))


def _weighted(rng: np.random.Generator, weights: npt.NDArray[np.float64], size: int) -> Any:
    cumulative = np.cumsum(weights)
    drawn = np.sort(rng.random(size)) * cumulative[-1]
    found = np.searchsorted(cumulative, drawn).astype(np.int32)
    rng.shuffle(found)
    return np.minimum(found, len(weights) - 1)


def _side(node: Any, other: Any, size: int) -> Adjacency:
    order = np.argsort(node, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(node, minlength=size))])
    return Adjacency(indptr.astype(np.int64), other[order])


def kernel(graph: Graph, nodes: Ints) -> None:
    """Ours."""
    sample(graph, nodes, "item", WALK, 0)


def vectorised(graph: Graph, nodes: Ints) -> None:
    """All walks of 2,000 nodes a hop at a time in numpy; counted by sorting."""
    rng = np.random.default_rng(0)
    for start in range(0, len(nodes), 2000):
        _vectorised(graph, nodes[start : start + 2000], rng)


def _vectorised(graph: Graph, nodes: Ints, rng: np.random.Generator) -> tuple[Any, Any]:
    here = np.repeat(nodes, WALK.walks)
    owner = np.repeat(np.arange(len(nodes), dtype=np.int64), WALK.walks)
    visits = []
    for _ in range(WALK.max_hops):
        here = _end(graph.boards, _end(graph.items, here, rng), rng)
        visits.append((owner << 32) | here)
        going_on = rng.random(len(here), np.float32) >= WALK.stop
        here, owner = here[going_on], owner[going_on]
    pairs = np.sort(np.concatenate(visits))
    first = np.flatnonzero(np.diff(pairs, prepend=-1))
    counts = np.diff(first, append=len(pairs))
    distinct = pairs[first]
    order = np.argsort((distinct >> 32 << 32) | (1000 - counts), kind="stable")
    sizes = np.bincount(distinct >> 32, minlength=len(nodes))
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = place < WALK.neighbors
    neighbors = np.zeros((len(nodes), WALK.neighbors), np.int32)
    weights = np.zeros((len(nodes), WALK.neighbors), np.float32)
    at = order[kept]
    neighbors[distinct[at] >> 32, place[kept]] = distinct[at] & 0xFFFFFFFF
    weights[distinct[at] >> 32, place[kept]] = counts[at]
    return neighbors, weights / np.maximum(weights.sum(1, keepdims=True), 1)


def _end(side: Adjacency, nodes: Any, rng: np.random.Generator) -> Any:
    first = side.indptr[nodes]
    degree = side.indptr[nodes + 1] - first
    return side.indices[first + (rng.random(len(nodes), np.float32) * degree).astype(np.int64)]


@dataclass
class Lists:
    """Adjacency as Python lists."""

    items: list[list[int]]
    boards: list[list[int]]

    @classmethod
    def of(cls, graph: Graph) -> Lists:
        """Lists of every node."""
        return cls(*(cls._side(side) for side in (graph.items, graph.boards)))

    @staticmethod
    def _side(side: Adjacency) -> list[list[int]]:
        ends, indices = side.indptr.tolist(), side.indices.tolist()
        return [indices[a:b] for a, b in itertools.pairwise(ends)]

    def walk(self, nodes: Ints) -> None:
        """One walk after the other."""
        choose = random.Random(0)
        for node in nodes.tolist():
            visits: Counter[int] = Counter()
            for _ in range(WALK.walks):
                here = node
                for _ in range(WALK.max_hops):
                    here = choose.choice(self.boards[choose.choice(self.items[here])])
                    visits[here] += 1
                    if choose.random() < WALK.stop:
                        break
            visits.most_common(WALK.neighbors)


@numba.njit(nogil=True)
def _gather(array: Any, count: int, seed: int) -> int:
    """Sums `count` random elements."""
    total, state = 0, np.uint64(seed)
    size = np.uint64(len(array))
    for _ in range(count):
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        total += array[np.int64(((state >> np.uint64(32)) * size) >> np.uint64(32))]
    return total


def seconds_of(function: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def rates(graph: Graph, names: Sequence[str]) -> dict[str, float]:
    """Medians of alternated runs: nodes/s by arm; `gathers` and `two_threads` beside them."""
    degree = np.flatnonzero(graph.items.degrees > 0)
    nodes = np.random.default_rng(1).choice(degree, NODES["kernel"], replace=False)
    lists = Lists.of(graph) if "python" in names else None
    arms: dict[str, tuple[int, Callable[[], Any]]] = {
        "kernel": (len(nodes), lambda: kernel(graph, nodes)),
        "gathers": (GATHERS, lambda: _gather(graph.items.indices, GATHERS, 7)),
        "two_threads": (len(nodes), lambda: _with_threads(2, lambda: kernel(graph, nodes))),
        "numpy": (NODES["numpy"], lambda: vectorised(graph, nodes[: NODES["numpy"]])),
        "python": (NODES["python"], lambda: lists and lists.walk(nodes[: NODES["python"]])),
    }
    chosen = {name: arm for name, arm in arms.items() if name in names}
    kernel(graph, nodes[:100])
    _gather(graph.items.indices, 10, 7)
    found: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(RUNS):
        for name, (size, call) in chosen.items():
            found[name].append(size / seconds_of(call))
    return {name: statistics.median(values) for name, values in found.items()}


def _with_threads(count: int, call: Callable[[], Any]) -> None:
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    call()
    numba.set_num_threads(1)


def hops_of(walk: WalkSettings) -> float:
    """Expected hops of all walks of a node."""
    reached = [(1 - walk.stop) ** hop for hop in range(walk.max_hops)]
    return walk.walks * sum(reached)


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    small, large = (int(n) for n in words.get("edges", ",".join(map(str, EDGES))).split(","))
    numba.set_num_threads(1)
    with PeakMemory() as memory:
        of_small = rates(
            synthetic_graph(small), ("kernel", "gathers", "two_threads", "numpy", "python")
        )
        of_large = rates(synthetic_graph(large), ("kernel", "gathers", "two_threads"))
    line = {
        "name": "walks",
        "edges": [small, large],
        "nodes_per_s": round(of_small["kernel"]),
        "nodes_per_s_large": round(of_large["kernel"]),
        "ratio_numpy": of_small["kernel"] / of_small["numpy"],
        "ratio_python": of_small["kernel"] / of_small["python"],
        "ratio_bound_5m": of_small["kernel"] / _bound(of_small),
        "ratio_bound_60m": of_large["kernel"] / _bound(of_large),
        "ratio_two_threads": of_small["two_threads"] / of_small["kernel"],
        "ratio_two_threads_large": of_large["two_threads"] / of_large["kernel"],
        "gathers_per_s": [round(of_small["gathers"]), round(of_large["gathers"])],
        "numpy_nodes_per_s": round(of_small["numpy"]),
        "core_hours_3e9": 3e9 / of_large["kernel"] / 3600,
        "peak_mib": round(memory.peak_mib),
    }
    print(json.dumps(line))


def _bound(found: dict[str, float]) -> float:
    return found["gathers"] / (LINES_A_HOP * hops_of(WALK))


if __name__ == "__main__":
    main()
