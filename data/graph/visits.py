"""Visits of walks that restart at their query: the compiled part of `data.graph.pixie`.

Notable here:
- walks of a query move in lockstep, so that their cache misses overlap;
- visits are counted in open-addressing hash tables of the size of the budget;
- nothing is allocated that grows with the graph, and nothing holds Python's lock.

`graph` is a tuple: indptr int64[N + 1] and indices int32[E] of the items, those of the boards, and
the class int16[E] of the item at each edge of the boards. `rules` is (restart, visits, enough,
bias, class), see `PixieSettings`: a query's walks end once more items have `visits` than its share
of `enough`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from data.graph.lockstep import GOLDEN, HALF, LOW, mixed

LOWER = (1 << 32) - 1
WALKERS = 256
STEPS_A_WALKER = 100


@numba.njit(cache=True, nogil=True)
def _table(most: int) -> Any:
    """A hash table for so many rows, half full at most: (row + 1) << 32 | visits, 0 where empty."""
    slots = 16
    while slots < 2 * most:
        slots *= 2
    return np.zeros(slots, np.int64)


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
def _walk_from(query: int, most: Any, graph: Any, rules: Any, key: Any, table: Any) -> int:
    """Walks from one query, counts the visits of others in `table`; gives the steps taken.

    `most` is the budget of steps, and of items with enough visits.
    """
    restart, visits, _, _, _ = rules
    budget, enough = most
    # The first step of a walker stays near its query: no more walkers than steps are sure for.
    walkers = max(1, min(WALKERS, min(budget, enough * visits) // STEPS_A_WALKER))
    nodes, space = np.full(walkers, query), _space()
    draws, coins = np.empty(walkers, np.uint64), np.empty(walkers, np.uint64)
    often, steps = 0, 0
    while steps < budget:
        count = min(walkers, budget - steps)
        for j in range(count):
            draws[j] = mixed(key + np.uint64(steps + j) * GOLDEN)
            coins[j] = mixed(draws[j] ^ key)
        _step(count, nodes, graph, rules, (draws, coins), space)
        for j in range(count):
            steps += 1
            often += _visit(nodes[j], table) == visits and nodes[j] != query
            if often > enough:
                return steps
        for j in range(count):
            nodes[j] = query if np.float64(coins[j] & LOW) < restart * 2.0**32 else nodes[j]
    return steps


@numba.njit(cache=True, nogil=True, inline="always")
def _slot(row: Any, table: Any) -> Any:
    """Where a row stands, or the empty slot where it would."""
    mask = np.uint64(len(table) - 1)
    slot = np.int64((np.uint64(row) * GOLDEN >> HALF) & mask)
    while table[slot] != 0 and table[slot] >> 32 != row + 1:
        slot = np.int64(np.uint64(slot + 1) & mask)
    return slot


@numba.njit(cache=True, nogil=True, inline="always")
def _visit(row: Any, table: Any) -> Any:
    """Counts a visit; gives how many there have been."""
    slot = _slot(row, table)
    table[slot] = max(table[slot], (row + 1) << 32) + 1
    return table[slot] & LOWER


@numba.njit(cache=True, nogil=True)
def _space() -> Any:
    """Room for one step of the walkers; see `_step`."""
    return np.empty(WALKERS, np.int64), np.empty(WALKERS, np.int64), np.empty(WALKERS, np.int64)


@numba.njit(cache=True, nogil=True)
def visit_all(queries: Any, budgets: Any, graph: Any, rules: Any, seed: Any) -> Any:
    """Walks from every query.

    Args:
        queries: int64[Q] distinct item rows.
        budgets: int64[Q] most steps of each; 0 of those without an edge.
        graph: where.
        rules: how.
        seed: uint64.

    Returns:
        What was visited of other items, int64[D] of (row + 1) << 32 | visits, query after query;
        steps int64[Q] taken.
    """
    found, first = np.empty(budgets.sum() + 1, np.int64), 0
    steps = np.zeros(len(queries), np.int64)
    for q in range(len(queries)):
        table = _table(budgets[q])
        key = mixed(seed ^ mixed(np.uint64(queries[q]) + GOLDEN))
        most = budgets[q], rules[2] * budgets[q] // max(1, budgets.sum())
        steps[q] = _walk_from(queries[q], most, graph, rules, key, table)
        for query in queries:
            table[_slot(query, table)] &= ~LOWER
        for word in table:
            found[first] = word
            first += word & LOWER != 0
    return found[:first], steps
