"""Lists of near vectors: what an inverted file visits instead of everything.

Short lists are worth their number: a search looks at fewer vectors for the same recall. So there
are many, found in two stages, for k-means of so many at once would take longer than all the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from data.contract.encode import Ints, Mask
    from serve.programs import Floats

LANES = 16  # numbers of a vector that FAISS scans at once
POINTS = 64  # vectors that each centroid is learnt from
AT_ONCE = 256  # centroids that one k-means finds


def filled(vectors: Floats, priors: Floats) -> Floats:
    """Vectors [N, D], priors [N], zeros: f32[N, W], W the next multiple of 16 above D.

    Of another width FAISS scans numbers of 8 or 16 bits four times slower.
    """
    count, dim = vectors.shape
    columns = np.zeros((count, -(-(dim + 1) // LANES) * LANES), np.float32)
    columns[:, :dim], columns[:, dim] = vectors, priors
    return columns


def centroids_of(vectors: Floats, count: int) -> Floats:
    """Unit vectors in the middle of about `count` groups of near ones.

    Args:
        vectors: [N, D], N >= count.
        count: groups wanted.
    """
    drawn = np.random.default_rng(0).permutation(len(vectors))[: count * POINTS]
    points = np.ascontiguousarray(vectors[drawn], np.float32)
    if count <= AT_ONCE:
        return _means(points, count)
    coarse = _means(points, round(count**0.5))
    owner = nearest(points, coarse)
    groups = [points[owner == group] for group in range(len(coarse))]
    shares = [max(1, round(count * len(group) / len(points))) for group in groups]
    return np.concatenate([_means(g, n) for g, n in zip(groups, shares, strict=True) if len(g)])


def _means(points: Floats, count: int) -> Floats:
    clustering = faiss.Kmeans(
        points.shape[1],
        count,
        niter=8,
        spherical=True,
        seed=0,
        min_points_per_centroid=1,
        gpu=faiss.get_num_gpus(),
    )
    clustering.train(points)
    assert clustering.centroids is not None
    return clustering.centroids


def nearest(vectors: Floats, centroids: Floats) -> Ints:
    """The centroid [L, D] with the largest product, of each vector [N, D]."""
    flat = faiss.IndexFlatIP(centroids.shape[1])
    flat.add(np.ascontiguousarray(centroids, np.float32))
    found: Ints = on_gpus(flat).search(np.ascontiguousarray(vectors, np.float32), 1)[1][:, 0]
    return found


def on_gpus(flat: Any) -> Any:
    """A copy of a flat index on each GPU of this machine, the index itself where there are none.

    For what is asked of many vectors at once, as while an index is built: one query takes no longer
    on a CPU, and the files that are served hold no such copy.
    """
    return faiss.index_cpu_to_all_gpus(flat) if faiss.get_num_gpus() else flat


def scan(
    index: Any, query: Floats, lists: Ints, fetch: int, members: Any = None
) -> tuple[Floats, Ints]:
    """Scores and rows of what some lists of an inverted file hold, best first.

    Args:
        index: the inverted file.
        query: [W].
        lists: those to be visited, [L].
        fetch: rows wanted.
        members: a bitmap of the rows that may be found; None for all.
    """
    query, lists = np.ascontiguousarray(query, np.float32), np.ascontiguousarray(lists)
    scores, rows = np.empty(fetch, np.float32), np.empty(fetch, np.int64)
    choice: Any = {"nprobe": len(lists)}
    if members is not None:
        choice["sel"] = faiss.IDSelectorBitmap(members)  # type: ignore[call-arg]
    parameters = faiss.SearchParametersIVF(**choice)
    ends = np.zeros(len(lists), np.float32)
    given: list[Any] = [faiss.swig_ptr(array) for array in (lists, ends, scores, rows)]
    index.search_preassigned_c(1, faiss.swig_ptr(query), fetch, *given, False, parameters)
    found = rows >= 0
    return scores[found], rows[found]


def fewest(limit: int, enough: Callable[[int], bool]) -> int:
    """About the least number of lists that is enough, at most `limit`; more are never less."""
    high = 1
    while high < limit and not enough(high):
        high *= 2
    low, high = high // 2, min(high, limit)
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def surely(shares: Floats, recall: float) -> bool:
    """Whether the mean of queries' shares [Q] reaches a recall by two standard errors, or is 1."""
    error = float(shares.std()) / len(shares) ** 0.5
    return bool(shares.mean() - 2 * error >= recall)


def left(rows: Ints, exclude: Ints) -> Mask:
    """Which of the rows are not in `exclude`, which is sorted."""
    if not len(exclude):
        return np.ones(len(rows), bool)
    at = np.minimum(np.searchsorted(exclude, rows), len(exclude) - 1)
    kept: Mask = exclude[at] != rows
    return kept
