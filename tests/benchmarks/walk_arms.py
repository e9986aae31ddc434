"""Walks as they would be written without a compiler: numpy, and plain Python lists.

What `tests.benchmarks.bench_walks` measures the kernel against; both as fast as we could make them.
The numpy arm does not leave out the start item, which is a little less work.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.graph.walks import WalkSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from data.graph.store import Adjacency, Graph

    Ints = npt.NDArray[np.int64]

WALK = WalkSettings()
NODES_AT_ONCE = 250  # of the numpy arm: its arrays stay in the cache


def vectorised(graph: Graph, nodes: Ints, seed: int) -> None:
    """All walks of some nodes a hop at a time, counted by sorting packed keys."""
    rng = np.random.Generator(np.random.SFC64(seed))
    for start in range(0, len(nodes), NODES_AT_ONCE):
        part = nodes[start : start + NODES_AT_ONCE]
        shift = graph.num_items.bit_length()
        narrow = len(part).bit_length() + shift <= 32
        pairs = _visits(graph, part, shift, np.uint32 if narrow else np.int64, rng)
        _records(pairs, shift, len(part))


def _visits(graph: Graph, nodes: Ints, shift: int, kind: type, rng: np.random.Generator) -> Any:
    """Every visit as (line of the node << shift) | item."""
    here = np.repeat(nodes, WALK.walks)
    line = np.repeat(np.arange(len(nodes), dtype=kind) << kind(shift), WALK.walks)
    visits = []
    for hop in range(WALK.max_hops):
        here = _end(graph.boards, _end(graph.items, here, rng), rng)
        visits.append(line | here.astype(kind))
        if hop + 1 < WALK.max_hops:
            going_on = np.flatnonzero(rng.random(len(here), np.float32) >= WALK.stop)
            here, line = here.take(going_on), line.take(going_on)
    return np.concatenate(visits)


def _end(side: Adjacency, nodes: Any, rng: np.random.Generator) -> Any:
    # take() with clip is faster than an index: nothing can be out of range.
    at = side.indptr.take(nodes, mode="clip")
    degree = side.indptr[1:].take(nodes, mode="clip") - at
    at += (rng.random(len(nodes), np.float32) * degree).astype(np.int64)
    return side.indices.take(at, mode="clip")


def _records(pairs: Any, shift: int, lines: int) -> tuple[Any, Any]:
    pairs.sort()
    new = np.concatenate([[True], pairs[1:] != pairs[:-1]])
    first = np.flatnonzero(new)
    counts = np.diff(first, append=len(pairs))
    distinct = pairs.take(first).astype(np.int64)
    keys = (distinct >> shift << 40) | ((1023 - counts) << 30) | np.arange(len(first))
    keys.sort()
    sizes = np.bincount(distinct >> shift, minlength=lines)
    place = np.arange(WALK.neighbors)
    kept = place < sizes[:, None]
    at = (np.cumsum(sizes) - sizes)[:, None] + place
    at = keys.take(np.minimum(at, len(keys) - 1)) & ((1 << 30) - 1)
    neighbors = np.where(kept, distinct.take(at) & ((1 << shift) - 1), 0).astype(np.int32)
    weights = np.where(kept, counts.take(at), 0).astype(np.float32)
    return neighbors, weights / np.maximum(weights.sum(1, keepdims=True), 1)


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
        return [indices[a:b] for a, b in pairwise(ends)]

    def walk(self, nodes: Ints, seed: int) -> None:
        """One walk after the other."""
        draw = random.Random(seed).random
        for node in nodes.tolist():
            visits = self._visits(node, draw)
            visits.pop(node, 0)
            best = sorted(visits.items(), key=lambda pair: -pair[1])[: WALK.neighbors]
            total = sum(count for _, count in best)
            _ = [(item, count / total) for item, count in best]

    def _visits(self, node: int, draw: Callable[[], float]) -> dict[int, int]:
        items, boards, stop = self.items, self.boards, WALK.stop
        visits: dict[int, int] = {}
        for _ in range(WALK.walks):
            here = node
            for _ in range(WALK.max_hops):
                ends = items[here]
                ends = boards[ends[int(draw() * len(ends))]]
                here = ends[int(draw() * len(ends))]
                visits[here] = visits.get(here, 0) + 1
                if draw() < stop:
                    break
        return visits
