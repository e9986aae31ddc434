"""Visits of walks that restart at their query: the compiled part of `data.graph.pixie`.

Notable here:
- walks of a query move in lockstep, so that their cache misses overlap;
- visits are counted in open-addressing hash tables of the size of the budget;
- nothing is allocated that grows with the graph, and nothing holds Python's lock.

`graph` is a tuple: indptr int64[N + 1] and indices int32[E] of the items, those of the boards, and
the class int16[E] of the item at each edge of the boards. `rules` is (restart, visits, enough,
bias, class), see `PixieSettings`: a query's walks end once more than `enough` items have `visits`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
WALKERS = 64


@numba.njit(cache=True, nogil=True, inline="always")
def _mix(value: Any) -> Any:
    """splitmix64's finaliser."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True, nogil=True, inline="always")
def _place(row: int, table: Any, rows: Any, distinct: int) -> Any:
    """Place of a row among the `distinct` ones met; a new one is put at the end.

    `table` holds place + 1 by hash.
    """
    mask = np.uint64(len(table) - 1)
    slot = np.int64((np.uint64(row) * GOLDEN >> HALF) & mask)
    while table[slot] != 0 and rows[table[slot] - 1] != row:
        slot = np.int64(np.uint64(slot + 1) & mask)
    if table[slot] == 0:
        table[slot] = distinct + 1
        rows[distinct] = row
    return np.int64(table[slot]) - 1


@numba.njit(cache=True, nogil=True)
def _table(most: int) -> Any:
    """A hash table for so many rows: a power of two, half full at most."""
    slots = 16
    while slots < 2 * most:
        slots *= 2
    return np.zeros(slots, np.int32)


@numba.njit(cache=True, nogil=True, inline="always")
def _pick(first: Any, degree: Any, bits: Any) -> Any:
    """Place of one of `degree` edges from `first` on, by 32 random bits."""
    return first + np.int64((bits * np.uint64(degree)) >> HALF)


@numba.njit(cache=True, nogil=True, inline="always")
def _bound(classes: Any, low: Any, high: Any, class_: Any) -> Any:
    """First place in [low, high) of ascending classes that is not below `class_`."""
    while low < high:
        middle = (low + high) // 2
        if classes[middle] < class_:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(cache=True, nogil=True)
def _prefer(count: int, classes: Any, rules: Any, coins: Any, edges: Any) -> None:
    """Narrows boards' edges to those of the preferred class, by a coin, where there are any."""
    first, degree = edges
    _, _, _, bias, class_ = rules
    for j in range(count):
        if np.float64(coins[j] >> HALF) < bias * 4294967296.0:
            end = first[j] + degree[j]
            start = _bound(classes, first[j], end, class_)
            end = _bound(classes, start, end, class_ + 1)
            if end > start:
                first[j], degree[j] = start, end - start


@numba.njit(cache=True, nogil=True)
def _step(count: int, nodes: Any, graph: Any, rules: Any, bits: Any, space: Any) -> None:
    """Moves `count` walkers item -> board -> item; separate loops let the loads overlap."""
    item_indptr, item_indices, board_indptr, board_indices, classes = graph
    draws, coins = bits
    boards, first, degree = space
    for j in range(count):
        first[j] = item_indptr[nodes[j]]
        degree[j] = item_indptr[nodes[j] + 1] - first[j]
    for j in range(count):
        boards[j] = item_indices[_pick(first[j], degree[j], draws[j] >> HALF)]
    for j in range(count):
        first[j] = board_indptr[boards[j]]
        degree[j] = board_indptr[boards[j] + 1] - first[j]
    if rules[3] > 0:
        _prefer(count, classes, rules, coins, (first, degree))
    for j in range(count):
        nodes[j] = board_indices[_pick(first[j], degree[j], draws[j] & LOW)]


@numba.njit(cache=True, nogil=True)
def _walk_from(query: int, budget: int, graph: Any, rules: Any, key: Any, seen: Any) -> Any:
    """Walks from one query; gives steps taken and distinct rows met (the query first)."""
    restart, visits, enough, _, _ = rules
    table, rows, counts = seen
    nodes, space = np.full(WALKERS, query), _space()
    draws, coins = np.empty(WALKERS, np.uint64), np.empty(WALKERS, np.uint64)
    _place(query, table, rows, 0)
    distinct, often, steps = 1, 0, 0
    while steps < budget:
        count = min(WALKERS, budget - steps)
        for j in range(count):
            draws[j] = _mix(key + np.uint64(steps + j) * GOLDEN)
            coins[j] = _mix(draws[j] ^ key)
        _step(count, nodes, graph, rules, (draws, coins), space)
        for j in range(count):
            steps += 1
            place = _place(nodes[j], table, rows, distinct)
            distinct = max(distinct, place + 1)
            counts[place] += 1
            often += counts[place] == visits and place > 0
            if often > enough:
                return steps, distinct
            if np.float64(coins[j] & LOW) < restart * 4294967296.0:
                nodes[j] = query
    return steps, distinct


@numba.njit(cache=True, nogil=True)
def _space() -> Any:
    """Room for one step of the walkers; see `_step`."""
    return np.empty(WALKERS, np.int64), np.empty(WALKERS, np.int64), np.empty(WALKERS, np.int64)


@numba.njit(cache=True, nogil=True)
def visit_all(queries: Any, budgets: Any, graph: Any, rules: Any, seed: Any, booster: bool) -> Any:
    """Walks from every query and joins their visits.

    Args:
        queries: int64[Q] distinct item rows.
        budgets: int64[Q] most steps of each; 0 of those without an edge.
        graph: where.
        rules: how.
        seed: uint64.
        booster: whether items reached from several queries gain.

    Returns:
        Rows int32[D] visited, without the queries; scores float32[D]; steps int64[Q] taken.
    """
    # The queries have the first places, so that what follows them is the answer.
    most = budgets.sum() + len(queries)
    table, rows, scores = _table(most), np.empty(most, np.int32), np.zeros(most, np.float64)
    for q in range(len(queries)):
        _place(queries[q], table, rows, q)
    steps, distinct = np.zeros(len(queries), np.int64), len(queries)
    for q in range(len(queries)):
        size = budgets[q] + 1
        seen = (_table(size), np.empty(size, np.int32), np.zeros(size, np.int32))
        key = _mix(seed ^ _mix(np.uint64(queries[q]) + GOLDEN))
        steps[q], met = _walk_from(queries[q], budgets[q], graph, rules, key, seen)
        for i in range(1, met):
            place = _place(seen[1][i], table, rows, distinct)
            distinct = max(distinct, place + 1)
            scores[place] += np.sqrt(seen[2][i]) if booster else seen[2][i]
    first = len(queries)
    joined = scores[first:distinct] ** 2 if booster else scores[first:distinct]
    return rows[first:distinct], joined.astype(np.float32), steps
