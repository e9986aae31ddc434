"""Scores of items whose lists take turns: several vectors of a user over the whole catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.selection import best_columns
from serve.candidates import turns

if TYPE_CHECKING:
    from data.queries import Queries

Floats = npt.NDArray[np.float32]

DEPTH = 500  # of each list
UNLISTED = np.float32(-1e4)  # below any score


def scores_in_turns(
    vectors: Floats, shares: Floats, items: Floats, priors: Floats, queries: Queries
) -> Floats:
    """What serving merges, as scores: the earlier an item's turn, the higher.

    Args:
        vectors: of b users, [b, S, D].
        shares: of each vector in the list, [b, S]; 0 where there is none.
        items: vectors of all rows, [rows, D].
        priors: of all rows, [b, rows].
        queries: whose items are left out of the lists.

    Returns:
        float32[b, rows]; items in no list follow by the first vector.
    """
    users, slots, dim = vectors.shape
    # One product for all: the items are what takes time to read.
    of_all: Floats = (vectors.reshape(-1, dim) @ items.T).reshape(users, slots, -1)
    of_all += priors[:, None]
    unlisted = of_all[:, 0] + UNLISTED
    turn = np.full(unlisted.shape, np.inf, np.float32)
    for slot in range(slots):
        scores = of_all[:, slot]
        scores[queries.history_owners, queries.history.item] = -np.inf
        _take(turn, scores, shares[:, slot])
    return np.where(np.isfinite(turn), 1 / turn, unlisted)


def _take(turn: Floats, scores: Floats, shares: Floats) -> None:
    """Moves the turn of each item in a list to where this list has it, if that is earlier."""
    best = best_columns(scores, min(DEPTH, scores.shape[1]))
    there = np.flatnonzero(shares > 0)
    lines = there[:, None]
    listed = turns(best.shape[1], shares[there])
    turn[lines, best[there]] = np.minimum(turn[lines, best[there]], listed)
