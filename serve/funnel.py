"""Life of a request over one bundle.

1. user: row, history of the bundle, posted events, what must not be shown
2. sources: candidate sources side by side, each with a deadline; meanwhile the ranker reads the
   user
3. merge: what is in the corpus and was not seen, shares, one item of each image
4. filter: rules, hidden creators, values that must be the user's
5. rank: probabilities of all actions; before it, where asked for, a cut by the retrieval score
6. blend: utility, gates, diversity, a least share for each source, exploring (serve.ordering)

Whatever is taken out has a reason in the trace, the first that applied.

Whatever fails or is late is left out, and the answer says so: `partial` (a source, or what was
posted of a user), `unranked`, `cached` (what was posted as last read, or the feed as last shown),
`popular`.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from data.contract.encode import Ints
from data.contract.settings import UserError
from serve.breaker import Breakers
from serve.bulkhead import Bulkhead
from serve.candidates import Candidates, Found, merge, without_duplicates
from serve.catalogue import Catalogue
from serve.clock import Clock
from serve.filters import open_filters, open_rules
from serve.lists import left
from serve.ordering import Ordering
from serve.programs import Floats
from serve.query import RELATED, Query, context_row, unwanted
from serve.ranker import Ranker, Reader
from serve.ranking import Ranking
from serve.recent import Recent
from serve.retrieval import UserTower
from serve.sources import Source, open_sources
from serve.users import User, Users
from serve.utility import Utility

if TYPE_CHECKING:
    from concurrent.futures import Future

    from serve.bundle import Bundle
    from serve.fanout import Fanout, Round
    from serve.ids import Mask
    from serve.messages import RecommendRequest
    from serve.settings import ServeSettings
    from serve.stages import Trace
    from serve.store import Document, Store

log = logging.getLogger(__name__)

NO_ROWS = np.zeros(0, np.int64)
EXPLORE = "explore"


@dataclass(frozen=True, slots=True)
class Slate:
    """Places of a feed, best first.

    Attributes:
        rows: item rows, [N].
        scores: utility, or what ordered them instead, [N].
        predictions: probability of each action, [N, T]; [N, 0] when nothing was ranked.
        sources: source of each, [N].
        propensity: chance that each stands where it does, [N].
    """

    rows: Ints
    scores: Floats
    predictions: Floats
    sources: list[str]
    propensity: Floats

    def take(self, at: Ints) -> Slate:
        """Some of the places."""
        arrays = (self.rows[at], self.scores[at], self.predictions[at])
        return Slate(*arrays, [self.sources[n] for n in at.tolist()], self.propensity[at])

    @classmethod
    def unranked(cls, rows: Ints, source: str) -> Slate:
        """Rows [N] of one source in its own order."""
        scores, certain = -np.arange(len(rows), dtype=np.float32), np.ones(len(rows), np.float32)
        return cls(
            rows, scores, np.zeros((len(rows), 0), np.float32), [source] * len(rows), certain
        )


NOTHING = Slate.unranked(NO_ROWS, "")


class Funnel:
    """Answers requests from one bundle, the posted items and the store.

    Args:
        bundle: the open bundle.
        store: posted events and items.
        fanout: the pool in which sources run.
        settings: of serving.
        utility: what orders the candidates.
    """

    def __init__(
        self,
        bundle: Bundle,
        store: Store,
        fanout: Fanout,
        settings: ServeSettings,
        utility: Utility,
    ) -> None:
        self.bundle = bundle
        self.catalogue = Catalogue(bundle)
        self.clock = Clock(bundle, settings.clock)
        self.users = Users(bundle, self.catalogue, settings.max_actions)
        self.rules = open_rules(bundle, self.catalogue, settings)
        self.filters = open_filters(self.rules, bundle, self.catalogue, settings)
        self.sources: tuple[Source, ...] = open_sources(bundle, self.catalogue, settings)
        self._tower = UserTower(bundle, self.catalogue, settings.threads, settings.queue)
        self._ordering = Ordering(self.catalogue, settings)
        self.utility = utility
        self._store = store
        self._fanout = fanout
        self._settings = settings
        self._remembered: Recent[list[Document]] = Recent(settings.remembered_users, len)
        self.breakers = Breakers(settings.breaker_failures, settings.breaker_seconds)
        ranker = None
        if bundle.has_ranker:
            together = settings.rank_together if settings.ranks_on_gpu else 1
            ranker = Ranker(bundle, self.catalogue, settings.rank_threads, together)
        own = Bulkhead("ranker", 2 * settings.rank_together, settings.max_concurrent)
        self.ranking = Ranking(ranker, self.breakers["ranker"], own, settings.budget_ms / 4000)

    def with_utility(self, utility: Utility) -> Funnel:
        """The same funnel, ordered by another utility; requests under way keep this one."""
        other = copy.copy(self)
        other.utility = utility
        return other

    def with_settings(self, settings: ServeSettings) -> Funnel:
        """The same funnel over the same items under other settings.

        Raises:
            UserError: they name what the bundle does not have.
        """
        other = copy.copy(self)
        other._settings = settings
        other.rules = open_rules(self.bundle, self.catalogue, settings)
        other.filters = open_filters(other.rules, self.bundle, self.catalogue, settings)
        other._ordering = Ordering(self.catalogue, settings)
        if (settings.sources, settings.pixie) != (self._settings.sources, self._settings.pixie):
            other.sources = open_sources(self.bundle, self.catalogue, settings)
        if settings.utility != self.utility.settings:
            other.utility = Utility.of(settings.utility, self.bundle.vocabulary)
        return other

    @property
    def ranker(self) -> Ranker | None:
        """What ranks, where the bundle has it."""
        return self.ranking.ranker

    @property
    def versions(self) -> dict[str, str]:
        """Versions that answers carry: the bundle, its models, the utility."""
        return {**self.bundle.versions, "utility": self.utility.version}

    def query(self, request: RecommendRequest, trace: Trace, shown: Ints = NO_ROWS) -> Query:
        """Reads the user and what may not be shown.

        Args:
            request: as it came.
            trace: notes a store that fails.
            shown: rows that the user was shown lately.

        Raises:
            UserError: an id of the wrong type, a context that names nothing.
        """
        about = context_row(self.catalogue, request.context, self.bundle.dim)
        if request.surface == RELATED and not len(about) and request.context.query_vector is None:
            raise UserError("surface=related needs context.item_id or context.query_vector")
        user = self.read(request.user_id, trace)
        named = np.concatenate([self._excluded(request), shown])
        exclude = unwanted(self.catalogue, user.seen, named, about)
        return Query(user, request.context, request.surface, about, named, exclude, self._tower)

    def read(self, user_id: int | str, trace: Trace) -> User:
        """A user as they are known now. Raises UserError for an id of the wrong type."""
        known = self.users.canonical_id(user_id)
        return self.users.with_posted(known, self._posted(known, trace), self.clock.now_ms())

    def _posted(self, user_id: int | str, trace: Trace) -> list[Document]:
        """What was posted of a user; of a store that fails what was last read there, or nothing."""
        breaker = self.breakers["store"]
        if breaker.allows():
            try:
                posted = self.users.posted(user_id, self._store)
            except Exception:
                log.exception("the store failed; going on with what is remembered")
                breaker.note(False)
            else:
                breaker.note(True)
                self._remembered.put(user_id, posted)
                return posted
        remembered = self._remembered.get(user_id)
        trace.fallbacks.add("partial" if remembered is None else "cached")
        return remembered or []

    def slate(self, query: Query, num_items: int, trace: Trace) -> Slate:
        """Finds, ranks and orders; what fails or is dropped on the way is noted in the trace."""
        with trace.stage("sources"):
            limit = max(self._settings.candidates, num_items)
            asked = self._ask(query, limit, trace)
            reading = self.ranking.read(query)
            candidates = self._candidates(self._found(asked, query, trace), limit, trace)
        with trace.stage("filter"):
            candidates = self._filtered(query, candidates, trace)
        with trace.stage("rank"):
            candidates = self._preranked(query, candidates, num_items, trace)
            predictions, scores = self._rank(query, reading, candidates, trace)
        with trace.stage("blend"):
            above = self.utility.above_gates(predictions) if predictions.size else None
            places = self._ordering(query, candidates, scores, above, num_items, trace)
        trace.funnel["candidates"] = len(candidates.rows)
        best = places.best
        names = [candidates.names[at] for at in candidates.source[best]]
        if places.explored >= 0:
            names[places.explored] = EXPLORE
        ranked = (candidates.rows[best], scores[best], predictions[best])
        return Slate(*ranked, names, places.propensity)

    def _ask(self, query: Query, limit: int, trace: Trace) -> Round:
        applying = [source for source in self.sources if source.applies(query)]
        # Sources may take half of what is left: the other half is for what comes after them.
        left_s = trace.left_s / 2
        deadlines = {one.name: self._settings.deadline_s(one.name) for one in applying}
        calls = {
            # Of which half is for what a source does without the tower, if that is late.
            one.name: partial(one, query.patient(min(deadlines[one.name], left_s) / 2), limit)
            for one in applying
        }
        return self._fanout.ask(calls, deadlines, self.breakers, left_s)

    def _found(self, asked: Round, query: Query, trace: Trace) -> list[Found]:
        """What the sources find, less what is not served or was seen."""
        answers = self._fanout.answers(asked)
        if answers.failures:
            trace.fallbacks.add("partial")
        trace.funnel["found"] = {one.source: len(one.rows) for one in answers.found}
        trace.funnel["failures"] = answers.failures
        return [self._servable(one, query, trace) for one in answers.found]

    def _candidates(self, found: list[Found], limit: int, trace: Trace) -> Candidates:
        """One list of what was found, less what shows what is there."""
        merged = merge(found, NO_ROWS, self._settings.shares, limit)
        every = np.unique(np.concatenate([NO_ROWS, *(one.rows for one in found)]))
        trace.drop("quota", every[left(every, np.sort(merged.rows))])
        kept = without_duplicates(merged, self.catalogue.keys(merged.rows))
        trace.drop("copy", merged.rows[left(merged.rows, np.sort(kept.rows))])
        trace.funnel["kept"] = {n: int((kept.source == i).sum()) for i, n in enumerate(kept.names)}
        return kept

    def _servable(self, found: Found, query: Query, trace: Trace) -> Found:
        """What a source found that is in the corpus and may be shown again."""
        served = self.catalogue.may_serve(found.rows)
        trace.drop("corpus", found.rows[~served])
        new = left(found.rows, query.exclude)
        trace.drop("seen", found.rows[served & ~new])
        return found.where(served & new)

    def _filtered(self, query: Query, candidates: Candidates, trace: Trace) -> Candidates:
        for one in self.filters:
            kept = one(query, candidates.rows)
            trace.drop(one.name, candidates.rows[~kept])
            candidates = candidates.take(np.flatnonzero(kept))
        return candidates

    def _preranked(
        self, query: Query, candidates: Candidates, num_items: int, trace: Trace
    ) -> Candidates:
        """The best by the retrieval score, where the ranker is not to see all."""
        most = max(self._settings.prerank, num_items)
        if not self._settings.prerank or len(candidates.rows) <= most:
            return candidates
        order = np.argsort(-self._light(query, candidates, trace), kind="stable")
        trace.drop("prerank", candidates.rows[order[most:]])
        return candidates.take(np.sort(order[:most]))

    def _rank(
        self, query: Query, reading: Future[Reader] | None, candidates: Candidates, trace: Trace
    ) -> tuple[Floats, Floats]:
        """Predictions [N, T] and scores [N]; by retrieval alone without a ranker or if it fails."""
        predictions = self.ranking.rank(reading, candidates.rows, trace)
        if predictions is None:
            nothing = np.zeros((len(candidates.rows), 0), np.float32)
            return nothing, self._light(query, candidates, trace)
        items = self.catalogue.features(candidates.rows, self.utility.columns)
        return predictions, self.utility(predictions, items)

    def _light(self, query: Query, candidates: Candidates, trace: Trace) -> Floats:
        """Retrieval scores; the order of the candidates where the user has no vector in time."""
        rows = candidates.rows
        in_order = -np.arange(len(rows), dtype=np.float32)
        if query.user.is_new or not len(rows):
            return in_order
        try:
            vector = query.answers_within(trace.left_s).vector
            scores: Floats = self.catalogue.embeddings(rows) @ vector + self.catalogue.priors(rows)
        except Exception:
            log.exception("the user tower failed or is late; the sources' order stands")
            trace.fallbacks.add("unranked")
            return in_order
        return scores

    def popular(self) -> Slate:
        """What is left when all else failed: popular items."""
        return Slate.unranked(np.asarray(self.bundle.popular), "popular")

    def showable(self, slate: Slate, request: RecommendRequest, query: Query | None) -> Slate:
        """The places of a slate, made for no one or for an earlier request, that may be shown.

        What was seen, or shown lately, may be; what cannot be told of may not.

        Args:
            slate: that stands in where the funnel failed or found nothing.
            request: as it came.
            query: it, where it could be read.
        """
        try:
            kept = np.flatnonzero(self._may_show(slate.rows, request, query))
        except Exception:
            log.exception("what may be shown cannot be told; nothing is")
            return NOTHING
        return slate.take(kept[: request.num_items])

    def _may_show(self, rows: Ints, request: RecommendRequest, query: Query | None) -> Mask:
        about = context_row(self.catalogue, request.context, self.bundle.dim)
        excluded = unwanted(self.catalogue, NO_ROWS, self._excluded(request), about)
        kept = self.catalogue.may_serve(rows) & ~np.isin(rows, excluded)
        if query is None:
            return kept & self._allowed(request.surface, rows)
        for one in self.filters:
            kept &= one(query, rows)
        return kept

    def _allowed(self, surface: str, rows: Ints) -> Mask:
        """Which rows [N] no rule keeps from a surface, [N]."""
        allowed = np.ones(len(rows), bool)
        for rule in self.rules:
            allowed &= rule.allows(surface, rows)
        return allowed

    def similar(self, row: Ints, num_items: int) -> tuple[Ints, Floats]:
        """Rows and scores of the items most like the one of `row` [1] that rules leave in.

        With rules as many are looked at as a feed has candidates, and there may be fewer left.
        """
        looked_at = max(self._settings.candidates, num_items) if self.rules else num_items
        rows, scores = self.catalogue.similar(row, looked_at, NO_ROWS)
        kept = np.flatnonzero(self._allowed(RELATED, rows))[:num_items]
        return rows[kept], scores[kept]

    def _excluded(self, request: RecommendRequest) -> Ints:
        """Rows of the known items that a request excludes. Raises UserError."""
        asked = self.catalogue.rows_of(request.exclude)
        return asked[self.catalogue.is_known(asked)]
