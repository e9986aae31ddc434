"""Pixie: candidates for a user by random walks from the items they engaged with last.

Notable here:
- cost and memory depend on the steps, not on the graph: visits are counted in hash tables of the
  size of the budget (some 40 bytes a step), and a step is four random lines of memory;
- edges of a board lie grouped by the class of their items (a language, a topic): preferring a
  class is the choice of a sub-range, and no filter that throws walks away;
- random numbers are hashes of (seed, query item, step): an answer depends on the seed and on what
  is asked, not on threads or on the order of the queries. Compiled code holds no lock of Python's.

From Eksombatchai et al., "Pixie" (WWW'18), §3. Edges count alike whatever their weights; one that
is there twice is taken twice as often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt

from data.contract.settings import Count, Share
from data.graph.store import Adjacency, Floats, Graph, Ints
from data.graph.visits import visit_all

if TYPE_CHECKING:
    from collections.abc import Callable

Rows = npt.NDArray[np.int32]
Classes = npt.NDArray[np.int16]
Bools = npt.NDArray[np.bool_]

MOST_CLASSES = 1 << 15
LARGEST_ROW = (1 << 31) - 1
LARGEST_COUNT = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PixieSettings:
    """How candidates are walked for.

    Attributes:
        steps: item-board-item steps of a request, over all of its queries (N).
        restart: probability with which a walk ends after a step and begins again at its query (α).
        candidates: most items of an answer; also what ends early, n_p of one query. The paper gives
            each query all of n_p, with which five queries took 65% of their steps.
        visits: visits of an item that make it a candidate of a query (n_v).
        early_stop: end a query's walks once it has more candidates than its share of `candidates`,
            which is its share of the steps.
        booster: items reached from several queries gain, (Σ √V_q)² in place of Σ V_q.
        bias: probability with which a board is left to an item of the preferred class, where it
            holds one.
    """

    steps: Count = 200_000
    restart: Share = 0.5
    candidates: Count = 2000
    visits: Count = 4
    early_stop: bool = True
    booster: bool = True
    bias: Share = 0.0


@dataclass(frozen=True, slots=True)
class PixieAnswer:
    """Candidates of one request.

    Attributes:
        items: int64[K] item rows, best first (ties: the lower row first), without the queries.
        scores: float32[K] boosted visits.
        steps: int64[Q] taken from each query; those of a query named again stand at the first.
    """

    items: Ints
    scores: Floats
    steps: Ints


@dataclass(frozen=True, slots=True)
class PixieWalk:
    """A graph made ready for walks. Threads may share it.

    Attributes:
        graph: edges, those of boards grouped by class where there are classes.
        edge_classes: int16[E] class of the item at each edge of `graph.boards`; empty without.
        max_degree: boards of the item that has most.
        settings: of the walks.
    """

    graph: Graph
    edge_classes: Classes
    max_degree: int
    settings: PixieSettings

    @classmethod
    def of(cls, graph: Graph, settings: PixieSettings, classes: Ints | None = None) -> PixieWalk:
        """Reads the degrees, and with classes copies the edges of the boards (6 bytes an edge).

        Args:
            graph: where to walk.
            settings: of the walks.
            classes: class of each item row from 0 on, [num_items]; None where none is preferred.

        Raises:
            ValueError: classes that do not fit the graph, or 2^15 and more of them.
        """
        max_degree = int(graph.items.degrees.max(initial=1))
        if classes is None:
            return cls(graph, np.zeros(0, np.int16), max_degree, settings)
        boards, edge_classes = group_by_class(graph.boards, _checked(classes, graph.num_items))
        return cls(Graph(graph.items, boards), edge_classes, max_degree, settings)

    def recommend(
        self,
        queries: Ints,
        weights: npt.NDArray[np.floating[Any]],
        seed: int,
        preferred: int | None = None,
        allowed: Callable[[Ints], Bools] | None = None,
    ) -> PixieAnswer:
        """Walks from the queries.

        Args:
            queries: item rows, [Q]; one that is named again counts with the sum of its weights,
                one that the graph does not have, or that has no edge, gives nothing.
            weights: how much each counts, [Q], at least 0.
            seed: of all randomness.
            preferred: class that walks are drawn to by `bias`; None: to no class.
            allowed: which of some item rows may be candidates; walks pass the others too.

        Raises:
            ValueError: weights that do not fit, or a preferred class without classes.
        """
        if preferred is not None and len(self.edge_classes) != len(self.graph.boards.indices):
            raise ValueError(f"class {preferred} is preferred, but the graph knows no classes")
        asked, shares = np.asarray(queries, np.int64), _weights(weights, len(queries))
        there = np.flatnonzero((asked >= 0) & (asked < self.graph.num_items))
        rows, first, place = np.unique(asked[there], return_index=True, return_inverse=True)
        budgets = allocate(
            self.graph.items.indptr[rows + 1] - self.graph.items.indptr[rows],
            np.bincount(place, shares[there], len(rows)).astype(np.float64),
            self.max_degree,
            self.settings.steps,
        )
        steps = np.zeros(len(asked), np.int64)
        found, steps[there[first]] = self._walk(rows, budgets, seed, preferred)
        visited, scores = _join(found, len(rows), self.settings.booster)
        if allowed is not None:
            kept = allowed(visited)
            visited, scores = visited[kept], scores[kept]
        return PixieAnswer(*_best(visited, scores, self.settings.candidates), steps)

    def _walk(
        self, rows: Ints, budgets: Ints, seed: int, preferred: int | None
    ) -> tuple[Ints, Ints]:
        """What the walks from each query visit, and the steps taken; see `visit_all`."""
        s = self.settings
        enough = s.candidates if s.early_stop else LARGEST_ROW
        bias, class_ = (0.0, -1) if preferred is None else (s.bias, preferred)
        stream = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
        graph = (*_arrays(self.graph.items), *_arrays(self.graph.boards), self.edge_classes)
        rules = (s.restart, s.visits, enough, bias, class_)
        walked: tuple[Ints, Ints] = visit_all(rows, budgets, graph, rules, stream)
        return walked


def allocate(degrees: Ints, weights: npt.NDArray[np.float64], max_degree: int, steps: int) -> Ints:
    """Steps of each query: `N w_q s_q / Σ w_r s_r` with `s_q = d_q (C − ln d_q)` (§3.1, eqs. 1-2).

    The paper prints the largest degree for C, with which steps are linear in the degree; C is its
    logarithm, and taken over the graph: over the queries, the largest of them would have none. It
    rises to `max_degree`/e and falls to 0 at `max_degree`, where a floor of 1 stays.

    Args:
        degrees: boards of each query, [Q].
        weights: of each query, [Q].
        max_degree: boards of the item that has most in the whole graph.
        steps: of all queries together, N.

    Returns:
        int64[Q], at least 1 where weight and degree are above 0, else 0; `steps` up to rounding.
    """
    d = np.maximum(degrees, 1).astype(np.float64)
    wanted = weights * np.maximum(d * (np.log(max(max_degree, 1)) - np.log(d)), 1.0)
    wanted[degrees <= 0] = 0.0
    share = steps * wanted / max(wanted.sum(), np.finfo(np.float64).tiny)
    return np.where(wanted > 0, np.maximum(np.rint(share), 1), 0).astype(np.int64)


def group_by_class(boards: Adjacency, classes: Ints) -> tuple[Adjacency, Classes]:
    """Edges of each board by the class of their items, otherwise in order, and those classes.

    Args:
        boards: board number -> item rows.
        classes: class of each item row.
    """
    indptr, indices = _arrays(boards)
    rows, edge_classes = np.empty(len(indices), np.int32), np.empty(len(indices), np.int16)
    _group(indptr, indices, classes.astype(np.int16), rows, edge_classes)
    return Adjacency(indptr, rows), edge_classes


def _checked(classes: Ints, num_items: int) -> Ints:
    if len(classes) != num_items:
        raise ValueError(f"classes of {len(classes)} items, but the graph has {num_items}")
    if len(classes) and (classes.min() < 0 or classes.max() >= MOST_CLASSES):
        raise ValueError(f"classes {classes.min()} to {classes.max()} of {MOST_CLASSES}")
    return classes


def _weights(weights: npt.NDArray[np.floating[Any]], num_queries: int) -> npt.NDArray[np.float64]:
    if len(weights) != num_queries:
        raise ValueError(f"{len(weights)} weights of {num_queries} queries")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("weights of queries must be finite and at least 0")
    return np.asarray(weights, np.float64)


def _arrays(adjacency: Adjacency) -> tuple[Ints, Rows]:
    return np.asarray(adjacency.indptr), np.asarray(adjacency.indices)


def _join(found: Ints, queries: int, booster: bool) -> tuple[Ints, Floats]:
    """Items visited and their scores over all queries."""
    words = np.sort(found) if queries > 1 else found
    rows, visits = (words >> 32) - 1, (words & LARGEST_COUNT).astype(np.float64)
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    scores = np.add.reduceat(np.sqrt(visits) if booster else visits, first)
    return rows[first], (scores**2 if booster else scores).astype(np.float32)


def _best(rows: Ints, scores: Floats, count: int) -> tuple[Ints, Floats]:
    """The `count` highest scores; as positive floats order like their bits, one sort does it."""
    keys = scores.view(np.int32).astype(np.int64) << 32 | (LARGEST_ROW - rows)
    if len(keys) > count:
        keys = np.partition(keys, len(keys) - count)[-count:]
    keys = np.sort(keys)[::-1]
    return LARGEST_ROW - (keys & LARGEST_ROW), (keys >> 32).astype(np.int32).view(np.float32)


@numba.njit(cache=True, nogil=True)
def _group(indptr: Any, indices: Any, classes: Any, rows: Any, edge_classes: Any) -> None:
    for board in range(len(indptr) - 1):
        first, end = indptr[board], indptr[board + 1]
        mine = indices[first:end]
        order = np.argsort(classes[mine], kind="mergesort")
        rows[first:end] = mine[order]
        edge_classes[first:end] = classes[rows[first:end]]
