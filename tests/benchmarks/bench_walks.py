"""Speed of random-walk neighbourhoods: `python -m tests.benchmarks.bench_walks`.

The kernel beside a vectorised numpy arm, plain Python lists, and what the memory allows: four
random lines a hop, at the rate of random gathers from an array as large as the graph's, measured
in the same run. All boards of a start item lie on a line or two, so that the kernel may do better
than that bound. Medians of five runs, the arms taking turns, every run with other nodes; one thread
but for `ratio_two_threads`. `ratio_weighted` is what is left of the speed when edges are chosen by
weight. The last line is one JSON object; edges=5000000,60000000 names other sizes.

Extrapolation (`core_hours_3e9`): a node costs the same whatever the number of nodes, so 3 billion
items x 100 walks take 3e9 / 3600 / (nodes/s of the largest graph) core-hours. That leaves out what
a graph of 18 billion edges (168 GB a host) adds in misses of the page table.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt

from data.graph.alias import fill_aliases
from data.graph.store import Adjacency, Graph
from data.graph.walks import sample
from ray_jobs.engine.memory import PeakMemory
from tests.benchmarks.walk_arms import WALK, Lists, vectorised

if TYPE_CHECKING:
    from collections.abc import Callable

    Ints = npt.NDArray[np.int64]
    Arm = tuple[int, Callable[[Ints, int], Any]]

RUNS = 5
LINES_A_HOP = 4
EDGES = (5_000_000, 60_000_000)
NODES = {"kernel": 60_000, "numpy": 20_000, "python": 400}
GATHERS = 20_000_000


def synthetic_graph(edges: int, seed: int = 0) -> Graph:
    """Items by a power law (Gini about .7) on boards of log-normal size; 25 edges an item."""
    rng = np.random.default_rng(seed)
    num_items, num_boards = edges // 25, edges // 50
    item = _weighted(rng, (1 + np.arange(num_items)) ** -0.82, edges)
    item = 1 + rng.permutation(num_items).astype(np.int32)[item]
    board = _weighted(rng, rng.lognormal(0, 1, num_boards), edges)
    return Graph(_side(item, board, num_items + 1), _side(board, item, num_boards))


def _weighted(rng: np.random.Generator, weights: npt.NDArray[Any], size: int) -> Any:
    cumulative = np.cumsum(weights)
    drawn = np.sort(rng.random(size)) * cumulative[-1]
    found = np.searchsorted(cumulative, drawn).astype(np.int32)
    rng.shuffle(found)
    return np.minimum(found, len(weights) - 1)


def _side(node: Any, other: Any, size: int) -> Adjacency:
    order = np.argsort(node, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(node, minlength=size))])
    return Adjacency(indptr.astype(np.int64), other[order])


def with_weights(side: Adjacency) -> Adjacency:
    """The same edges, weighing something log-normal."""
    weight = np.random.default_rng(2).lognormal(0, 1, len(side.indices)).astype(np.float32)
    alias = np.empty(len(weight), np.uint64)
    fill_aliases(side.indptr, side.indices, weight, alias)
    return replace(side, weight=weight, alias=alias)


def gini(values: Ints) -> float:
    """Gini coefficient of the degrees that are not 0."""
    ordered = np.sort(values[values > 0])
    ranks = 2 * np.arange(1, len(ordered) + 1) - len(ordered) - 1
    return float((ranks * ordered).sum() / (len(ordered) * ordered.sum()))


@numba.njit(nogil=True)
def _gather(array: Any, count: int, seed: int) -> int:
    """Sums `count` random elements."""
    total, state = 0, np.uint64(seed)
    size = np.uint64(len(array))
    for _ in range(count):
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        total += array[((state >> np.uint64(32)) * size) >> np.uint64(32)]
    return total


def arms_of(graph: Graph, small: bool) -> dict[str, Arm]:
    """Name -> size, and what is to be timed given nodes and a seed; all of them on a small one."""

    def kernel(nodes: Ints, seed: int) -> None:
        sample(graph, nodes, "item", WALK, seed)

    arms: dict[str, Arm] = {
        "kernel": (NODES["kernel"], kernel),
        "gathers": (GATHERS, lambda _, seed: _gather(graph.items.indices, GATHERS, seed)),
        "two_threads": (NODES["kernel"], lambda nodes, seed: _by_two(kernel, nodes, seed)),
    }
    if small:
        weighted = Graph(with_weights(graph.items), with_weights(graph.boards))
        lists = Lists.of(graph)
        arms |= {
            "weighted": (NODES["kernel"], lambda n, seed: sample(weighted, n, "item", WALK, seed)),
            "numpy": (NODES["numpy"], lambda nodes, seed: vectorised(graph, nodes, seed)),
            "python": (NODES["python"], lists.walk),
        }
    return arms


def _by_two(call: Callable[[Ints, int], None], nodes: Ints, seed: int) -> None:
    numba.set_num_threads(2)
    call(nodes, seed)
    numba.set_num_threads(1)


def rates(graph: Graph, small: bool) -> dict[str, float]:
    """Medians of alternated runs, nodes/s (gathers/s) by arm; and `hops` of a node."""
    there = np.flatnonzero(graph.items.degrees > 0)
    rng = np.random.default_rng(1)
    arms = arms_of(graph, small)
    for _, call in arms.values():
        call(there[:10], 0)
    found: dict[str, list[float]] = {name: [] for name in arms}
    for run in range(RUNS):
        for number, (name, (size, call)) in enumerate(arms.items()):
            nodes = rng.choice(there, min(size, NODES["kernel"]))
            started = time.perf_counter()
            call(nodes, 1 + run * len(arms) + number)
            found[name].append(size / (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in found.items()}
    return medians | {"hops": hops_of(graph, rng.choice(there, 2000))}


def hops_of(graph: Graph, nodes: Ints) -> float:
    """Visits of other items a node, read off records wide enough for all of them.

    The least weight of such a record is one visit in their number.
    """
    wide = replace(WALK, neighbors=WALK.walks * WALK.max_hops)
    weights = sample(graph, nodes, "item", wide, 0).weights
    least = np.where(weights > 0, weights, np.inf).min(axis=1)
    return float(np.mean(1 / least))


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    edges = [int(n) for n in words.get("edges", ",".join(map(str, EDGES))).split(",")]
    numba.set_num_threads(1)
    with PeakMemory() as memory:
        graph = synthetic_graph(edges[0])
        shape = {
            "items": graph.num_items,
            "boards": graph.num_boards,
            "gini": round(gini(graph.items.degrees), 3),
        }
        small = rates(graph, small=True)
        large = rates(synthetic_graph(edges[1]), small=False)
    ratios = {
        "ratio_numpy": small["kernel"] / small["numpy"],
        "ratio_python": small["kernel"] / small["python"],
        "ratio_bound_5m": small["kernel"] / _bound(small),
        "ratio_bound_60m": large["kernel"] / _bound(large),
        "ratio_two_threads": small["two_threads"] / small["kernel"],
        "ratio_two_threads_60m": large["two_threads"] / large["kernel"],
        "ratio_weighted": small["weighted"] / small["kernel"],
    }
    line = {
        "name": "walks",
        "params": {"edges": edges, "walks": WALK.walks, "neighbors": WALK.neighbors} | shape,
        "value": round(small["kernel"]),
        "unit": "nodes_per_s",
        "nodes_per_s": round(small["kernel"]),
        **{name: round(ratio, 3) for name, ratio in ratios.items()},
        "small": {name: round(rate, 1) for name, rate in small.items()},
        "large": {name: round(rate, 1) for name, rate in large.items()},
        "core_hours_3e9": round(3e9 / large["kernel"] / 3600, 2),
        "peak_mib": round(memory.peak_mib),
        "load": os.getloadavg()[0],
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(line))


def _bound(found: dict[str, float]) -> float:
    """Nodes/s if nothing but the random lines took time."""
    return found["gathers"] / (LINES_A_HOP * found["hops"])


if __name__ == "__main__":
    main()
