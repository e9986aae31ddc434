"""Candidate sources: each finds items for a query, best first.

A source of one's own is a class like these, named in `serve.sources`.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import numpy as np

from data.contract.settings import UserError
from serve.candidates import Found, depths, in_turns, merge
from serve.partitions import carried
from serve.pixie import Pixie
from serve.query import RELATED, Query
from serve.together import LateError

if TYPE_CHECKING:
    from data.contract.encode import Ints
    from serve.bundle import Bundle
    from serve.catalogue import Catalogue
    from serve.messages import Context
    from serve.programs import Floats
    from serve.retrieval import Answers
    from serve.settings import ServeSettings

POOL = 1000  # items of a list of everybody's of which the nearest to a user are taken

log = logging.getLogger(__name__)


class Source(Protocol):
    """A candidate source."""

    name: str

    def applies(self, query: Query) -> bool:
        """Whether the source has anything to say about a query."""

    def __call__(self, query: Query, limit: int) -> Found:
        """Finds up to `limit` items that are not excluded (others are dropped later)."""


class TwoTower:
    """Items nearest to the user's vector, what is popular and new now put first."""

    name = "two_tower"

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def applies(self, query: Query) -> bool:
        """For users of whom something is known, but not beside a related item."""
        return not query.user.is_new and query.surface != RELATED

    def __call__(self, query: Query, limit: int) -> Found:
        """By inner product and prior; the lists of several vectors of a user take turns."""
        answers = query.answers
        there = np.flatnonzero(answers.shares)
        deep = depths(limit, answers.shares[there]).tolist()
        found = [
            self._catalogue.nearest(answers.lists[at], depth, query.exclude, 1.0)
            for at, depth in zip(there, deep, strict=True)
        ]
        if len(found) == 1:
            return Found(self.name, *found[0])
        rows = in_turns([rows for rows, _ in found], answers.shares[there])
        return head(self.name, rows, limit)


class Related:
    """Items near the item, or the vector, that the context names."""

    name = RELATED

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def applies(self, query: Query) -> bool:
        """When the context names something."""
        return query.context.item_id is not None or query.context.query_vector is not None

    def __call__(self, query: Query, limit: int) -> Found:
        """By inner product with the context's vector."""
        vector = self._vector(query.context, query.about)
        rows, scores = self._catalogue.nearest(vector, limit, query.exclude)
        return Found(self.name, rows, scores)

    def _vector(self, context: Context, about: Ints) -> Floats:
        if context.query_vector is None:
            return np.asarray(self._catalogue.embeddings(about)[0])
        vector = np.array(context.query_vector, np.float32)
        return unit(vector)


def unit(vector: Floats) -> Floats:
    """A vector [D] at length 1; zero stays zero."""
    return vector / np.float32(max(float(np.linalg.norm(vector)), 1e-12))


class PinnerSage:
    """Items like those that stand for the clusters of the user's past, by their importance.

    Pal et al., KDD'20, draw three clusters by importance; here each has a share of the list, so
    that a request can be answered again.
    """

    name = "pinnersage"

    def __init__(self, bundle: Bundle, catalogue: Catalogue) -> None:
        self._medoids = bundle.medoids
        self._catalogue = catalogue

    def applies(self, query: Query) -> bool:
        """For users with a past, wherever a feed is not about one item."""
        return query.surface != RELATED and len(self._clusters(query)[0]) > 0

    def __call__(self, query: Query, limit: int) -> Found:
        """The clusters in turns."""
        medoids, importance = self._clusters(query)
        deep = depths(limit, importance).tolist()
        near = self._catalogue.similar_to_each(medoids, deep, query.exclude)
        lists = [Found(str(at), *found) for at, found in enumerate(near)]
        shares = {one.source: float(share) for one, share in zip(lists, importance, strict=True)}
        return head(self.name, merge(lists, query.exclude, shares, limit).rows, limit)

    def _clusters(self, query: Query) -> tuple[Ints, Floats]:
        if self._medoids is None or not query.user.admitted:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        return self._medoids.of(query.user.row)


class Interests:
    """Items that carry one of the context's interests: nearest to the user, or most popular."""

    name = "interests"

    def __init__(self, bundle: Bundle, catalogue: Catalogue) -> None:
        self._values, self._rows = _inverted(bundle)
        self._partitioned = bundle.partitions is not None
        self._catalogue = catalogue

    def applies(self, query: Query) -> bool:
        """When interests are named and items declare them."""
        return bool(query.context.interests) and len(self._rows) > 0

    def __call__(self, query: Query, limit: int) -> Found:
        """The interests in turns: of each what is nearest or, without a vector, most popular."""
        near = self._near(query, limit)
        if near is None:
            near = self._popular(query.conditions, limit + len(query.exclude))
        return head(self.name, merge(near, query.exclude, {}, limit).rows, limit)

    def _near(self, query: Query, limit: int) -> list[Found] | None:
        """Those of each interest that are nearest to the user, who may have no vector (None)."""
        answers = None if query.user.is_new or not self._partitioned else answers_soon(query)
        if answers is None:
            return None
        found = [
            self._catalogue.under(one, vector, limit, query.exclude, 1.0)
            for one, vector in zip(query.conditions[:, None], answers.conditioned, strict=True)
        ]
        return [Found(str(at), *each) for at, each in enumerate(found)]

    def _popular(self, wanted: Ints, limit: int) -> list[Found]:
        start = np.searchsorted(self._values, wanted)
        end = np.searchsorted(self._values, wanted, side="right")
        pairs = enumerate(zip(start, end, strict=True))
        return [head(str(at), self._rows[first:last], limit) for at, (first, last) in pairs]


def _inverted(bundle: Bundle) -> tuple[Ints, Ints]:
    """Sorted interest hashes, and the rows that carry them, each once, popular ones first."""
    rows = np.asarray(bundle.popular)
    pairs = np.unique(np.stack(carried(bundle.items, rows)[::-1]), axis=1)
    return pairs[0], rows[pairs[1]]


class Popular:
    """Items with the most recent positive actions, those to the user's taste first."""

    name = "popular"

    def __init__(self, bundle: Bundle, catalogue: Catalogue) -> None:
        self._rows = bundle.popular
        self._catalogue = catalogue

    def applies(self, query: Query) -> bool:
        """Always: what everybody likes stands in for what is missing."""
        return query is not None

    def __call__(self, query: Query, limit: int) -> Found:
        """The head of the list; the list itself where nothing is known of the user."""
        limit += len(query.exclude)
        return head(self.name, to_taste(self._catalogue, query, self._rows, limit), limit)


class Fresh:
    """Newest items, posted or of the bundle, those to the user's taste first."""

    name = "fresh"

    def __init__(self, bundle: Bundle, catalogue: Catalogue) -> None:
        self._rows, self._ages = np.asarray(bundle.fresh), ages_of(bundle, bundle.fresh)
        self._catalogue = catalogue

    def applies(self, query: Query) -> bool:
        """Wherever a feed is not about one item."""
        return query.surface != RELATED

    def __call__(self, query: Query, limit: int) -> Found:
        """The head of the list; the list itself where nothing is known of the user."""
        posted, limit = self._catalogue.posted_rows, limit + len(query.exclude)
        ages = np.concatenate([self._catalogue.ages_ms(posted), self._ages])
        rows = np.concatenate([posted, self._rows])[np.argsort(ages, kind="stable")]
        return head(self.name, to_taste(self._catalogue, query, rows, limit), limit)


def ages_of(bundle: Bundle, rows: Ints) -> Ints:
    """Ages of listed rows on the day that a bundle was made for, newest first, ms; 0 if unknown.

    Of an item whose creation is unknown the list knows more: it is as old as the one before it.
    """
    ages = bundle.trends.get("trend.age_ms")
    known = np.zeros(len(rows), np.int64) if ages is None else ages[np.asarray(rows)]
    return np.maximum.accumulate(np.maximum(known, 0))


def to_taste(catalogue: Catalogue, query: Query, rows: Ints, least: int) -> Ints:
    """The head of a list by how near to the user its items are, what is popular and new first.

    Args:
        catalogue: of the items.
        query: who asks; of a new user, or without the tower's answer, the list stays as it is.
        rows: the list.
        least: items of its head that are looked at, if `POOL` is not more.
    """
    if query.user.is_new or query.surface == RELATED:
        return rows
    answers = answers_soon(query)
    if answers is None:
        return rows
    pool = np.asarray(rows[: max(POOL, least)], np.int64)
    scores = catalogue.embeddings(pool) @ answers.vector + catalogue.priors(pool)
    ordered: Ints = pool[np.argsort(-scores, kind="stable")]
    return ordered


def answers_soon(query: Query) -> Answers | None:
    """What the tower says, for a source that can do without; None if it fails or is late."""
    try:
        return query.answers_soon
    except LateError:
        return None
    except Exception:
        log.exception("the user tower failed; the list stays as it is")
        return None


def head(source: str, rows: Ints, limit: int) -> Found:
    """The first rows of a list, scored by their place."""
    taken = np.asarray(rows[:limit], np.int64)
    return Found(source, taken, -np.arange(len(taken), dtype=np.float32))


def open_sources(
    bundle: Bundle, catalogue: Catalogue, settings: ServeSettings
) -> tuple[Source, ...]:
    """The sources of a bundle; the first to find an item is named as its source.

    Args:
        bundle: the open bundle.
        catalogue: its items and the posted ones.
        settings: of serving.
    """
    return (
        Related(catalogue),
        TwoTower(catalogue),
        PinnerSage(bundle, catalogue),
        Pixie(bundle, catalogue, settings.pixie),
        Interests(bundle, catalogue),
        Popular(bundle, catalogue),
        Fresh(bundle, catalogue),
        *(_open_own(path, bundle, catalogue) for path in settings.sources),
    )


def _open_own(path: str, bundle: Bundle, catalogue: Catalogue) -> Source:
    module, _, name = path.partition(":")
    try:
        source: Source = getattr(import_module(module), name)(bundle, catalogue)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"serve.sources: {path!r} is no package.module:Class ({error})") from None
    return source
