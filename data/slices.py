"""Slices of an evaluation: recall of the positives that share something.

A slice looks at (query, item) pairs, positives and hits alike; a pair may be in several groups of a
slice (an item has several interests) or in none. Shapes: N pairs, G groups, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.contract.encode import ragged_positions
from data.contract.schema import DAY_MS

if TYPE_CHECKING:
    import pyarrow as pa

    from data.queries import Queries
    from data.ranking import Catalogue, Ranking

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Members = Callable[[Ints, Ints], Bools]

ACTIVITY_EDGES = (1, 10, 50, 200)
ACTIVITY_LABELS = ("no history", "1-9 events", "10-49", "50-199", "200 or more")
SHARE_EDGES = (5, 8)  # tenths of the past events
SHARE_LABELS = (
    "head, half of the events",
    "torso, the next 30%",
    "tail, the rest",
    "no event before",
)
AGE_EDGES_DAYS = (0, 1, 7, 28, 90)
AGE_LABELS = ("not there yet", "under a day", "1-7 days", "7-28 days", "28-90 days", "older")


@dataclass(frozen=True, slots=True)
class Slice:
    """A way to group (query, item) pairs.

    Attributes:
        name: what the groups are groups of.
        labels: name of each group, [G].
        members: (query [N], item row [N]) -> bool[N, G].
    """

    name: str
    labels: tuple[str, ...]
    members: Members


@dataclass(frozen=True, slots=True)
class SliceRecall:
    """Recall in each group of a slice.

    Attributes:
        positives: number of positives, [G].
        hits: those among the first k ranks, [G].
    """

    positives: Ints
    hits: Ints

    @property
    def recall(self) -> list[float | None]:
        """Hits / positives; None where there is no positive."""
        pairs = zip(self.hits.tolist(), self.positives.tolist(), strict=True)
        return [hits / positives if positives else None for hits, positives in pairs]


def slice_recall(group: Slice, ranking: Ranking, queries: Queries, k: int) -> SliceRecall:
    """Pooled over queries: each positive counts once, whoever's it is.

    Args:
        group: the slice.
        ranking: of these queries.
        queries: Q of them.
        k: ranks that count.
    """
    query, place = np.nonzero(ranking.hits[:, :k])
    hits = group.members(query, ranking.items[query, place])
    positives = group.members(queries.positive_owners, queries.positives)
    return SliceRecall(positives.sum(axis=0), hits.sum(axis=0))


def by_activity(queries: Queries) -> Slice:
    """How much the user had done."""
    group = np.searchsorted(ACTIVITY_EDGES, queries.history.lengths, side="right")
    return _single("user activity", ACTIVITY_LABELS, lambda query, _: group[query])


def by_popularity(counts: npt.NDArray[np.float32], catalogue: Catalogue) -> Slice:
    """Tenths of the catalogue by past popularity; items of one count share their tenth."""
    live = counts[catalogue.live]
    below = np.searchsorted(np.sort(live), counts, side="right")
    decile = np.minimum((below - 1) * 10 // max(len(live), 1), 9)
    labels = ("least popular tenth", *(f"tenth {n}" for n in range(2, 10)), "most popular tenth")
    return _single("item popularity", labels, lambda _, item: decile[item])


def by_share(counts: npt.NDArray[np.float32], catalogue: Catalogue) -> Slice:
    """Head, torso and tail by the share of past events that more popular items hold.

    Items of one count share their group, so that the head may hold a little more than its half.

    Args:
        counts: [rows] past positive events, each counted as one.
        catalogue: whose live items count.
    """
    events = np.where(catalogue.live, counts, 0).astype(np.float64)
    values, kind, sizes = np.unique(-events, return_inverse=True, return_counts=True)
    held = -values * sizes
    before = 10 * (np.cumsum(held) - held) / max(held.sum(), 1)
    group = np.searchsorted(SHARE_EDGES, before, side="right")[kind]
    group[events == 0] = len(SHARE_EDGES) + 1
    return _single("head, torso and tail", SHARE_LABELS, lambda _, item: group[item])


def by_age(queries: Queries, catalogue: Catalogue) -> Slice | None:
    """Time since the item was created; None without a clock or creation times."""
    now, created = queries.now_ms, catalogue.created_at
    if now is None or not created.any():
        return None

    def group(query: Ints, item: Ints) -> Ints:
        age = (now[query] - created[item]) / DAY_MS
        found = np.searchsorted(AGE_EDGES_DAYS, age, side="right")
        return np.where(created[item] > 0, found, -1)

    return _single("item age", AGE_LABELS, group)


def by_interest(column: pa.Array, queries: Queries, most: int = 10) -> Slice | None:
    """The commonest values of a list column among the positives; None when there are none.

    Args:
        column: list<int64> hashes, one entry an item row.
        queries: whose positives count.
        most: values kept.
    """
    offsets, values = np.asarray(column.offsets).astype(np.int64), np.asarray(column.values)

    def lists(item: Ints) -> tuple[Ints, Ints]:
        lengths = offsets[item + 1] - offsets[item]
        owner = np.repeat(np.arange(len(item)), lengths)
        return owner, values[ragged_positions(offsets[item], lengths)]

    found, counts = np.unique(lists(queries.positives)[1], return_counts=True)
    common = np.sort(found[np.argsort(-counts, kind="stable")[:most]])
    if len(common) == 0:
        return None

    def members(_: Ints, item: Ints) -> Bools:
        owner, value = lists(item)
        at = np.minimum(np.searchsorted(common, value), len(common) - 1)
        known = common[at] == value
        inside = np.zeros((len(item), len(common)), bool)
        inside[owner[known], at[known]] = True
        return inside

    return Slice("item interest", tuple(f"{value:016x}"[:6] for value in common.tolist()), members)


def _single(name: str, labels: tuple[str, ...], group: Callable[[Ints, Ints], Ints]) -> Slice:
    """A slice of disjoint groups; group -1 is none."""
    groups = np.arange(len(labels))
    return Slice(name, labels, lambda query, item: group(query, item)[:, None] == groups)
