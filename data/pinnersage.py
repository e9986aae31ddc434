"""PinnerSage: what a user is about, as a few items that stand for clusters of their past.

Nothing is learnt: the vectors of a user's items are clustered by Ward's method, each cluster is
shown by its medoid, and counts by how much of it is recent (Pal et al., KDD'20). All users of a
block are clustered in parallel; a user costs O(n²) time and memory for the n newest items.

Shapes: B users with H events, K clusters, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numba
import numpy as np
from pydantic import Field

from data.contract.encode import Events, FeatureTable, Floats, Ints, Mask
from data.contract.schema import DAY_MS
from data.contract.settings import Count, NonNegative

if TYPE_CHECKING:
    from data.dataset import Dataset
    from data.queries import Queries


NonNegativeFloat = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnerSageSettings:
    """How a past is clustered.

    Attributes:
        clusters: most clusters of a user.
        distance: clusters that Ward's method would merge at no more than this squared distance are
            one, however few there are (α).
        decay: λ of a cluster's importance `Σ e^{−λ(T − t)}`, per day (the paper names no unit: .01
            a day halves it in 69 days).
        max_events: newest events that are clustered.
        days: age of the oldest of them, in a log with a clock.
    """

    clusters: Count = 5
    distance: NonNegativeFloat = 0.0
    decay: NonNegativeFloat = 0.01
    max_events: Count = 400
    days: NonNegative = 90


@dataclass(frozen=True, slots=True)
class Interests:
    """Clusters of B users, the most important first.

    Attributes:
        medoids: int64[B, K] item rows; 0 where a user has fewer clusters.
        importance: float32[B, K]; 0 likewise.
    """

    medoids: Ints
    importance: Floats

    @classmethod
    def of(
        cls, events: Events, vectors: Floats, now_ms: Ints | None, settings: PinnerSageSettings
    ) -> Interests:
        """Clusters the past of each user.

        Args:
            events: what each user engaged with.
            vectors: float32[item rows, D]; items of zeros are left out.
            now_ms: moment of each user, int64[B]; None in a log without a clock, where all events
                are alike.
            settings: how.
        """
        known: Mask = _have_vectors(vectors, events.item)
        ages = np.zeros(len(events.item))
        if now_ms is not None:
            ages = (np.repeat(now_ms, events.lengths) - events.timestamp) / DAY_MS
            known &= ages <= settings.days
        weights = np.exp(-settings.decay * np.maximum(ages, 0))[known]
        offsets = np.concatenate([[0], np.cumsum(known)])[events.offsets]
        items = events.item[known].astype(np.int64)
        shape = (len(events.lengths), settings.clusters)
        medoids, importance = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        rules = settings.clusters, settings.distance, settings.max_events
        _cluster_all(offsets, (items, weights), vectors, rules, (medoids, importance))
        return cls(medoids, importance)


@dataclass(frozen=True, slots=True)
class PinnerSage:
    """A scorer: an item is worth its cosine with the nearest of the user's medoids.

    That is the oracle of PinnerFormer's table 1, which knows which of the clusters is asked for.
    """

    vectors: Floats
    positive_codes: list[int]
    settings: PinnerSageSettings

    @classmethod
    def fit(cls, dataset: Dataset, settings: PinnerSageSettings) -> PinnerSage | None:
        """Over the vectors that items have; None where they have none."""
        vectors = unit_vectors(dataset.items, dataset.item_ids.rows)
        if vectors is None:
            return None
        return cls(vectors, dataset.vocabulary.codes("positive"), settings)

    def scores(self, queries: Queries) -> Floats:
        """Full-catalogue scores of a chunk of queries, float32[b, rows]."""
        liked = queries.history.chosen(np.isin(queries.history.action, self.positive_codes))
        found = Interests.of(liked, self.vectors, queries.now_ms, self.settings)
        scores = np.full((len(queries), len(self.vectors)), -1.0, np.float32)
        for cluster in range(found.medoids.shape[1]):
            there = found.importance[:, cluster] > 0
            medoids = self.vectors[found.medoids[there, cluster]]
            scores[there] = np.maximum(scores[there], medoids @ self.vectors.T)
        return scores


def unit_vectors(items: FeatureTable, rows: int) -> Floats | None:
    """The last column of vectors that items have at length 1, graph embeddings where there are any.

    Args:
        items: encoded columns.
        rows: of the id space.

    Returns:
        float32[rows, D], zeros for the rows without a vector; None without such a column.
    """
    columns = tuple(f for f in items.features if f.kind == "vector")
    if not columns:
        return None
    own = FeatureTable(items.side, columns[-1:], items.columns)
    (vectors,) = own.gather(np.arange(rows)).values()
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit


@numba.njit(cache=True)
def ward(distances: Any) -> Any:
    """Merges of Ward's method by chains of nearest neighbours.

    Args:
        distances: squared Euclidean, float64[n, n]; used up.

    Returns:
        Merges float64[n - 1, 3]: a point of either cluster and
        `((n_i + n_k) d_ik + (n_j + n_k) d_jk − n_k d_ij) / (n_i + n_j + n_k)`, in the order in
        which they were found. O(n²).
    """
    count = len(distances)
    sizes, alive = np.ones(count), np.ones(count, np.bool_)
    merges, chain, length = np.empty((max(count - 1, 0), 3)), np.empty(count, np.int64), 0
    for done in range(count - 1):
        if length == 0:
            chain[0] = np.argmax(alive)
            length = 1
        while True:
            tip = chain[length - 1]
            # The one before in the chain wins ties, or the chain would never end.
            near = chain[length - 2] if length > 1 else -1
            least = distances[tip, near] if length > 1 else np.inf
            for other in range(count):
                if alive[other] and other != tip and distances[tip, other] < least:
                    near, least = other, distances[tip, other]
            if length > 1 and near == chain[length - 2]:
                break
            chain[length] = near
            length += 1
        length -= 2
        merges[done, 0], merges[done, 1], merges[done, 2] = tip, near, least
        _join(distances, sizes, alive, tip, near)
    return merges


@numba.njit(cache=True)
def _join(distances: Any, sizes: Any, alive: Any, gone: int, kept: int) -> None:
    """Lance and Williams: distances of the merged cluster, under the number of `kept`."""
    both = sizes[gone] + sizes[kept]
    alive[gone] = False
    for other in range(len(distances)):
        if alive[other] and other != kept:
            apart = (sizes[gone] + sizes[other]) * distances[gone, other]
            apart += (sizes[kept] + sizes[other]) * distances[kept, other]
            apart -= sizes[other] * distances[gone, kept]
            distances[kept, other] = apart / (both + sizes[other])
            distances[other, kept] = distances[kept, other]
    sizes[kept] = both


@numba.njit(cache=True)
def cut(merges: Any, clusters: int, distance: float) -> Any:
    """Cluster of each point, int64[n], numbered from 0: at most `clusters`, none within `distance`.

    Args:
        merges: of `ward`.
        clusters: most of them.
        distance: at which clusters are one.
    """
    count = len(merges) + 1
    parent = np.arange(count)
    order = np.argsort(merges[:, 2], kind="mergesort")
    for place in range(count - 1):
        if count - place <= clusters and merges[order[place], 2] > distance:
            break
        one, other = int(merges[order[place], 0]), int(merges[order[place], 1])
        parent[_root(parent, one)] = _root(parent, other)
    labels, names = np.empty(count, np.int64), np.full(count, -1)
    found = 0
    for point in range(count):
        root = _root(parent, point)
        if names[root] < 0:
            names[root] = found
            found += 1
        labels[point] = names[root]
    return labels


@numba.njit(cache=True)
def _root(parent: Any, point: int) -> int:
    while parent[point] != point:
        parent[point] = parent[parent[point]]
        point = parent[point]
    return point


@numba.njit(cache=True, parallel=True)
def _cluster_all(offsets: Any, past: Any, vectors: Any, rules: Any, found: Any) -> None:
    """Fills medoids and importance of all users; see `Interests.of`."""
    clusters, distance, most = rules
    items, weights = past
    medoids, importance = found
    for user in numba.prange(len(offsets) - 1):
        first = max(offsets[user], offsets[user + 1] - most)
        mine = items[first : offsets[user + 1]]
        if len(mine) > 0:
            points = vectors[mine]
            labels = cut(ward(_squared(points)), clusters, distance)
            weight = weights[first : offsets[user + 1]]
            _describe(points, labels, weight, mine, medoids[user], importance[user])


@numba.njit(cache=True)
def _have_vectors(vectors: Any, items: Any) -> Any:
    """Whether each item's vector is any but zeros, bool[n]."""
    found = np.zeros(len(items), np.bool_)
    for place in range(len(items)):
        for number in vectors[items[place]]:
            if number != 0:
                found[place] = True
                break
    return found


@numba.njit(cache=True, fastmath={"reassoc", "contract"})
def _squared(points: Any) -> Any:
    """Squared distances of all pairs, float64[n, n]; BLAS would start threads in each of ours."""
    count, width = points.shape
    distances = np.zeros((count, count))
    for one in range(count):
        for other in range(one):
            apart = points.dtype.type(0)
            for number in range(width):
                apart += (points[one, number] - points[other, number]) ** 2
            distances[one, other] = distances[other, one] = apart
    return distances


@numba.njit(cache=True)
def _describe(
    points: Any, labels: Any, weight: Any, items: Any, medoids: Any, importance: Any
) -> None:
    """Medoid and importance of each cluster, the most important first."""
    count = labels.max() + 1
    sums, sizes, shares = np.zeros((count, points.shape[1])), np.zeros(count), np.zeros(count)
    for point in range(len(points)):
        sums[labels[point]] += points[point]
        sizes[labels[point]] += 1
        shares[labels[point]] += weight[point]
    best, least = np.zeros(count, np.int64), np.full(count, np.inf)
    for point in range(len(points)):
        # Σ_j ‖x − x_j‖² up to what all points of the cluster share.
        mine = labels[point]
        apart = sizes[mine] * (points[point] ** 2).sum() - 2 * (points[point] * sums[mine]).sum()
        if apart < least[mine]:
            best[mine], least[mine] = point, apart
    order = np.argsort(-shares, kind="mergesort")
    for rank in range(min(count, len(medoids))):
        medoids[rank] = items[best[order[rank]]]
        importance[rank] = shares[order[rank]]
