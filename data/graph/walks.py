"""Random walks over the graph: the neighbourhood of a node by how often it is visited.

Notable here:
- all walks of a node move one step at a time, so that their cache misses overlap (lockstep);
- every random number is a hash of (seed, side, node, walk, hop): a node's record is the same
  whoever else is asked for, in whatever order, on however many threads;
- cost is nodes x walks, whatever the number of edges: four random lines of memory a hop.

A walk goes item -> board -> item and ends after each such hop with probability `stop`; visits
approximate personalised PageRank (PinSage, KDD'18, §3.1).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numba
import numpy as np
import numpy.typing as npt

from data.contract.settings import Count, Share
from data.graph.store import Adjacency, Graph, Side

if TYPE_CHECKING:
    from data.contract.encode import Ints

    Rows = npt.NDArray[np.int32]
    Weights = npt.NDArray[np.float32]

__all__ = ["Neighborhoods", "Side", "WalkSettings", "co_items", "rank_band", "sample"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
NODES_A_TASK = 64
BAND_NODES = 4096
TRIES = 4
# One parallel loop at a time: numba's plain threading layer does not bear two.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkSettings:
    """How neighbourhoods are sampled.

    Attributes:
        kind: random_walk weighs neighbours by visits; k_hop takes whatever the walks reach, all
            alike.
        neighbors: neighbours kept, T.
        walks: walks from each node.
        max_hops: most item-board-item hops of a walk.
        stop: probability with which a walk ends after a hop.
    """

    kind: Literal["random_walk", "k_hop"] = "random_walk"
    neighbors: Count = 50
    walks: Count = 100
    max_hops: Count = 3
    stop: Share = 0.5


@dataclass(frozen=True, slots=True)
class Neighborhoods:
    """Sampled neighbours of N nodes.

    Attributes:
        neighbors: int32[N, T] item rows, most visited first (ties: visited first); 0 is none.
        weights: float32[N, T] share of the visits of those kept, adding up to 1; 0 without any.
    """

    neighbors: Rows
    weights: Weights

    def take(self, at: Ints) -> Neighborhoods:
        """Records at some places, in the order asked for."""
        return Neighborhoods(self.neighbors[at], self.weights[at])


def sample(
    graph: Graph, nodes: Ints, side: Side, settings: WalkSettings, seed: int
) -> Neighborhoods:
    """Walks from nodes.

    Args:
        graph: where.
        nodes: [N] item rows or board numbers; those that the graph does not have, or that have no
            edge, have no neighbours.
        side: which of the two.
        settings: of the walks.
        seed: of all randomness.
    """
    neighbors = np.zeros((len(nodes), settings.neighbors), np.int32)
    weights = np.zeros((len(nodes), settings.neighbors), np.float32)
    stream = np.random.SeedSequence([seed, side == "board"]).generate_state(1, np.uint64)[0]
    walk = (settings.walks, settings.max_hops, 1 - settings.stop, settings.kind == "k_hop")
    with _one_at_a_time:
        _sample(
            np.ascontiguousarray(nodes, np.int64),
            side == "board",
            (edges_of(graph.items), edges_of(graph.boards)),
            walk,
            np.uint64(stream),
            (neighbors, weights),
        )
    return Neighborhoods(neighbors, weights)


def co_items(graph: Graph, items: Ints, rng: np.random.Generator) -> Ints:
    """Another item of a random board of each item, [N]; 0 where a few tries find none."""
    found = np.zeros(len(items), np.int64)
    todo = np.flatnonzero(graph.items.degrees[items] > 0)
    for _ in range(TRIES):
        boards = _random_end(graph.items, items[todo], rng)
        others = _random_end(graph.boards, boards, rng)
        new = others != items[todo]
        found[todo[new]] = others[new]
        todo = todo[~new]
    return found


def _random_end(adjacency: Adjacency, nodes: Ints, rng: np.random.Generator) -> Ints:
    """The other end of a random edge of each node, all edges alike."""
    first, end = adjacency.indptr[nodes], adjacency.indptr[nodes + 1]
    at = first + (rng.random(len(nodes)) * (end - first)).astype(np.int64)
    return adjacency.indices[at].astype(np.int64)


def rank_band(
    graph: Graph,
    nodes: Ints,
    settings: WalkSettings,
    band: tuple[int, int],
    count: int,
    rng: np.random.Generator,
) -> Ints:
    """Hard negatives: items that walks from an item reach, but seldom (PinSage, KDD'18, §3.2).

    Args:
        graph: where.
        nodes: [N] item rows.
        settings: of walks many enough to rank that far.
        band: first and end rank by visits.
        count: items of each.
        rng: chooses in the band, and seeds the walks.

    Returns:
        int64[N, count]; 0 where the walks did not reach that far.
    """
    longer = replace(settings, neighbors=band[1], kind="random_walk")
    seed = int(rng.integers(1 << 31))
    found = np.zeros((len(nodes), count), np.int64)
    for start in range(0, len(nodes), BAND_NODES):
        part = nodes[start : start + BAND_NODES]
        reached = sample(graph, part, "item", longer, seed).neighbors
        there = np.maximum((reached > 0).sum(1) - band[0], 0)[:, None]
        at = band[0] + (rng.random((len(part), count)) * there).astype(np.int64)
        drawn = np.take_along_axis(reached, np.minimum(at, band[1] - 1), axis=1)
        found[start : start + len(part)] = np.where(there > 0, drawn, 0)
    return found


NO_SHARES = np.zeros(0, np.float32)


def edges_of(adjacency: Adjacency) -> tuple[Any, Any, Any]:
    """Plain arrays that kernels take: indptr, indices, and shares (none where all weigh 1)."""
    shares = NO_SHARES if adjacency.cumulative is None else adjacency.cumulative
    return np.asarray(adjacency.indptr), np.asarray(adjacency.indices), np.asarray(shares)


@numba.njit(cache=True, nogil=True, inline="always")
def mixed(value: Any) -> Any:
    """splitmix64's finaliser."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True, nogil=True, inline="always")
def edge_at(first: Any, degree: Any, shares: Any, bits: Any) -> Any:
    """Place of an edge among `degree` from `first` on, by 32 random bits; by share if weighted."""
    if len(shares) == 0:
        return first + np.int64((bits * np.uint64(degree)) >> HALF)
    target = np.float32(np.float64(bits) / 4294967296.0)
    low, high = first, first + degree - 1
    while low < high:
        middle = (low + high) // 2
        if shares[middle] > target:
            high = middle
        else:
            low = middle + 1
    return low


@numba.njit(cache=True, nogil=True)
def _half_hop(count: int, nodes: Any, side: Any, bits: Any, space: Any, out: Any) -> None:
    """Moves `count` walkers over one edge each; separate loops let the loads overlap."""
    indptr, indices, shares = side
    first, degree = space
    for j in range(count):
        first[j] = indptr[nodes[j]]
        degree[j] = indptr[nodes[j] + 1] - first[j]
    for j in range(count):
        out[j] = indices[edge_at(first[j], degree[j], shares, bits[j])]


@numba.njit(cache=True, nogil=True)
def _hops(walk: Any, key: Any, length: Any) -> None:
    """How many hops each walk takes: geometric, cut at the most there may be."""
    walks, max_hops, going_on, _ = walk
    for j in range(walks):
        share = np.float64(mixed(key + np.uint64(j) * GOLDEN) >> np.uint64(11)) * 2.0**-53
        length[j] = 1
        reach = going_on
        while length[j] < max_hops and share < reach:
            length[j] += 1
            reach *= going_on


@numba.njit(cache=True, nogil=True)
def _draw(count: int, first: int, number: Any, key: Any, high: Any, low: Any) -> None:
    """32 random bits for either half of a hop of each walk."""
    for j in range(count):
        bits = mixed(key + np.uint64(first + number[j]) * GOLDEN)
        high[j], low[j] = bits >> HALF, bits & LOW


@numba.njit(cache=True, nogil=True)
def _visit(node: int, from_board: bool, graph: Any, walk: Any, key: Any, space: Any) -> int:
    """All walks of one node; writes the items visited into `space[0]`, gives how many."""
    visited, nodes, middle, length, number, high, low, first, degree = space
    items, boards = graph
    walks = walk[0]
    _hops(walk, key, length)
    number[:] = np.arange(walks)
    nodes[:] = node
    count = 0
    if from_board:
        _draw(walks, walks, number, key, high, low)
        _half_hop(walks, nodes, boards, high, (first, degree), middle)
        nodes[:] = middle
        visited[:walks] = middle
        count = walks
    alive = walks
    for hop in range(walk[1]):
        _draw(alive, (hop + 2) * walks, number, key, high, low)
        _half_hop(alive, nodes, items, high, (first, degree), middle)
        _half_hop(alive, middle, boards, low, (first, degree), nodes)
        kept = 0
        for j in range(alive):
            visited[count] = nodes[j]
            count += 1
            if length[number[j]] > hop + 1:
                nodes[kept], number[kept] = nodes[j], number[j]
                kept += 1
        alive = kept
    return count


@numba.njit(cache=True, nogil=True)
def _count(visited: Any, itself: int, table: Any, rows: Any, counts: Any) -> int:
    """Distinct items in order of their first visit, and visits of each; gives how many.

    `table` holds place + 1 by hash and is left all zero.
    """
    mask = np.uint64(len(table) - 1)
    distinct = np.int64(0)
    for row in visited:
        if row == itself:
            continue
        slot = np.int64((np.uint64(row) * GOLDEN >> np.uint64(40)) & mask)
        while table[slot] != 0 and rows[table[slot] - 1] != row:
            slot = np.int64(np.uint64(slot + 1) & mask)
        if table[slot] == 0:
            rows[distinct], counts[distinct] = row, 0
            distinct += 1
            table[slot] = distinct
        counts[table[slot] - 1] += 1
    for slot in range(len(table)):
        table[slot] = 0
    return distinct


@numba.njit(cache=True, nogil=True)
def _most_visited(distinct: int, counts: Any, keep: int, starts: Any, order: Any) -> int:
    """Order of the `keep` most visited, by counting sort; ties stay in order of first visit."""
    highest = 0
    for i in range(distinct):
        highest = max(highest, counts[i])
    for c in range(highest + 2):
        starts[c] = 0
    for i in range(distinct):
        starts[highest - counts[i] + 1] += 1
    for c in range(1, highest + 2):
        starts[c] += starts[c - 1]
    for i in range(distinct):
        place = highest - counts[i]
        if starts[place] < keep:
            order[starts[place]] = i
        starts[place] += 1
    return min(distinct, keep)


@numba.njit(cache=True, nogil=True)
def _any_reached(distinct: int, counts: Any, keep: int, key: Any, order: Any) -> int:
    """A uniform choice of `keep` of those reached, each counting once."""
    for i in range(distinct):
        order[i] = i
        counts[i] = 1
    for i in range(min(keep, distinct)):
        bits = mixed(key - np.uint64(i + 1) * GOLDEN) >> HALF
        other = i + np.int64((bits * np.uint64(distinct - i)) >> HALF)
        order[i], order[other] = order[other], order[i]
    return min(distinct, keep)


@numba.njit(cache=True, nogil=True)
def _space(walk: Any) -> Any:
    """Room for the walks of one node; see `_visit`."""
    walks, most = walk[0], walk[0] * (walk[1] + 1)
    return (
        np.empty(most, np.int64),
        np.empty(walks, np.int64),
        np.empty(walks, np.int64),
        np.empty(walks, np.int64),
        np.empty(walks, np.int64),
        np.empty(walks, np.uint64),
        np.empty(walks, np.uint64),
        np.empty(walks, np.int64),
        np.empty(walks, np.int64),
    )


@numba.njit(cache=True, nogil=True)
def _slots(most: int) -> int:
    """Size of a hash table for so many visits: a power of two, half full at most."""
    slots = 16
    while slots < 2 * most:
        slots *= 2
    return slots


@numba.njit(cache=True, nogil=True)
def _write(kept: int, rows: Any, counts: Any, order: Any, neighbors: Any, weights: Any) -> None:
    """One record."""
    total = 0
    for k in range(kept):
        total += counts[order[k]]
    for k in range(kept):
        neighbors[k] = rows[order[k]]
        weights[k] = np.float32(counts[order[k]]) / np.float32(total)


@numba.njit(cache=True, nogil=True, parallel=True)
def _sample(nodes: Any, from_board: bool, graph: Any, walk: Any, seed: Any, out: Any) -> None:
    # Tuples of tuples cannot be carried into a parallel loop.
    neighbors, weights = out
    items, boards = graph
    keep, k_hop = neighbors.shape[1], walk[3]
    indptr = boards[0] if from_board else items[0]
    most = walk[0] * (walk[1] + 1)
    for task in numba.prange((len(nodes) + NODES_A_TASK - 1) // NODES_A_TASK):
        space = _space(walk)
        table = np.zeros(_slots(most), np.int32)
        rows, counts = np.empty(most, np.int64), np.empty(most, np.int64)
        starts, order = np.empty(most + 2, np.int64), np.empty(max(most, keep), np.int64)
        for n in range(task * NODES_A_TASK, min((task + 1) * NODES_A_TASK, len(nodes))):
            node = nodes[n]
            if node < 0 or node >= len(indptr) - 1 or indptr[node] == indptr[node + 1]:
                continue
            key = mixed(seed ^ mixed(np.uint64(node) + GOLDEN))
            visits = _visit(node, from_board, (items, boards), walk, key, space)
            itself = -1 if from_board else node
            distinct = _count(space[0][:visits], itself, table, rows, counts)
            if k_hop:
                kept = _any_reached(distinct, counts, keep, key, order)
            else:
                kept = _most_visited(distinct, counts, keep, starts, order)
            _write(kept, rows, counts, order, neighbors[n], weights[n])
