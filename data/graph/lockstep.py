"""Walks of many nodes and what they visit most: the compiled part of `data.graph.walks`.

Notable here:
- all walks of a node move over one edge at a time, in loops that only load and in loops that only
  compute, so that cache misses overlap;
- what decides nothing about memory (which walks go on, which rows are new) is arithmetic, not
  branches, for a wrong guess would cost as much as a miss;
- visits are counted in a hash table that stays in the nearest cache.

`graph` is the adjacency of items and that of boards, each (indptr int64[N + 1], indices int32[E],
alias uint64[E], none where all edges weigh the same). `walk` is (walks, max_hops, share that goes
on after a hop, whether visits are not counted).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
NODES_A_TASK = 64


@numba.njit(cache=True, nogil=True, inline="always")
def mixed(value: Any) -> Any:
    """splitmix64's finaliser."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _follow(count: int, nodes: Any, side: Any, bits: Any, at: Any, out: Any) -> None:
    """Moves `count` walkers over one edge each, chosen by the lower 32 of their bits."""
    indptr, indices, alias = side
    for j in range(count):
        first = np.uint64(indptr[nodes[j]])
        product = (bits[j] & LOW) * (np.uint64(indptr[nodes[j] + 1]) - first)
        at[j] = first + (product >> HALF)
        bits[j] = (bits[j] >> HALF) | (product << HALF)
    for j in range(count):
        out[j] = indices[at[j]]
    if len(alias):
        for j in range(count):
            entry = alias[at[j]]
            own = (bits[j] >> HALF) < (entry >> HALF)
            out[j] = out[j] if own else np.int32(entry & LOW)


@numba.njit(cache=True, nogil=True)
def _draw(count: int, base: Any, step: Any, bits: Any) -> None:
    """64 random bits for each walk, 32 for either edge of a hop."""
    for j in range(count):
        bits[j] = mixed(base[j] + step)


@numba.njit(cache=True, nogil=True)
def _survivors(count: int, limit: Any, nodes: Any, base: Any, luck: Any) -> Any:
    """Moves the walks that go on to the front, and gives how many they are."""
    kept = 0
    for j in range(count):
        goes_on = luck[j] < limit
        nodes[kept], base[kept], luck[kept] = nodes[j], base[j], luck[j]
        kept += goes_on
    return kept


@numba.njit(cache=True, nogil=True)
def _visit(node: int, from_board: bool, graph: Any, walk: Any, key: Any, space: Any) -> Any:
    """All walks of one node; writes the items visited into `space[0]`, gives how many."""
    visited, nodes, middle, base, luck, bits, at = space
    items, boards = graph
    alive, max_hops, going_on, _ = walk
    stride = np.uint64(alive) * GOLDEN
    for j in range(alive):
        nodes[j] = node
        base[j] = key + np.uint64(j) * GOLDEN
        luck[j] = mixed(base[j]) >> HALF
    count, reach = 0, 1.0
    if from_board:
        _draw(alive, base, stride, bits)
        _follow(alive, nodes, boards, bits, at, nodes)
        for j in range(alive):
            visited[j] = nodes[j]
        count = alive
    for hop in range(max_hops):
        _draw(alive, base, np.uint64(hop + 2) * stride, bits)
        _follow(alive, nodes, items, bits, at, middle)
        _follow(alive, middle, boards, bits, at, nodes)
        for j in range(alive):
            visited[count + j] = nodes[j]
        count += alive
        reach *= going_on
        alive = _survivors(alive, np.uint64(reach * 4294967296.0), nodes, base, luck)
    return count


@numba.njit(cache=True, nogil=True)
def _walk_space(walk: Any) -> Any:
    """Room for the walks of one node: visits, and per walk nodes, boards, keys and draws."""
    walks, most = walk[0], walk[0] * (walk[1] + 1)
    return (
        np.empty(most, np.int32),
        np.empty(walks, np.int32),
        np.empty(walks, np.int32),
        np.empty(walks, np.uint64),
        np.empty(walks, np.uint64),
        np.empty(walks, np.uint64),
        np.empty(walks, np.uint64),
    )


@numba.njit(cache=True, nogil=True)
def _count_space(most: int) -> Any:
    """A hash table for so many visits, half full at most, and room for what it holds."""
    slots = 16
    while slots < 2 * most:
        slots *= 2
    return (
        np.zeros(slots, np.int32),
        np.zeros(slots, np.int32),
        np.empty(most + 1, np.int64),
        np.empty(most, np.int32),
        np.empty(most, np.int32),
    )


@numba.njit(cache=True, nogil=True)
def _count(visited: Any, itself: int, space: Any) -> Any:
    """Distinct rows by first visit, row 0 left out, and visits of each; gives how many."""
    keys, times, touched, rows, counts = space
    mask = np.uint64(len(keys) - 1)
    distinct = 0
    for row in visited:
        if row == itself or row == 0:
            continue
        slot = ((np.uint64(row) * GOLDEN) >> np.uint64(40)) & mask
        while keys[slot] != row and keys[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        touched[distinct] = slot
        distinct += times[slot] == 0
        keys[slot] = row
        times[slot] += 1
    for i in range(distinct):
        slot = np.uint64(touched[i])
        rows[i], counts[i] = keys[slot], times[slot]
        keys[slot], times[slot] = 0, 0
    return distinct


@numba.njit(cache=True, nogil=True)
def _most_visited(distinct: int, counts: Any, keep: int, space: Any) -> Any:
    """Order of the `keep` most visited, ties by first visit; most rows are visited but once."""
    starts, often, order = space
    several, once, highest = 0, 0, 1
    for i in range(distinct):
        often[several], order[once] = i, i
        several += counts[i] > 1
        once += counts[i] == 1
        highest = max(highest, counts[i])
    for i in range(min(once, keep - several) - 1, -1, -1):
        order[several + i] = order[i]
    for c in range(highest + 1):
        starts[c] = 0
    for i in range(several):
        starts[highest - counts[often[i]] + 1] += 1
    for c in range(1, highest):
        starts[c] += starts[c - 1]
    for i in range(several):
        place = highest - counts[often[i]]
        if starts[place] < keep:
            order[starts[place]] = often[i]
        starts[place] += 1
    return min(distinct, keep)


@numba.njit(cache=True, nogil=True)
def _any_reached(distinct: int, counts: Any, keep: int, key: Any, order: Any) -> Any:
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
def _write(kept: int, rows: Any, counts: Any, order: Any, neighbors: Any, weights: Any) -> None:
    """One record."""
    total = 0
    for k in range(kept):
        total += counts[order[k]]
    for k in range(kept):
        neighbors[k] = rows[order[k]]
        weights[k] = np.float32(counts[order[k]]) / np.float32(total)


@numba.njit(cache=True, nogil=True, inline="always")
def key_of(seed: Any, node: Any) -> Any:
    """Where the random numbers of a node begin."""
    return mixed(seed ^ mixed(np.uint64(node) + GOLDEN))


@numba.njit(cache=True, nogil=True)
def _records(nodes: Any, from_board: bool, graph: Any, walk: Any, seed: Any, out: Any) -> None:
    """Some of the records of `sample_all`, one after the other."""
    neighbors, weights = out
    indptr = graph[1][0] if from_board else graph[0][0]
    keep, most = neighbors.shape[1], walk[0] * (walk[1] + 1)
    space, counting = _walk_space(walk), _count_space(most)
    rows, counts = counting[3], counting[4]
    starts, often = np.empty(most + 2, np.int64), np.empty(most + 1, np.int64)
    order = np.empty(most + max(most, keep) + 1, np.int64)
    for n in range(len(nodes)):
        node = nodes[n]
        if node < 1 - from_board or node >= len(indptr) - 1 or indptr[node] == indptr[node + 1]:
            continue
        key = key_of(seed, node)
        visits = _visit(node, from_board, graph, walk, key, space)
        distinct = _count(space[0][:visits], -1 if from_board else node, counting)
        if walk[3]:
            kept = _any_reached(distinct, counts, keep, key, order)
        else:
            kept = _most_visited(distinct, counts, keep, (starts, often, order))
        _write(kept, rows, counts, order, neighbors[n], weights[n])


@numba.njit(cache=True, nogil=True, parallel=True)
def sample_all(nodes: Any, from_board: bool, graph: Any, walk: Any, seed: Any, out: Any) -> None:
    """Writes the records of all nodes into `out`, neighbours [N, T] and weights [N, T].

    A node that is not there, has no edge, or is item row 0 is left as it was.
    """
    # Tuples of tuples cannot be carried into a parallel loop.
    items, boards = graph
    neighbors, weights = out
    for task in numba.prange((len(nodes) + NODES_A_TASK - 1) // NODES_A_TASK):
        first, end = task * NODES_A_TASK, min((task + 1) * NODES_A_TASK, len(nodes))
        part = (neighbors[first:end], weights[first:end])
        _records(nodes[first:end], from_board, (items, boards), walk, seed, part)
