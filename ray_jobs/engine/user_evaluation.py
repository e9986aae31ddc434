"""Judging the user model by how old its vectors are, and by what users did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from data.queries import build_queries
from data.ranking import Catalogue, rank
from data.refresh import CADENCES, one_by_one
from data.splits import TEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from data.contract.encode import Ints
    from data.queries import SplitLog
    from data.ranking import Scorer
    from data.refresh import Cadence
    from ray_jobs.engine.evaluation import Tree

MOST_USERS = 500


def asked_users(log: SplitLog) -> Ints:
    """Rows of some of the evaluated users, ascending: every positive of theirs is a query."""
    return build_queries(log, TEST, MOST_USERS).users


def share_found(
    log: SplitLog,
    scorer: Scorer,
    users: Ints,
    cadence: Cadence,
    codes: Sequence[int],
    k: int,
) -> npt.NDArray[np.float64]:
    """Share of each user's positives among the k best, float64[users with one]; see `data/refresh`.

    Args:
        log: a data set under a split by time.
        scorer: of the model.
        users: who is asked about.
        cadence: how fresh their vectors are.
        codes: which actions are positives.
        k: length of the list.
    """
    queries = one_by_one(log, users, cadence, codes)
    hits = rank(scorer, queries, Catalogue.of(log.dataset), k).hits.any(1)
    found, owner = np.unique(queries.users, return_inverse=True)
    shares: npt.NDArray[np.float64] = np.bincount(owner, hits, len(found)) / np.bincount(owner)
    return shares


def refresh_and_actions(log: SplitLog, scorer: Scorer, k: int) -> Tree:
    """Mean over users of the share of positives found: by cadence, and for `once` by action."""
    users, codes = asked_users(log), log.positive_codes
    actions = log.dataset.vocabulary.actions

    def mean(cadence: Cadence, codes: Sequence[int]) -> float | None:
        shares = share_found(log, scorer, users, cadence, codes, k)
        return float(shares.mean()) if len(shares) else None

    return {
        "k": k,
        "users": len(users),
        "by_cadence": {cadence: mean(cadence, codes) for cadence in CADENCES},
        "by_action": {actions[code - 1]: mean("once", [code]) for code in codes},
    }
