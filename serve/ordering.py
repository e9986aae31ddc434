"""From candidates and their scores to the places of a feed.

Gates, a determinantal point process where asked for, a cap for each creator, a least share for each
source, spacing, and now and then one place for a candidate drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.contract.encode import Ints
from serve.blend import cap_per_creator, least_items, with_least_share, within_gates
from serve.diversity import determinantal, spaced
from serve.lists import left
from serve.programs import Floats
from serve.query import RELATED, state_of

if TYPE_CHECKING:
    from data.contract.encode import Mask
    from serve.candidates import Candidates
    from serve.catalogue import Catalogue
    from serve.query import Query
    from serve.settings import ServeSettings
    from serve.stages import Trace


LEAST_SHARES, EXPLORING = 0, 1  # what random numbers are drawn for: streams of their own


@dataclass(frozen=True, slots=True)
class Places:
    """What stands where.

    Attributes:
        best: candidates by place, [P].
        propensity: chance that each stands there, [P].
        explored: place that was drawn at random, -1 for none.
    """

    best: Ints
    propensity: Floats
    explored: int = -1


class Ordering:
    """Orders the candidates of requests.

    Args:
        catalogue: of the items.
        settings: of serving.
    """

    def __init__(self, catalogue: Catalogue, settings: ServeSettings) -> None:
        self._catalogue = catalogue
        self._settings = settings

    def __call__(
        self,
        query: Query,
        candidates: Candidates,
        scores: Floats,
        above: Mask | None,
        num_items: int,
        trace: Trace,
    ) -> Places:
        """The places of a feed.

        Args:
            query: who asks.
            candidates: N of them.
            scores: what they are worth, [N].
            above: which are above a gate, [N]; None for none.
            num_items: P at most.
            trace: notes what is dropped, and why.
        """
        order = np.argsort(-scores, kind="stable")
        if above is not None:
            kept = within_gates(order, above, num_items)
            trace.drop("gate", candidates.rows[order[left(order, np.sort(kept))]])
            order = kept
        wanted = order[:num_items]
        order = self._diverse(candidates, scores, order, num_items)
        if query.surface != RELATED:
            order = self._shared(query, candidates, order, num_items)
        order = self._spaced(candidates, order, num_items)
        places = self._explored(query, order, num_items)
        shown = np.sort(places.best)
        passed = wanted[left(wanted, shown)]
        trace.drop("diversity", candidates.rows[passed])
        others = order[left(order, np.sort(np.concatenate([shown, passed])))]
        trace.drop("score", candidates.rows[others])
        return places

    def _diverse(self, candidates: Candidates, scores: Floats, order: Ints, num_items: int) -> Ints:
        settings, rows = self._settings, candidates.rows
        if settings.diversity and len(order):
            vectors = self._catalogue.embeddings(rows)
            order = determinantal(order, scores, vectors, settings.diversity, num_items)
        creators = self._catalogue.column("creator_id", rows)
        return cap_per_creator(order, creators, settings.max_per_creator)

    def _spaced(self, candidates: Candidates, order: Ints, num_items: int) -> Ints:
        for column, window in self._settings.spacing.items():
            values = self._catalogue.column(column, candidates.rows)
            if values is not None:
                order = spaced(order, values, window, num_items)
        return order

    def _shared(self, query: Query, candidates: Candidates, order: Ints, num_items: int) -> Ints:
        sources = len(candidates.names)
        draw = _draws(query, LEAST_SHARES).random(sources)
        least = least_items(self._settings.least_share, num_items, sources, draw)
        return with_least_share(order, candidates.source, num_items, least)

    def _explored(self, query: Query, order: Ints, num_items: int) -> Places:
        best, pool = order[:num_items], order[num_items:]
        share = self._settings.explore if len(pool) and len(best) else 0.0
        at_place = share / max(len(best), 1)
        propensity = np.full(len(best), 1 - at_place, np.float32)
        rng = _draws(query, EXPLORING)
        if rng.random() >= share:
            return Places(best, propensity)
        place, drawn = int(rng.integers(len(best))), int(rng.integers(len(pool)))
        best = best.copy()
        best[place], propensity[place] = pool[drawn], at_place / len(pool)
        return Places(best, propensity, place)


def _draws(query: Query, purpose: int) -> np.random.Generator:
    """Random numbers of a user's state."""
    return np.random.default_rng([*state_of(query), purpose])
