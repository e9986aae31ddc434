"""The baselines beside every number: popularity and item-kNN, fitted on what came before a part.

Both give full-catalogue scores for a chunk of queries: `scores(queries) -> float32[b, rows]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from data.incidence import Incidence, interactions_before

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.queries import Queries, SplitLog

Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Popularity:
    """Counts of positive events, decayed by age when the split has a clock.

    Attributes:
        counts: float32[rows].
    """

    counts: Scores

    @classmethod
    def fit(cls, log: SplitLog, part: int, half_life_days: float) -> Popularity:
        """Counts what precedes `part`. An event `half_life_days` old counts half."""
        counts = np.zeros(log.dataset.item_ids.rows)
        for block in interactions_before(log, part):
            weights = 0.5 ** (block.age_days / half_life_days)
            counts += np.bincount(block.item, weights, minlength=len(counts))
        return cls(counts.astype(np.float32))

    def scores(self, queries: Queries) -> Scores:
        """The same line for every query, [b, rows]."""
        return np.broadcast_to(self.counts, (len(queries), len(self.counts)))


@dataclass(frozen=True, slots=True)
class ItemNeighbors:
    """Item-kNN: cosine of items as sets of users, the nearest kept (Sarwar et al. 2001).

    What is no neighbour of the history (for a new user: everything) follows by popularity.

    Attributes:
        similarity: sparse float32[rows, rows], line i holding the neighbours of item i.
        others: float32[rows] below 0, rising with the number of users.
        positive_codes: actions of a history that count.
    """

    similarity: sp.csr_array
    others: Scores
    positive_codes: list[int]

    @classmethod
    def fit(cls, log: SplitLog, part: int, neighbors: int = 100) -> ItemNeighbors:
        """Counts co-occurrence in what precedes `part`. O(sum of squared history lengths)."""
        rows = log.dataset.item_ids.rows
        items_of = Incidence.before(log, part)
        users_of = items_of.by_item(rows)
        columns, cosines = _nearest(*users_of, *items_of.lists, min(neighbors, rows))
        kept = columns >= 0
        offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
        near = sp.csr_array((cosines[kept], columns[kept], offsets), (rows, rows))
        sizes = np.diff(users_of[0])
        others = (sizes / (sizes.max(initial=0) + 1) - 1).astype(np.float32)
        return cls(near, others, log.positive_codes)

    def scores(self, queries: Queries) -> Scores:
        """Sum of the similarity to every positive event of the history, [b, rows]."""
        past = interacted(queries, self.positive_codes, self.similarity.shape[0])
        scores: Scores = (past @ self.similarity).toarray()
        return np.where(scores > 0, scores, self.others)


def interacted(queries: Queries, positive_codes: Sequence[int], rows: int) -> sp.csr_array:
    """How often each item stands among the positive events of histories, [Q, rows]."""
    counted = np.isin(queries.history.action, positive_codes)
    owners, items = queries.history_owners[counted], queries.history.item[counted]
    values = np.ones(len(items), np.float32)
    return sp.csr_array((values, (owners, items)), (len(queries), rows))


@numba.njit(cache=True, nogil=True)
def _nearest(
    item_offsets: Ints,
    item_users: npt.NDArray[np.int32],
    user_offsets: Ints,
    user_items: npt.NDArray[np.int32],
    count: int,
) -> tuple[npt.NDArray[np.int32], Scores]:
    """Cosine neighbours of every item: rows [items, count] (-1 for none) and their cosines.

    One line of co-occurrence counts at a time; the best `count` of it stay in a heap whose root is
    the worst of them.
    """
    num_items = len(item_offsets) - 1
    sizes = np.diff(item_offsets)
    columns = np.full((num_items, count), -1, np.int32)
    cosines = np.zeros((num_items, count), np.float32)
    shared = np.zeros(num_items, np.int32)
    touched = np.empty(num_items, np.int32)
    for item in range(num_items):
        found = 0
        for user in item_users[item_offsets[item] : item_offsets[item + 1]]:
            for other in user_items[user_offsets[user] : user_offsets[user + 1]]:
                if shared[other] == 0:
                    touched[found] = other
                    found += 1
                shared[other] += 1
        for other in touched[:found]:
            if other != item:
                cosine = np.float32(shared[other] / np.sqrt(sizes[item] * sizes[other]))
                if cosine > cosines[item, 0]:
                    _replace_worst(columns[item], cosines[item], other, cosine)
            shared[other] = 0
    return columns, cosines


@numba.njit(cache=True, nogil=True)
def _replace_worst(
    columns: npt.NDArray[np.int32], cosines: Scores, column: int, cosine: np.float32
) -> None:
    """Puts an entry in the place of a heap's root and restores the heap."""
    place, size = 0, len(cosines)
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and cosines[child + 1] < cosines[child]:
            child += 1
        if cosines[child] >= cosine:
            break
        cosines[place], columns[place] = cosines[child], columns[child]
        place = child
    cosines[place], columns[place] = cosine, column
