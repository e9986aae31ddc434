"""Pixie as a candidate source: walks over the bundle's graph from what a user has just liked.

A walk goes item -> board -> item, where users stand for boards in logs without a board table. What
it costs is its steps, whatever the size of the graph, and it needs no model: what was put on a
board an hour before the bundle was made is found, and what was posted a second ago is walked from.

From Eksombatchai et al., "Pixie" (WWW'18); `data.graph.pixie` walks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from data.contract.schema import DAY_MS
from data.contract.settings import Count, NonNegative, Positive, Share, Weight
from data.graph.pixie import PixieSettings, PixieWalk
from serve.candidates import Found
from serve.lists import left
from serve.query import RELATED, state_of

if TYPE_CHECKING:
    from data.contract.encode import Floats, Ints, Mask
    from serve.bundle import Bundle
    from serve.catalogue import Catalogue
    from serve.query import Query
    from serve.users import User

NONE = np.zeros(0, np.int64), np.zeros(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentWalks:
    """How candidates are walked for.

    Attributes:
        steps: item-board-item steps of a request, over all items that walks begin at.
        restart: probability with which a walk begins again after a step.
        visits: visits of an item that make it a candidate; the walks from an item end once it has
            its part of as many as are wanted. 0: they take all steps, which is faster where those
            are few, for more walks move side by side.
        actions: newest actions whose items walks begin at.
        half_life_days: time in which an action's part of the steps halves; in a log without a
            clock the newest actions are alike.
        weights: action -> its part of the steps; positive ones that are not named have 1.
    """

    steps: Count = 10_000
    restart: Share = 0.5
    visits: NonNegative = 0
    actions: Count = 20
    half_life_days: Positive = 7.0
    weights: dict[str, Weight] = field(default_factory=dict)

    @property
    def walk(self) -> PixieSettings:
        """As the walk takes them; how many candidates each request says."""
        stop = {"visits": self.visits} if self.visits else {"early_stop": False}
        return PixieSettings(steps=self.steps, restart=self.restart, **stop)


class Pixie:
    """Items that walks from the user's newest actions, or from the context's item, visit most."""

    name = "pixie"

    def __init__(self, bundle: Bundle, catalogue: Catalogue, settings: RecentWalks) -> None:
        """Compiles the walk, or loads it compiled, so that no request waits for it.

        Raises:
            UserError: weights for an action that there is not.
        """
        self._catalogue = catalogue
        self._settings = settings
        worth = bundle.vocabulary.weights(settings.weights, "serve.pixie.weights")
        self._worth = np.array([0.0, *worth])
        self._walk: PixieWalk | None = None
        self._edges = np.zeros(1, np.int64)
        if bundle.graph is not None:
            self._walk = PixieWalk.of(bundle.graph, settings.walk)
            self._walk.recommend(np.zeros(1, np.int64), np.ones(1), seed=0)
            self._edges = np.asarray(bundle.graph.items.indptr)

    def applies(self, query: Query) -> bool:
        """When the user has liked, or the context names, what is on a board."""
        return len(self._starts(query)[0]) > 0

    def __call__(self, query: Query, limit: int) -> Found:
        """By visits, those of several walks' beginnings first; the same again for equal queries."""
        assert self._walk is not None
        settings = replace(self._walk.settings, candidates=limit + len(query.exclude))
        answer = replace(self._walk, settings=settings).recommend(
            *self._starts(query), seed=_seed(query), allowed=self._catalogue.may_serve
        )
        kept = left(answer.items, query.exclude)
        return Found(self.name, answer.items[kept][:limit], answer.scores[kept][:limit])

    def _starts(self, query: Query) -> tuple[Ints, Floats]:
        """Rows that walks begin at, [Q], and how much each counts; the context's like the newest.

        A feed about one item begins at that item alone.
        """
        rows, weights = NONE if query.surface == RELATED else self._liked(query.user)
        about = query.about[self._on_boards(query.about)]
        return np.concatenate([about, rows]), np.concatenate([np.ones(len(about)), weights])

    def _liked(self, user: User) -> tuple[Ints, Floats]:
        """Items of the newest actions; none of an item that was turned down too."""
        events = user.events
        worth = self._worth[events.action]
        liked = np.flatnonzero((worth > 0) & self._on_boards(events.item))
        liked = liked[~np.isin(events.item[liked], events.item[worth < 0])]
        newest = liked[-self._settings.actions :]
        times = events.timestamp[newest].astype(np.float64)
        # Seen from the newest of them: parts stay the same however long ago that was.
        ages = (times.max(initial=0) - times) / DAY_MS
        return events.item[newest], worth[newest] * 0.5 ** (ages / self._settings.half_life_days)

    def _on_boards(self, rows: Ints) -> Mask:
        """Which rows have an edge; posted items have none."""
        there = rows < len(self._edges) - 1
        there[there] = self._edges[rows[there]] < self._edges[rows[there] + 1]
        return there


def _seed(query: Query) -> int:
    """Random numbers of a user's state."""
    row, events = state_of(query)
    return row << 32 | events
