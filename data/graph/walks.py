"""Random walks over the graph: the neighbourhood of a node by how often it is visited.

Notable here:
- every random number is a hash of (seed, side, node, walk, hop): a node's record is the same
  whoever else is asked for, in whatever order, on however many threads;
- cost is nodes x walks, whatever the number of edges: four random lines of memory a hop, six in a
  graph with weights (`data.graph.lockstep` holds the compiled part).

A walk goes item -> board -> item and ends after each such hop with probability `stop`; visits
approximate personalised PageRank (PinSage, KDD'18, §3.1). Edges are chosen by their weights.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numba
import numpy as np
import numpy.typing as npt

from data.contract.settings import Count, Share
from data.graph.lockstep import GOLDEN, HALF, LOW, key_of, mixed, sample_all
from data.graph.store import Adjacency, Graph, Side

if TYPE_CHECKING:
    from data.contract.encode import Ints

    Rows = npt.NDArray[np.int32]
    Weights = npt.NDArray[np.float32]

__all__ = ["Neighborhoods", "Side", "WalkSettings", "co_items", "rank_band", "sample"]

BAND_NODES = 4096
TRIES = 8
UNWEIGHTED = np.zeros(0, np.uint64)
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
    starts = np.ascontiguousarray(nodes, np.int64)
    with _one_at_a_time:
        sample_all(starts, side == "board", _plain(graph), walk, stream, (neighbors, weights))
    return Neighborhoods(neighbors, weights)


def co_items(graph: Graph, items: Ints, rng: np.random.Generator) -> Ints:
    """Another item of a random board of each item, [N], edges chosen alike; 0 where there is none.

    Args:
        graph: where.
        items: [N] item rows; those that the graph does not have get 0.
        rng: seeds the choice; lines of the same item are drawn independently.
    """
    found = np.zeros(len(items), np.int64)
    seed = rng.integers(1 << 63, dtype=np.uint64)
    _co_items(np.ascontiguousarray(items, np.int64), _plain(graph), seed, found)
    return found


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
        band: first and end rank by visits, from 0 on.
        count: different items of each node.
        rng: chooses in the band, and seeds the walks.

    Returns:
        int64[N, count]; 0 in the last places where the walks reached fewer in the band.
    """
    longer = replace(settings, neighbors=band[1], kind="random_walk")
    seed = int(rng.integers(1 << 31))
    found = np.zeros((len(nodes), count), np.int64)
    for start in range(0, len(nodes), BAND_NODES):
        part = nodes[start : start + BAND_NODES]
        ranked = sample(graph, part, "item", longer, seed).neighbors[:, band[0] :]
        _shuffle(ranked, count, rng)
        found[start : start + len(part), : ranked.shape[1]] = ranked[:, :count]
    return found


def _shuffle(rows: Rows, count: int, rng: np.random.Generator) -> None:
    """Puts a uniform choice of each line's rows, which zeros follow, into its first places."""
    lines, width = np.arange(len(rows)), rows.shape[1]
    there = np.count_nonzero(rows, axis=1)
    for place in range(min(count, width)):
        left = np.maximum(there - place, 1)
        other = np.minimum(place + (rng.random(len(rows)) * left).astype(np.int64), width - 1)
        rows[lines, other], rows[:, place] = rows[:, place].copy(), rows[lines, other]


def _plain(graph: Graph) -> Any:
    """Both sides as arrays that compiled code takes (`data.graph.lockstep`)."""
    return tuple(_arrays(side) for side in (graph.items, graph.boards))


def _arrays(side: Adjacency) -> tuple[Any, ...]:
    alias = UNWEIGHTED if side.alias is None else side.alias
    return tuple(_read_only(array) for array in (side.indptr, side.indices, alias))


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view: arrays that are mapped and others would be two types to the compiler."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


@numba.njit(cache=True, nogil=True)
def _co_items(items: Any, graph: Any, seed: Any, found: Any) -> None:
    indptr = graph[0][0]
    for n in range(len(items)):
        item = items[n]
        if 0 < item < len(indptr) - 1 and indptr[item] < indptr[item + 1]:
            found[n] = _co_item(item, graph, key_of(seed, n))


@numba.njit(cache=True, nogil=True)
def _co_item(item: int, graph: Any, key: Any) -> Any:
    """Tries a few times; an item that is almost alone on its boards is worth a look at all."""
    items, boards = graph
    for attempt in range(TRIES):
        bits = mixed(key + np.uint64(attempt) * GOLDEN)
        other = _end(boards, _end(items, item, bits >> HALF), bits & LOW)
        if other not in (item, 0):
            return np.int64(other)
    return _any_co_item(item, items, boards, key)


@numba.njit(cache=True, nogil=True)
def _end(side: Any, node: int, bits: Any) -> Any:
    """The other end of one of a node's edges, by 32 random bits."""
    indptr, indices, _ = side
    first = np.uint64(indptr[node])
    return indices[first + ((bits * (np.uint64(indptr[node + 1]) - first)) >> HALF)]


@numba.njit(cache=True, nogil=True)
def _any_co_item(item: int, items: Any, boards: Any, key: Any) -> Any:
    """What tries would find at last: reservoir sampling over all items of all boards."""
    chosen, total, draws = np.int64(0), 0.0, TRIES
    for board in items[1][items[0][item] : items[0][item + 1]]:
        first, end = boards[0][board], boards[0][board + 1]
        for other in boards[1][first:end]:
            if other not in (item, 0):
                total += 1 / (end - first)
                uniform = np.float64(mixed(key + np.uint64(draws) * GOLDEN) >> HALF) * 2.0**-32
                chosen = other if uniform * total < 1 / (end - first) else chosen
                draws += 1
    return chosen
