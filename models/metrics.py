"""What the evaluation counts: full-catalogue ranking metrics and binary classification metrics.

Shapes: Q queries, K ranks kept, N predictions. Ranking metrics are computed from `hits` [Q, K]:
whether the item at each rank is one of the query's positives. Metrics that are undefined (one
class only, no positive at all) are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.floating] | npt.NDArray[np.bool_]

CHUNK_COUNTS = 1 << 22  # of a bootstrap's resamples by queries
PER_QUERY = ("recall", "ndcg", "hit_rate", "mrr")


def recall_at_k(hits: Bools, num_positives: Ints, k: int) -> Floats:
    """Hits among the first k ranks / positives of the query. [Q]."""
    return np.asarray(hits[:, :k].sum(axis=1) / num_positives)


def hit_rate_at_k(hits: Bools, k: int) -> Floats:
    """1 where any of the first k ranks is a hit. [Q]."""
    return np.asarray(hits[:, :k].any(axis=1), np.float64)


def mrr_at_k(hits: Bools, k: int) -> Floats:
    """Reciprocal rank of the first hit, 0 when there is none among the first k. [Q]."""
    top = hits[:, :k]
    return np.asarray(top.any(axis=1) / (1.0 + top.argmax(axis=1)))


def ndcg_at_k(hits: Bools, num_positives: Ints, k: int) -> Floats:
    """Binary nDCG with discount 1 / log2(1 + rank); the ideal list has min(k, positives). [Q].

    Järvelin & Kekäläinen 2002.
    """
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    gains = hits[:, :k] @ discounts[: hits.shape[1]]
    ideals = np.concatenate([[0.0], np.cumsum(discounts)])
    return np.asarray(gains / ideals[np.minimum(num_positives, k)])


def coverage_at_k(items: Ints, num_items: int, k: int) -> float:
    """Share of the catalogue that is in anybody's first k ranks.

    Args:
        items: [Q, K] rows by rank, -1 where a list is shorter.
        num_items: items that could have been ranked.
        k: ranks that count.
    """
    return len(_counts(items, k)) / num_items


def p90_coverage_at_k(items: Ints, num_items: int, k: int) -> float:
    """Fewest items that fill 90% of all (query, rank <= k) slots / catalogue size.

    PinnerFormer's diversity measure; bounded by k * Q / num_items, so Q belongs beside it.
    """
    counts = np.sort(_counts(items, k))[::-1]
    if len(counts) == 0:
        return 0.0
    # Integer arithmetic: 0.9 * total in floats would ask for one item too many.
    filled = 10 * np.cumsum(counts) >= 9 * counts.sum()
    return (int(filled.argmax()) + 1) / num_items


def interest_entropy_at_k(items: Ints, classes: Ints, k: int) -> float:
    """Mean over queries of the entropy of the classes among the first k ranks, in nats.

    How many interests a list serves (PinnerFormer, KDD'22, §5.2: k = 50, topics of pins). NaN where
    no list has an item of a known class.

    Args:
        items: [Q, K] rows by rank, -1 where a list is shorter.
        classes: class of each row from 1 on; 0 is unknown and does not count.
        k: ranks that count.
    """
    top = items[:, :k]
    of_ranks = np.where(top >= 0, classes[np.maximum(top, 0)], 0)
    query, rank = np.nonzero(of_ranks)
    width = int(of_ranks.max(initial=0)) + 1
    cells, counts = np.unique(query * width + of_ranks[query, rank], return_counts=True)
    if len(cells) == 0:
        return float("nan")
    owner = cells // width
    share = counts / np.bincount(owner, counts)[owner]
    entropy = np.bincount(owner, -share * np.log(share))
    return float(entropy[np.unique(owner)].mean())


def _counts(items: Ints, k: int) -> Ints:
    """Slots of each item that occurs among the first k ranks, in no particular order."""
    top = items[:, :k]
    return np.unique(top[top >= 0], return_counts=True)[1]


def per_query(hits: Bools, num_positives: Ints, k: int) -> dict[str, Floats]:
    """The averaged metrics before averaging: `recall@k`, `ndcg@k`, `hit_rate@k`, `mrr@k`. [Q]."""
    return {
        f"recall@{k}": recall_at_k(hits, num_positives, k),
        f"ndcg@{k}": ndcg_at_k(hits, num_positives, k),
        f"hit_rate@{k}": hit_rate_at_k(hits, k),
        f"mrr@{k}": mrr_at_k(hits, k),
    }


def retrieval_metrics(
    items: Ints,
    hits: Bools,
    num_positives: Ints,
    num_items: int,
    ks: Sequence[int],
    classes: Ints | None = None,
) -> dict[str, float]:
    """All ranking metrics at all cut-offs.

    Args:
        items: [Q, K] rows by rank, best first, -1 where a list is shorter.
        hits: [Q, K] whether that row is a positive of the query.
        num_positives: [Q], each at least 1.
        num_items: items that could have been ranked.
        ks: cut-offs, each at most K.
        classes: of each row, for the entropy of interests; None leaves that out.

    Returns:
        `<metric>@<k>` -> value; empty when there are no queries.
    """
    if len(items) == 0:
        return {}
    metrics: dict[str, float] = {}
    for k in ks:
        values = per_query(hits, num_positives, k)
        metrics |= {name: float(value.mean()) for name, value in values.items()}
        metrics[f"coverage@{k}"] = coverage_at_k(items, num_items, k)
        metrics[f"p90_coverage@{k}"] = p90_coverage_at_k(items, num_items, k)
        if classes is not None:
            metrics[f"interest_entropy@{k}"] = interest_entropy_at_k(items, classes, k)
    return metrics


def auc(labels: Bools, scores: Numbers) -> float:
    """Probability that a positive scores above a negative, ties counting half. NaN for one class.

    Mann-Whitney U by average ranks: O(N log N).
    """
    positives = int(np.count_nonzero(labels))
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, value_of, counts = np.unique(scores, return_inverse=True, return_counts=True)
    average_ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(average_ranks[value_of[labels]].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def log_loss(labels: Bools, probabilities: Numbers) -> float:
    """Mean binary cross entropy in nats; probabilities are clipped to [1e-7, 1 - 1e-7]."""
    p = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1 - 1e-7)
    return float(-np.where(labels, np.log(p), np.log1p(-p)).mean()) if len(p) else float("nan")


def normalized_entropy(labels: Bools, probabilities: Numbers) -> float:
    """Log loss / that of always predicting the share of positives: below 1 is better than that.

    He et al., "Practical lessons from predicting clicks on ads at Facebook", ADKDD 2014, eq. 1.
    NaN for one class.
    """
    share = float(np.mean(labels)) if len(labels) else 0.0
    if not 0 < share < 1:
        return float("nan")
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    return float(log_loss(labels, probabilities) / entropy)


def calibration(labels: Bools, probabilities: Numbers) -> float:
    """Sum of predictions / number of positives: 1 is right, above 1 promises too much."""
    positives = int(np.count_nonzero(labels))
    return float(np.sum(probabilities, dtype=np.float64)) / positives if positives else float("nan")


@dataclass(frozen=True, slots=True)
class Reliability:
    """Bins of equal mass along the predicted probability, lowest first.

    Attributes:
        predicted: mean prediction of each bin.
        actual: share of positives in it.
        count: predictions in it.
    """

    predicted: Floats
    actual: Floats
    count: Ints


def reliability(labels: Bools, probabilities: Numbers, bins: int = 10) -> Reliability:
    """Cuts the sorted predictions into `bins` parts of equal size (empty parts are left out).

    Equal predictions share their positives, so that no bin depends on the order of the rows.
    """
    _, value_of, equal = np.unique(probabilities, return_inverse=True, return_counts=True)
    shares = (np.bincount(value_of, labels) / equal)[value_of]
    order = np.argsort(probabilities, kind="stable")
    cuts = np.unique(np.linspace(0, len(order), bins + 1).astype(np.int64))
    count = np.diff(cuts)
    if len(count) == 0:
        return Reliability(np.zeros(0), np.zeros(0), count)
    sums = [
        np.add.reduceat(np.asarray(x, np.float64)[order], cuts[:-1])
        for x in (probabilities, shares)
    ]
    return Reliability(sums[0] / count, sums[1] / count, count)


def expected_calibration_error(labels: Bools, probabilities: Numbers, bins: int = 10) -> float:
    """Mean distance of predicted and actual rate over bins of equal mass (ECE)."""
    found = reliability(labels, probabilities, bins)
    gaps = np.abs(found.predicted - found.actual)
    return float(np.average(gaps, weights=found.count)) if len(gaps) else float("nan")


def ranking_metrics(labels: Bools, probabilities: Numbers) -> dict[str, float]:
    """What a ranker is judged by, for one action.

    Args:
        labels: [N] whether the action followed.
        probabilities: [N] predicted.
    """
    return {
        "auc": auc(labels, probabilities),
        "log_loss": log_loss(labels, probabilities),
        "normalized_entropy": normalized_entropy(labels, probabilities),
        "calibration": calibration(labels, probabilities),
        "ece": expected_calibration_error(labels, probabilities),
        "positive_rate": float(np.mean(labels)) if len(labels) else float("nan"),
    }


def bootstrap_interval(
    values: Floats, seed: int, level: float = 0.95, resamples: int = 1000
) -> tuple[float, float]:
    """Percentile bootstrap of the mean over queries.

    Args:
        values: [Q] a metric of each query.
        seed: of the resampling.
        level: coverage of the interval.
        resamples: bootstrap samples.
    """
    rng = np.random.default_rng(seed)
    shares = np.full(len(values), 1 / len(values))
    size = max(1, CHUNK_COUNTS // max(1, len(values)))
    means = [
        rng.multinomial(len(values), shares, size=min(size, resamples - start)) @ values
        for start in range(0, resamples, size)
    ]
    quantiles = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.concatenate(means) / len(values), quantiles)
    return float(low), float(high)


def cosine_kurtosis(
    vectors: npt.NDArray[np.float32], rng: np.random.Generator, pairs: int = 200_000
) -> float:
    """Excess kurtosis of the cosines of random pairs; low where vectors fill their space.

    PinSage (KDD'18, §4.2) compares .43 of its own with 1.20 and 2.49 of visual and text vectors.

    Args:
        vectors: [N, D] of unit length, at least two.
        rng: draws the pairs, never of an item with itself.
        pairs: how many.
    """
    first = rng.integers(0, len(vectors), pairs)
    second = (first + rng.integers(1, len(vectors), pairs)) % len(vectors)
    cosines = np.einsum("nd,nd->n", vectors[first], vectors[second], dtype=np.float64)
    centred = cosines - cosines.mean()
    variance = float(np.mean(centred**2))
    return float(np.mean(centred**4) / variance**2 - 3) if variance else 0.0
