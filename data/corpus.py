"""The serving corpus: which items may be recommended.

Items that show one image are one thing, of which the copy liked best stands for all. Of the things,
a share is kept for the newest and the others are the best by what was done with them, fading with
time. Whatever is left out is counted by its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.contract.encode import Ints
from data.contract.settings import Count, Positive, Share
from data.contract.signatures import Copies
from data.item_days import item_days

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.dataset import Dataset

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSettings:
    """Which items may be recommended; the root remembers it.

    Attributes:
        size: items kept, the best by score; all where there are no more, or without it.
        fresh_share: share of `size` kept for the newest items, whatever their score.
        weights: action -> what one adds to the score of its item; the others count +1 when
            positive, -1 when negative.
        half_life_days: age at which an action counts half.
        blocklist: file, or its URI, of item ids that are never served, one a line (or Parquet); a
            copy of a blocked item that is not named itself may still be served. It holds from the
            next `index` on.
    """

    size: Count | None = None
    fresh_share: Share = 0.1
    weights: dict[str, float] = field(default_factory=dict)
    half_life_days: Positive = 7.0
    blocklist: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How the N items of a log stand at its end.

    Attributes:
        rows: of the item id space, [N].
        keys: equal for items that show one image, [N].
        own: what was done with each copy, [N].
        scores: what was done with all that show its image, [N].
        since_ms: creation or first event, ms since 1970, 0 where unknown, [N].
    """

    rows: Ints
    keys: Ints
    own: Scores
    scores: Scores
    since_ms: Ints

    @classmethod
    def of(cls, dataset: Dataset, settings: CorpusSettings) -> Standing:
        """All items of a data set. Raises UserError for a weight of no action."""
        weights = dataset.vocabulary.weights(settings.weights, "corpus.weights")
        own = engagement(dataset, weights, settings.half_life_days)
        scores = Copies.of(dataset.image_keys).summed(own)
        since, space = since_ms(dataset), dataset.item_ids
        live = np.arange(space.first_row, space.rows)
        return cls(live, dataset.image_keys[live], own[live], scores[live], since[live])

    def take(self, at: npt.NDArray[np.generic]) -> Standing:
        """Some of the items, by place or mask."""
        names = self.__dataclass_fields__
        return Standing(*(getattr(self, name)[at] for name in names))


@dataclass(frozen=True, slots=True)
class Corpus:
    """The items that may be recommended.

    Attributes:
        rows: ascending, [C].
        items: number of items that there are.
        left_out: reason -> items left out for it; the first of `blocked`, `duplicate`,
            `below_score` that holds counts. With `rows` they are all items.
    """

    rows: Ints
    items: int
    left_out: dict[str, int]


def choose(standing: Standing, blocked: Ints, settings: CorpusSettings) -> Corpus:
    """Leaves out blocked items, then all copies of an image but one, then what the size cuts off.

    Args:
        standing: how items stand.
        blocked: rows of blocked items.
        settings: size and share of the newest.
    """
    allowed = standing.take(~np.isin(standing.rows, blocked))
    single = allowed.take(best_copies(allowed))
    kept = single.take(_within(single, settings))
    sizes = [len(stage.rows) for stage in (standing, allowed, single, kept)]
    reasons = ("blocked", "duplicate", "below_score")
    left_out = dict(zip(reasons, (-np.diff(sizes)).tolist(), strict=True))
    return Corpus(np.sort(kept.rows), len(standing.rows), left_out)


def best_copies(standing: Standing) -> Ints:
    """Places of one item of each image: the copy with the highest score of its own, then row."""
    order = np.lexsort((standing.rows, -standing.own, standing.keys))
    _, first = np.unique(standing.keys[order], return_index=True)
    return np.sort(order[first])


def _within(standing: Standing, settings: CorpusSettings) -> Ints:
    """Places of the items that the size lets in: the newest for their share, then the best."""
    size = settings.size
    best = np.lexsort((standing.rows, -standing.scores))
    if size is None or size >= len(best):
        return best
    quota = round(settings.fresh_share * size)
    newest = np.lexsort((standing.rows, -standing.since_ms))
    fresh = newest[standing.since_ms[newest] > 0][:quota]
    others = best[~np.isin(best, fresh)]
    return np.concatenate([fresh, others[: size - len(fresh)]])


def engagement(dataset: Dataset, weights: Sequence[float], half_life_days: float) -> Scores:
    """What was done with each item, fading with time, [rows].

    Args:
        dataset: whose counts by day.
        weights: what each action counts, by code - 1.
        half_life_days: age, from the last day counted, at which an action counts half; what is
            dated after the log, by a wrong clock, counts as of its last day.
    """
    weight, folder = np.array([0.0, *weights]), dataset.artifact.path
    codes, last = np.flatnonzero(weight).tolist(), 0
    end = dataset.calendar.num_days if dataset.calendar else 0
    for part in item_days(folder, codes):
        last = min(int(part.day.max(initial=last)), end)
    scores = np.zeros(dataset.item_ids.rows)
    for part in item_days(folder, codes):
        age = last - np.minimum(part.day, end)
        faded = weight[part.action] * part.count * 0.5 ** (age / half_life_days)
        np.add.at(scores, part.item, faded)
    return scores


def since_ms(dataset: Dataset) -> Ints:
    """Creation of each item, or its first event, ms since 1970; 0 where unknown. [rows]."""
    first_seen = np.zeros(dataset.item_ids.rows, np.int64)
    first_seen[dataset.item_ids.first_row :] = dataset.item_ids.first_seen
    created = dataset.items_created_at
    return np.where(created > 0, created, first_seen)


def popular_items(dataset: Dataset, rows: Ints, half_life_days: float) -> Ints:
    """`rows` by positive actions on their image, which fade with time, best first; ties by row."""
    positive = [1.0 if p == "positive" else 0.0 for p in dataset.vocabulary.polarity]
    scores = engagement(dataset, positive, half_life_days)
    together = Copies.of(dataset.image_keys).summed(scores)[rows]
    return rows[np.argsort(-together, kind="stable")]


def fresh_items(dataset: Dataset, rows: Ints) -> Ints:
    """`rows` by creation, or first event, newest first; those of unknown age are left out."""
    times = since_ms(dataset)[rows]
    return rows[np.argsort(-times, kind="stable")][: int((times > 0).sum())]
