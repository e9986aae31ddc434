"""GF-CF: collaborative filtering as a low-pass filter of the interaction graph, in closed form.

Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM'21, eq. 17: with
R̃ = D_U^-1/2 R D_I^-1/2 and V the leading right singular vectors of R̃,
`scores(u) = r_u R̃ᵀ R̃ + α r_u D_I^-1/2 V Vᵀ D_I^1/2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from data.baselines import interacted
from data.contract.settings import UserError
from data.incidence import Incidence, Lists

if TYPE_CHECKING:
    from data.queries import Queries, SplitLog

Scores = npt.NDArray[np.float32]

RANK = 256
ALPHA = 0.3
MOST_ROWS = 2_000_000
LEAST_SINGULAR = 1e-3


@dataclass(frozen=True, slots=True)
class GraphFilter:
    """The filter, applied to the set of items of a history; no user or item is trained.

    Memory grows with the interactions and with `RANK` x rows; R̃ᵀ R̃ is never laid out.

    Attributes:
        users_of: offsets [rows + 1] and users [R] of each item.
        items_of: offsets [users + 1] and item rows [R] of each user.
        low: V, float32[rows, at most RANK].
        degree: float32[rows] users of each item, at least 1.
        positive_codes: actions of a history that count.
    """

    users_of: Lists
    items_of: Lists
    low: Scores
    degree: Scores
    positive_codes: list[int]

    @classmethod
    def fit(cls, log: SplitLog, part: int) -> GraphFilter:
        """Learns from what precedes `part`; the vectors take some 2 x RANK x interactions steps.

        Raises:
            UserError: there are more than `MOST_ROWS` item rows.
        """
        rows = log.dataset.item_ids.rows
        if rows > MOST_ROWS:
            raise UserError(
                f"gf_cf keeps {RANK} numbers for each of {rows:,} item rows, too many beyond "
                f"{MOST_ROWS:,}; leave it out of eval.baselines"
            )
        items_of = Incidence.before(log, part)
        users_of = items_of.by_item(rows)
        degree = np.maximum(np.diff(users_of[0]), 1).astype(np.float32)
        low = _leading(items_of, degree)
        return cls(users_of, items_of.lists, low, degree, log.positive_codes)

    def scores(self, queries: Queries) -> Scores:
        """Full-catalogue scores, float32[b, rows]; 0 for users without a history."""
        root = np.sqrt(self.degree)
        past = interacted(queries, self.positive_codes, len(root))
        past.data[:] = 1 / root[past.indices]
        scores: Scores = (ALPHA * (past @ self.low)) @ self.low.T
        scores *= self.degree
        lists = past.indptr.astype(np.int64), past.indices.astype(np.int32)
        _spread(scores, (*lists, past.data), self.users_of, self.items_of)
        scores /= root
        return scores


def _leading(items_of: Incidence, degree: Scores) -> Scores:
    """Right singular vectors of R̃ with the largest singular values that are not 0."""
    shape = len(items_of.users), len(degree)
    rank = min(RANK, min(shape) - 1)
    if rank < 1:
        return np.zeros((len(degree), 0), np.float32)
    sizes = items_of.sizes
    weights = np.repeat(sizes.astype(np.float32) ** -0.5, sizes)
    weights *= (degree**-0.5)[items_of.items]
    normalised = sp.csr_array((weights, items_of.items, items_of.offsets), shape)
    _, values, vectors = svds(normalised, rank, rng=np.random.default_rng(0))
    return np.ascontiguousarray(vectors[values > LEAST_SINGULAR].T, np.float32)


@numba.njit(cache=True, nogil=True)
def _spread(
    scores: Scores,
    past: tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], Scores],
    users_of: Lists,
    items_of: Lists,
) -> None:
    """Adds w Rᵀ D_U⁻¹ R for lines w of `past`: items give to their users, who share it out.

    With w = r_u D_I^-1/2 that is r_u R̃ᵀ R̃ D_I^1/2.
    """
    weight = np.zeros(len(items_of[0]) - 1, np.float32)
    touched = np.empty(len(weight), np.int32)
    for query in range(len(scores)):
        found = 0
        for place in range(past[0][query], past[0][query + 1]):
            item = past[1][place]
            for user in users_of[1][users_of[0][item] : users_of[0][item + 1]]:
                if weight[user] == 0:
                    touched[found] = user
                    found += 1
                weight[user] += past[2][place]
        for user in touched[:found]:
            mine = items_of[1][items_of[0][user] : items_of[0][user + 1]]
            share = weight[user] / len(mine)
            weight[user] = 0
            for item in mine:
                scores[query, item] += share
