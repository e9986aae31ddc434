"""Full-catalogue ranking: every live item scored for every query, the best k kept.

Cost: O(queries x rows); memory is bounded by a chunk of queries, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.queries import Queries
from data.selection import best_columns

if TYPE_CHECKING:
    from data.dataset import Dataset

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float32]
Scorer = Callable[[Queries], Scores]

CHUNK_SCORES = 1 << 22
CHUNK_SLOTS = 1 << 18  # of queries by ranks


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Which rows are items, and since when.

    Attributes:
        live: [rows] false for the unknown row, hash buckets and tombstones.
        created_at: int64[rows] ms since 1970; 0 where unknown: it has always been there.
    """

    live: Bools
    created_at: Ints

    @classmethod
    def of(cls, dataset: Dataset) -> Catalogue:
        """The items of a dataset."""
        live = np.arange(dataset.item_ids.rows) >= dataset.item_ids.first_row
        return cls(live, np.asarray(dataset.items_created_at, np.int64))

    @property
    def rows(self) -> int:
        """Rows of the item id space, the width of a chunk of scores."""
        return len(self.live)

    @property
    def num_items(self) -> int:
        """Live items."""
        return int(self.live.sum())


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best items of Q queries.

    Attributes:
        items: int64[Q, K] rows, best first; -1 where fewer than K could be ranked.
        hits: [Q, K] whether the row is a positive of the query.
        num_positives: int64[Q].
    """

    items: Ints
    hits: Bools
    num_positives: Ints


def rank(scorer: Scorer, queries: Queries, catalogue: Catalogue, k: int) -> Ranking:
    """Ranks all items for each query, leaving out what the user has seen and what is not there yet.

    Queries of one day are scored together: what is as of a day need be computed but once.

    Args:
        scorer: gives float32[b, rows] for b queries at a time.
        queries: Q of them.
        catalogue: the items.
        k: ranks to keep; fewer when the catalogue is smaller.

    Raises:
        ValueError: a score is NaN.
    """
    size = max(1, CHUNK_SCORES // catalogue.rows)
    kept = min(k, catalogue.rows)
    items = np.full((len(queries), k), -1, np.int64)
    order = np.arange(len(queries))
    if queries.now_ms is not None:
        order = np.argsort(queries.now_ms, kind="stable")
    for start in range(0, len(order), size):
        at = order[start : start + size]
        chunk = queries.take(at)
        scores = np.array(scorer(chunk), np.float32)
        mask(scores, chunk, catalogue)
        items[at, :kept] = top(scores, kept)
    return Ranking(items, _hits(items, queries), queries.num_positives)


def mask(scores: Scores, queries: Queries, catalogue: Catalogue) -> None:
    """Sets to -inf, in place, what cannot be recommended. `scores` is [b, rows]."""
    scores[:, ~catalogue.live] = -np.inf
    if queries.now_ms is not None and catalogue.created_at.any():
        scores[catalogue.created_at > queries.now_ms[:, None]] = -np.inf
    scores[queries.history_owners, queries.history.item] = -np.inf


def top(scores: Scores, k: int) -> Ints:
    """Columns of the k best finite scores of each line, best first; -1 where there are fewer.

    Raises:
        ValueError: a score is NaN.
    """
    best = best_columns(scores, k)
    best[np.isneginf(np.take_along_axis(scores, best, axis=1))] = -1
    return best


def _hits(items: Ints, queries: Queries) -> Bools:
    width = 1 + max(int(items.max(initial=0)), int(queries.positives.max(initial=0)))
    positives = queries.positive_owners * width + queries.positives
    ends = np.concatenate([[0], np.cumsum(queries.num_positives)])
    hits = np.zeros(items.shape, bool)
    size = max(1, CHUNK_SLOTS // items.shape[1])
    for start in range(0, len(items), size):
        some = items[start : start + size]
        places = np.arange(start, start + len(some))[:, None] * width + some
        own = positives[ends[start] : ends[start + len(some)]]
        hits[start : start + size] = np.isin(places, own) & (some >= 0)
    return hits
