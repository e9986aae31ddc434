"""The baselines beside every number: popularity and item-kNN, fitted on what came before a part.

Both give full-catalogue scores for a chunk of queries: `scores(queries) -> float32[b, rows]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from data.contract.schema import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from data.queries import Queries, SplitLog

Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

CHUNK_ITEMS = 256


@dataclass(frozen=True, slots=True)
class Interactions:
    """Positive events before a part: who, what, and how long before it.

    Attributes:
        user: user rows, [H].
        item: item rows, [H].
        age_days: days before the part begins, [H]; all 0 where there is no clock.
    """

    user: Ints
    item: Ints
    age_days: npt.NDArray[np.float64]


def interactions_before(log: SplitLog, part: int) -> Iterator[Interactions]:
    """Positive events that queries about `part` may know, a block of users at a time."""
    start = log.start_ms(part)
    for block in log.blocks():
        chosen = block.known_before(part, log.split.kind)
        chosen &= np.isin(block.events.action, log.positive_codes)
        times = block.events.timestamp[chosen]
        ages = np.zeros(len(times)) if start is None else (start - times) / DAY_MS
        items = block.events.item[chosen].astype(np.int64)
        yield Interactions(block.users[block.owners[chosen]], items, ages)


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

    Attributes:
        similarity: sparse float32[rows, rows], line i holding the neighbours of item i.
        positive_codes: actions of a history that count.
    """

    similarity: sp.csr_array
    positive_codes: list[int]

    @classmethod
    def fit(cls, log: SplitLog, part: int, neighbors: int = 100) -> ItemNeighbors:
        """Counts co-occurrence in what precedes `part`. O(sum of squared history lengths)."""
        rows = log.dataset.item_ids.rows
        blocks = [_sets(block, rows) for block in interactions_before(log, part)]
        sets = sp.vstack([sp.csr_array((0, rows), dtype=np.float32), *blocks], format="csr")
        norms = np.sqrt(np.maximum(sets.sum(axis=0), 1)).astype(np.float32)
        unit = (sets @ sp.diags_array(1 / norms)).tocsr()
        lines = unit.T.tocsr()
        near = [
            _nearest(lines[start : start + CHUNK_ITEMS] @ unit, start, neighbors)
            for start in range(0, rows, CHUNK_ITEMS)
        ]
        return cls(sp.vstack(near, format="csr"), log.positive_codes)

    def scores(self, queries: Queries) -> Scores:
        """Sum of the similarity to every positive event of the history, [b, rows]."""
        counted = np.isin(queries.history.action, self.positive_codes)
        owners, items = queries.history_owners[counted], queries.history.item[counted]
        shape = (len(queries), self.similarity.shape[0])
        histories = sp.csr_array((np.ones(len(items), np.float32), (owners, items)), shape)
        scores: Scores = (histories @ self.similarity).toarray()
        return scores


def _sets(block: Interactions, rows: int) -> sp.csr_array:
    """Which items each user of a block engaged with: 0/1, [users, rows]."""
    pairs = np.unique((block.user << 32) | block.item)
    _, line = np.unique(pairs >> 32, return_inverse=True)
    shape = (int(line.max(initial=-1)) + 1, rows)
    values = np.ones(len(pairs), np.float32)
    return sp.csr_array((values, (line, pairs & 0xFFFFFFFF)), shape)


def _nearest(similarity: sp.csr_array, first_item: int, count: int) -> sp.csr_array:
    """The `count` largest entries of each line, but for the item itself."""
    dense = similarity.toarray()
    lines = np.arange(len(dense))
    dense[lines, first_item + lines] = 0
    kept = min(count, dense.shape[1])
    columns = np.argpartition(dense, dense.shape[1] - kept, axis=1)[:, -kept:]
    values = np.take_along_axis(dense, columns, axis=1)
    offsets = np.arange(0, columns.size + 1, kept)
    near = sp.csr_array((values.ravel(), columns.ravel(), offsets), dense.shape)
    near.eliminate_zeros()
    return near
