"""BPR: matrix factorisation by pairwise ranking (Rendle et al., UAI'09).

`−ln σ(x_u · (y_i − y_j))` over a user's items i and items j drawn uniformly that are none of them,
by stochastic gradient descent with L2 regularisation, one triple at a time in one thread: what
comes out depends on the seed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from data.baselines import interactions_before

if TYPE_CHECKING:
    from data.queries import Queries, SplitLog

Scores = npt.NDArray[np.float32]

DIM = 64
EPOCHS = 40
RATE = 0.05
DECAY = 0.01
SCALE = 0.1


@dataclass(frozen=True, slots=True)
class MatrixFactorization:
    """Vectors of users and items.

    Attributes:
        users: float32[user rows, DIM]; zeros of users without a positive event.
        items: float32[item rows, DIM].
        counts: float32[item rows] positive events, by which unknown users are served.
    """

    users: Scores
    items: Scores
    counts: Scores

    @classmethod
    def fit(cls, log: SplitLog, part: int, epochs: int = EPOCHS) -> MatrixFactorization:
        """Learns from what precedes `part`. O(epochs x interactions x DIM)."""
        data = log.dataset
        counted = _interactions(log, part, (data.user_ids.rows, data.item_ids.rows))
        rng = np.random.default_rng(np.random.SeedSequence([log.seed, 0xB9]))
        users = rng.normal(0, SCALE, (counted.shape[0], DIM)).astype(np.float32)
        items = rng.normal(0, SCALE, (counted.shape[1], DIM)).astype(np.float32)
        users[np.diff(counted.indptr) == 0] = 0
        counts = np.bincount(counted.indices, minlength=counted.shape[1]).astype(np.float32)
        owner = np.repeat(np.arange(counted.shape[0]), np.diff(counted.indptr))
        first, lists = counted.indptr.astype(np.int64), counted.indices.astype(np.int64)
        for epoch in range(epochs):
            order = rng.permutation(len(lists))
            other = rng.integers(data.item_ids.first_row, data.item_ids.rows, len(lists))
            rate = np.float32(RATE * (1 - epoch / epochs))
            _descend(users, items, (owner, first, lists), order, other, rate)
        return cls(users, items, counts)

    def scores(self, queries: Queries) -> Scores:
        """Full-catalogue scores, float32[b, rows]; of unknown users, popularity."""
        vectors = self.users[queries.users]
        known = vectors.any(axis=1, keepdims=True)
        return np.where(known, vectors @ self.items.T, self.counts)


def _interactions(log: SplitLog, part: int, shape: tuple[int, int]) -> sp.csr_array:
    """Sorted distinct items of every user row, 0/1."""
    pairs = [np.unique((block.user << 32) | block.item) for block in interactions_before(log, part)]
    pair = np.concatenate([np.zeros(0, np.int64), *pairs])
    found = sp.csr_array((np.ones(len(pair), np.float32), (pair >> 32, pair & 0xFFFFFFFF)), shape)
    found.sort_indices()
    return found


@numba.njit(cache=True, nogil=True, fastmath=True)
def _descend(
    users: Scores,
    items: Scores,
    known: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]],
    order: npt.NDArray[np.int64],
    other: npt.NDArray[np.int64],
    rate: np.float32,
) -> None:
    """One pass over the interactions in `order`, with a drawn item against each."""
    owner, first, lists = known
    decay = np.float32(DECAY)
    for at in order:
        u, i, j = owner[at], lists[at], other[at]
        mine = lists[first[u] : first[u + 1]]
        place = np.searchsorted(mine, j)
        if place < len(mine) and mine[place] == j:
            continue
        margin = np.float32(0)
        for d in range(users.shape[1]):
            margin += users[u, d] * (items[i, d] - items[j, d])
        slope = rate / (np.float32(1) + np.exp(margin))
        for d in range(users.shape[1]):
            x, y, z = users[u, d], items[i, d], items[j, d]
            users[u, d] += slope * (y - z) - rate * decay * x
            items[i, d] += slope * x - rate * decay * y
            items[j, d] -= slope * x + rate * decay * z
