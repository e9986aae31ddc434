"""GF-CF: collaborative filtering as a low-pass filter of the interaction graph, in closed form.

Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM'21, eq. 17: with
R̃ = D_U^-1/2 R D_I^-1/2 and V the leading right singular vectors of R̃,
`scores(u) = r_u R̃ᵀ R̃ + α r_u D_I^-1/2 V Vᵀ D_I^1/2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from data.baselines import incidence, interacted

if TYPE_CHECKING:
    from data.queries import Queries, SplitLog

Scores = npt.NDArray[np.float32]

RANK = 256
ALPHA = 0.3


@dataclass(frozen=True, slots=True)
class GraphFilter:
    """The filter, applied to a user's past at once; no user or item is trained.

    Memory grows with the interactions and `RANK` x items; R̃ᵀ R̃ is never laid out.

    Attributes:
        normalised: R̃, sparse float32[users, rows].
        low: V, float32[rows, RANK].
        degree: float32[rows] users of each item, at least 1.
        positive_codes: actions of a history that count.
    """

    normalised: sp.csr_array
    low: Scores
    degree: Scores
    positive_codes: tuple[int, ...]

    @classmethod
    def fit(cls, log: SplitLog, part: int) -> GraphFilter:
        """Learns from what precedes `part`."""
        counted = incidence(log, part)
        users = np.maximum(np.diff(counted.indptr), 1)
        items = np.maximum(np.bincount(counted.indices, minlength=counted.shape[1]), 1)
        scaled = sp.diags_array(users**-0.5) @ counted @ sp.diags_array(items**-0.5)
        normalised = sp.csr_array(scaled, dtype=np.float32)
        rank = min(RANK, min(normalised.shape) - 1)
        _, _, found = svds(normalised.astype(np.float64), rank, rng=np.random.default_rng(0))
        low = np.ascontiguousarray(found.T, np.float32)
        return cls(normalised, low, items.astype(np.float32), tuple(log.positive_codes))

    def scores(self, queries: Queries) -> Scores:
        """Full-catalogue scores, float32[b, rows]."""
        past = interacted(queries, self.positive_codes, self.normalised.shape[1])
        near = ((past @ self.normalised.T) @ self.normalised).toarray()
        spectrum = (past @ sp.diags_array(self.degree**-0.5)) @ self.low
        smooth = (spectrum @ self.low.T) * np.sqrt(self.degree)
        found: Scores = (near + ALPHA * smooth).astype(np.float32)
        return found
