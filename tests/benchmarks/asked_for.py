"""Users of several interests, and requests that name one: parts of a benchmark's row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.graph.pruning import first_interests
from data.ranking import Catalogue, mask, top
from serve.partitions import carried

if TYPE_CHECKING:
    from data.dataset import Dataset
    from data.queries import Queries
    from ray_jobs.engine.inference import Retriever

    Ints = npt.NDArray[np.int64]

K, NEWEST, CHUNK = 10, 100, 256
EDGES = (3, 5, 8)
BREADTHS = ("under 3 interests", "3 to 5", "5 to 8", "8 and more")


def breadth(dataset: Dataset, queries: Queries) -> Ints:
    """Which of BREADTHS each query's user belongs to, [Q].

    By the exponential of the entropy of the first interests of the newest items.
    """
    classes, newest = first_interests(dataset), queries.history.newest(NEWEST)
    owner = np.repeat(np.arange(len(queries)), newest.lengths)
    cells, counts = np.unique(
        owner * (int(classes.max()) + 1) + classes[newest.item], return_counts=True
    )
    user = cells // (int(classes.max()) + 1)
    share = counts / np.maximum(newest.lengths, 1)[user]
    entropy = np.bincount(user, -share * np.log(share), len(queries))
    found: Ints = np.searchsorted(EDGES, np.exp(entropy), side="right")
    return found


@dataclass(frozen=True)
class Asked:
    """One interest for each query that has a positive which carries any: a random one of it.

    Attributes:
        query: which queries, [N].
        condition: hash, [N].
        carries: item rows that carry each condition, by hash.
    """

    query: Ints
    condition: Ints
    carries: dict[int, Ints]

    @classmethod
    def of(cls, dataset: Dataset, queries: Queries, most: int) -> Asked:
        """For at most so many queries, evenly spaced."""
        place, value = carried(dataset.items, queries.positives)
        order = np.random.default_rng(0).permutation(len(place))
        owner = queries.positive_owners[place[order]]
        query, first = np.unique(owner, return_index=True)
        kept = np.linspace(0, len(query) - 1, min(most, len(query))).astype(np.int64)
        condition = value[order][first]
        rows = np.arange(dataset.item_ids.first_row, dataset.item_ids.rows)
        owner, values = carried(dataset.items, rows)
        carries = {one: rows[owner[values == one]] for one in np.unique(condition).tolist()}
        return cls(query[kept], condition[kept], carries)


def under_conditions(
    retriever: Retriever, dataset: Dataset, queries: Queries, most: int = 2000
) -> dict[str, float]:
    """What a request for one interest finds, with the condition in the vector and without.

    Returns:
        The share of the first ten of the whole catalogue that carries the interest, and of the
        positives that carry it the share among the first ten of the items that do.
    """
    asked, catalogue = Asked.of(dataset, queries, most), Catalogue.of(dataset)
    sums = dict.fromkeys(
        (f"{part}, {how}" for part in ("carries", "found") for how in ("asked", "not asked")), 0.0
    )
    for start in range(0, len(asked.query), CHUNK):
        at = slice(start, start + CHUNK)
        chunk, condition = queries.take(asked.query[at]), asked.condition[at]
        known = chunk.history, chunk.users, chunk.now_ms
        vectors = {
            "asked": retriever.conditioned_vectors(*known, condition),
            "not asked": retriever.user_vectors(*known),
        }
        for how, found in vectors.items():
            scores = found @ retriever.item_vectors.T + retriever.priors_of(chunk)
            mask(scores, chunk, catalogue)
            carries = np.zeros(scores.shape, bool)
            for line, one in enumerate(condition.tolist()):
                carries[line, asked.carries[one]] = True
            first = np.take_along_axis(carries, top(scores, K), 1)
            sums[f"carries, {how}"] += first.mean(1).sum()
            sums[f"found, {how}"] += _found(scores, carries, chunk)
    return {name: total / len(asked.query) for name, total in sums.items()}


def _found(scores: Any, carries: Any, queries: Queries) -> float:
    """Sum over queries of the share of their positives that stand among the first ten."""
    wanted = np.zeros(scores.shape, bool)
    wanted[queries.positive_owners, queries.positives] = True
    wanted &= carries
    best = top(np.where(carries, scores, -np.inf), K)
    hits = np.take_along_axis(wanted, np.maximum(best, 0), 1) & (best >= 0)
    return float((hits.sum(1) / np.maximum(wanted.sum(1), 1)).sum())
