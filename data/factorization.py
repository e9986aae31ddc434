"""BPR: matrix factorisation by pairwise ranking (Rendle et al., UAI'09).

`−ln σ(x_u · (y_i − y_j))` over a user's items i and items j drawn uniformly that are none of them,
by stochastic gradient descent with L2 regularisation, one triple at a time in one thread: what
comes out depends on the log and its seed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np
import numpy.typing as npt

from data.incidence import Incidence

if TYPE_CHECKING:
    from data.queries import Queries, SplitLog

Ints = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]

STREAM = 0x627072
DIM = 64
EPOCHS = 200
RATE = 0.3
DECAY = 0.005
SCALE = 0.1


@dataclass(frozen=True, slots=True)
class MatrixFactorization:
    """Vectors of users and items.

    Attributes:
        users: float32[user rows, DIM]; zeros of users without a positive event.
        items: float32[item rows, DIM].
        counts: float32[item rows] users of each item, by which unknown users are served.
    """

    users: Scores
    items: Scores
    counts: Scores

    @classmethod
    def fit(cls, log: SplitLog, part: int, epochs: int = EPOCHS) -> MatrixFactorization:
        """Learns from what precedes `part`. O(epochs x interactions x DIM)."""
        ids = log.dataset.item_ids
        pairs = _Pairs.before(log, part)
        rng = np.random.default_rng(np.random.SeedSequence([log.seed, STREAM]))
        users, items = (_drawn(rng, rows) for rows in (log.dataset.user_ids.rows, ids.rows))
        users[np.diff(pairs.offsets) == 0] = 0
        for epoch in range(epochs):
            rate = np.float32(RATE * (1 - epoch / epochs))
            _pass((users, items), pairs, rng, ids.first_row, rate)
        counts = np.bincount(pairs.item, minlength=ids.rows)
        return cls(users, items, counts.astype(np.float32))

    def scores(self, queries: Queries) -> Scores:
        """Full-catalogue scores, float32[b, rows]; of unknown users, popularity."""
        vectors = self.users[queries.users]
        scores: Scores = vectors @ self.items.T
        scores[~vectors.any(axis=1)] = self.counts
        return scores


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Distinct (user, item) pairs by user, then item.

    Attributes:
        offsets: int64[user rows + 1] where the pairs of each user begin.
        user: [R] user rows.
        item: [R] item rows.
    """

    offsets: npt.NDArray[np.int64]
    user: Ints
    item: Ints

    @classmethod
    def before(cls, log: SplitLog, part: int) -> _Pairs:
        """Those of positive events before a part."""
        known = Incidence.before(log, part).by_user()
        counts = np.zeros(log.dataset.user_ids.rows, np.int64)
        counts[known.users] = known.sizes
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return cls(offsets, np.repeat(known.users.astype(np.int32), known.sizes), known.items)


def _pass(
    vectors: tuple[Scores, Scores],
    pairs: _Pairs,
    rng: np.random.Generator,
    first_item: int,
    rate: np.float32,
) -> None:
    """One pass over the pairs in a new order; 12 bytes a pair while it lasts."""
    order = rng.permutation(len(pairs.item))
    other = rng.integers(first_item, len(vectors[1]), len(order), np.int32)
    known = (pairs.offsets, pairs.user, pairs.item)
    _descend(vectors, known, order, other, rate, np.float32(DECAY))


def _drawn(rng: np.random.Generator, rows: int) -> Scores:
    return rng.standard_normal((rows, DIM), np.float32) * np.float32(SCALE)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "arcp"})
def _descend(
    vectors: tuple[Scores, Scores],
    known: tuple[npt.NDArray[np.int64], Ints, Ints],
    order: npt.NDArray[np.int64],
    other: Ints,
    rate: np.float32,
    decay: np.float32,
) -> None:
    """Steps on the pairs in `order`, each against a drawn item unless it is the user's own."""
    users, items = vectors
    offsets, owner, lists = known
    for turn, pair in enumerate(order):
        user, drawn = owner[pair], other[turn]
        if _holds(lists[offsets[user] : offsets[user + 1]], drawn):
            continue
        x, y, z = users[user], items[lists[pair]], items[drawn]
        margin = np.float32(0)
        for d in range(len(x)):
            margin += x[d] * (y[d] - z[d])
        slope = np.float32(1) / (np.float32(1) + np.exp(margin))
        for d in range(len(x)):
            u, i, j = x[d], y[d], z[d]
            x[d] += rate * (slope * (i - j) - decay * u)
            y[d] += rate * (slope * u - decay * i)
            z[d] -= rate * (slope * u + decay * j)


@numba.njit(cache=True, nogil=True)
def _holds(ascending: Ints, wanted: np.int32) -> bool:
    place = np.searchsorted(ascending, wanted)
    return bool(place < len(ascending) and ascending[place] == wanted)
