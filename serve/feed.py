"""A home feed in one object: bundle, posted events, request log. No HTTP and no Ray needed.

feed = Feed(Path("runs/default"), ServeSettings())
feed.recommend(RecommendRequest(user_id=5)).items
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from data.contract import storage
from data.contract.settings import UserError
from serve.answers import debug_of, items_of
from serve.arms import Arms
from serve.fanout import Fanout
from serve.funnel import NO_ROWS, NOTHING, Funnel, Slate
from serve.health import Health
from serve.messages import (
    Action,
    Actions,
    Event,
    EventsAccepted,
    Item,
    ItemsAccepted,
    RecommendRequest,
    RecommendResponse,
    SimilarItem,
    SimilarItems,
)
from serve.metrics import Metrics
from serve.posting import post_events, post_items
from serve.programs import placed
from serve.recent import Recent
from serve.request_ids import RequestIds
from serve.request_log import RequestLog, Served
from serve.rounds import Pieces, Rounds
from serve.shown import Shown
from serve.stages import Trace
from serve.store import StoreError
from serve.stores import open_store
from serve.switch import Switch
from serve.tracebacks import count_repeated
from serve.users import middling_users
from serve.utility_file import UtilityFile
from serve.watched_store import WatchedStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from serve.bundle import Bundle
    from serve.query import Query
    from serve.settings import ServeSettings

log = logging.getLogger(__name__)

EXAMPLES = 8
FUNNEL, LOGGING, TELLING = "making feeds", "writing the log", "telling of itself"


class Feed:
    """Serves the bundle that `<root>/bundles/CURRENT` names, and whichever it names later.

    `<root>/utility.json` overrides what orders feeds, and is followed alike.

    Args:
        root: the root of the pipeline.
        settings: of serving.
        background: whether threads follow the pointer and the file, take in items that other
            replicas were posted, and write the request log. Without them, call `tick`.
        opened: whether to serve at once; else `open` it before anything is asked of it.

    Raises:
        UserError: there is no bundle that can serve.
    """

    def __init__(
        self, root: Path, settings: ServeSettings, background: bool = True, opened: bool = True
    ) -> None:
        count_repeated()
        self.settings = settings
        self._root = root = storage.here(root)
        self._health = Health(root, settings)
        several = settings.most_replicas > 1
        self.metrics = Metrics(self._health.replicas.name if several else "")
        self.store = WatchedStore(open_store(root, settings), self.metrics)
        observe = self.metrics.observe_source
        self._fanout = Fanout(settings.threads, settings.queue, observe)
        self._utility = UtilityFile(root, settings.utility)
        self._switch = Switch(root, self._build)
        self._arms = Arms(settings, self._switch.load, self.metrics)
        self._shown = Shown(settings.seen_hours)
        self._feeds: Recent[tuple[str, Slate]] = Recent(settings.remembered_users)
        self._log = RequestLog(root, settings.log_rows, self.metrics.log_lost.inc)
        self._request_ids = RequestIds()
        self._closing = False
        self._logged_s = time.monotonic()
        self._background = background
        self._following, self._tending = self._rounds()
        if opened:
            try:
                self.open()
            except Exception:
                self.close()
                raise

    def open(self) -> None:
        """Serves what is pinned or, where that cannot serve, what the pointer names.

        Does nothing once it serves.

        Raises:
            UserError: neither can serve.
        """
        if self._switch.is_open:
            return
        self._switch.open()
        self._follow_utility()
        self._arms.follow(self._switch.funnel)
        self.metrics.serves(self._switch.funnel.versions, self._switch.is_current)
        self.metrics.refused.set(self._switch.refused is not None)
        if self._background:
            self._health.work({TELLING: self._note})
            self._following.start()
            self._tending.start()

    def _rounds(self) -> tuple[Rounds, Rounds]:
        """What may take minutes, as a bundle that is fetched does, and what must not wait for it.

        A utility goes with the bundles: it is of the one that serves, or of the one that comes.
        """
        following: Pieces = {
            "letting go of bundles": self._switch.let_go,
            "following the utility": self._follow_utility,
            "following the bundle": self._follow_bundle,
            "clearing the mirror": self._clear_mirror,
        }
        tending: Pieces = {
            "taking in posted items": self._take_posted,
            LOGGING: self._write_log,
            TELLING: self._note,
        }
        work, pause_s = self._health.work, self.settings.poll_seconds
        return Rounds("follow", following, work, pause_s), Rounds("tend", tending, work, pause_s)

    def _build(self, bundle: Bundle) -> Funnel:
        utility = self._utility.of(bundle.vocabulary)
        placement, share = self.settings.placement, self.settings.gpu_share
        programs = placed(bundle.programs, placement, share, 2 + len(self._arms.bundles))
        bundle = replace(bundle, programs=programs)
        funnel = Funnel(bundle, self.store, self._fanout, self.settings, utility)
        try:
            self.store.skip_to(bundle.store_sequence)
            funnel.catalogue.take_posted(self.store)
        except StoreError:
            log.exception("bundle %s will take in what was posted later", bundle.version)
        return funnel

    def close(self) -> None:
        """Writes the log and lets go of threads and files.

        The log first: a bundle that is being loaded is waited for, and who asked for the end may
        not wait as long.
        """
        self._closing = True
        self._following.stop()
        self._tending.stop()
        self._tending.join()
        with storage.briefly():
            self._health.work({LOGGING: self._log.write})
            self._following.join()
            self._health.work({LOGGING: self._log.write})
            self._health.replicas.close()
        self._arms.close()
        self._fanout.close()
        self.store.close()

    def tick(self) -> None:
        """One round of background work; what fails is told by `readiness`, and tried again."""
        self._following.once()
        self._tending.once()

    def _follow_bundle(self) -> None:
        self._switch.follow()
        self.metrics.refused.set(self._switch.refused is not None)
        self._arms.follow(self._switch.funnel)

    def _take_posted(self) -> None:
        self._switch.funnel.catalogue.take_posted(self.store)
        self._arms.take_posted(self.store)

    def _write_log(self) -> None:
        if time.monotonic() - self._logged_s >= self.settings.log_seconds:
            self._logged_s = time.monotonic()
            self._log.write()

    def pin(self, version: str) -> None:
        """Serves a version of the bundle from the next tick on; "" what the pointer names."""
        self._switch.pin(version)

    def _note(self) -> None:
        self._health.note(self.metrics, self._switch, self._arms)

    def _clear_mirror(self) -> None:
        if storage.is_mirrored(self._root):
            noted = {note["versions"]["bundle"] for note in self._health.replicas.living()}
            self._switch.clear_mirror(noted | self._arms.bundles)

    def exposition(self) -> bytes:
        """All metrics, for Prometheus."""
        self._health.count(self.metrics)
        return self.metrics.text()

    def _follow_utility(self) -> None:
        utility = self._utility.follow(self._switch.funnel.bundle.vocabulary)
        if utility is not None:
            self._switch.use(utility)
        self.metrics.utility_refused.set(self._utility.refused is not None)

    def recommend(
        self, request: RecommendRequest, deadline_ms: float | None = None
    ) -> RecommendResponse:
        """Answers a request; whatever fails inside, there is a feed.

        Args:
            request: as it came.
            deadline_ms: time that the caller gives it, if less than `serve.budget_ms`.

        Raises:
            UserError: the request names something that is not there, or ids of the wrong type.
        """
        most_ms = min(self.settings.budget_ms, deadline_ms or self.settings.budget_ms)
        main, trace = self._switch.funnel, Trace(time.perf_counter() + most_ms / 1000)
        request = request.model_copy(update={"user_id": main.users.canonical_id(request.user_id)})
        arm, funnel = self._arms.of(request.user_id, main)
        remembered = self._feeds.get(request.user_id) is not None
        with trace.stage("total"):
            query, slate = self._slate(funnel, request, trace)
            item_ids = funnel.catalogue.external(slate.rows)
        request_id = self._request_ids.next()
        if query is not None:
            self._remember(request_id, query, slate, item_ids, funnel, arm)
        self._arms.shadow(arm, request, query, slate, main)
        self.metrics.observe(trace, slate, funnel.bundle.vocabulary.actions)
        self.metrics.users.labels("yes" if remembered else "no").inc()
        self.metrics.arms.labels(self.settings.experiment.name, arm).inc()
        return RecommendResponse(
            request_id=request_id,
            items=items_of(item_ids, slate, funnel.bundle.vocabulary.actions),
            versions=funnel.versions,
            fallback=trace.fallback,
            timings_ms=trace.timings_ms,
            debug=debug_of(funnel, trace) if request.debug else None,
        )

    def _slate(
        self, funnel: Funnel, request: RecommendRequest, trace: Trace
    ) -> tuple[Query | None, Slate]:
        query = None
        try:
            with trace.stage("user"):
                query = funnel.query(request, trace, self._shown_rows(funnel, request))
            slate = funnel.slate(query, request.num_items, trace)
        except UserError:
            raise
        except Exception as error:
            log.exception("the funnel failed; the user's last feed, or popular items, stand in")
            self._health.went(FUNNEL, error)
            version, last = self._feeds.get(request.user_id) or ("", NOTHING)
            if version == funnel.bundle.version:
                slate = funnel.showable(last, request, query)
                if len(slate.rows):
                    trace.fallbacks.add("cached")
                    return query, slate
        else:
            self._health.went(FUNNEL)
            if len(slate.rows):
                self._feeds.put(request.user_id, (funnel.bundle.version, slate))
                return query, slate
        trace.fallbacks.add("popular")
        return query, funnel.showable(funnel.popular(), request, query)

    def _shown_rows(self, funnel: Funnel, request: RecommendRequest) -> Any:
        user_id = funnel.users.canonical_id(request.user_id)
        items = self._shown.items(user_id, funnel.clock.now_ms())
        return funnel.catalogue.rows_of(items) if items else NO_ROWS

    def _remember(
        self,
        request_id: int,
        query: Query,
        slate: Slate,
        item_ids: list[int | str],
        funnel: Funnel,
        arm: str,
    ) -> None:
        self._shown.add(query.user.user_id, query.user.now_ms, item_ids)
        if self.settings.log_requests and item_ids:
            history = query.user.events.newest(funnel.bundle.longest_history)
            rows = (query.about, history.item, query.named)
            about, events, named = map(funnel.catalogue.external, rows)
            served = Served(
                request_id,
                query,
                about[0] if about else None,
                item_ids,
                history,
                events,
                named,
                slate,
                funnel.versions,
                (self.settings.experiment.name if arm else "", arm),
            )
            self._log.add(served, funnel.bundle.vocabulary.actions)

    def post_events(self, events: Sequence[Event]) -> EventsAccepted:
        """Appends events; they are on disk when this returns. Raises UserError."""
        accepted = post_events(self._switch.funnel, self.store, events)
        self.metrics.events.labels("accepted").inc(accepted.accepted)
        self.metrics.events.labels("duplicate").inc(accepted.duplicates)
        return accepted

    def post_items(self, items: Sequence[Item]) -> ItemsAccepted:
        """Adds items; on disk and recommendable when this returns. Raises UserError."""
        return post_items(self._switch.funnel, self.store, items)

    def similar(self, item_id: int | str, num_items: int) -> SimilarItems | None:
        """Items that are alike; None for an unknown item. Raises UserError."""
        funnel = self._switch.funnel
        row = funnel.catalogue.rows_of([item_id])
        if not funnel.catalogue.is_known(row).all():
            return None
        rows, scores = funnel.similar(row, num_items)
        pairs = zip(funnel.catalogue.external(rows), scores.tolist(), strict=True)
        return SimilarItems(
            item_id=funnel.catalogue.external(row)[0],
            items=[SimilarItem(item_id=identifier, score=score) for identifier, score in pairs],
            versions=funnel.bundle.versions,
        )

    def actions(self, user_id: int | str, limit: int) -> Actions:
        """The newest actions of a user, as the next feed reads them. Raises UserError."""
        funnel = self._switch.funnel
        user = funnel.read(user_id, Trace())
        newest = user.events.newest(limit)
        vocabulary = funnel.bundle.vocabulary
        names = (("", *vocabulary.actions), ("", *vocabulary.surfaces))
        rows = zip(
            funnel.catalogue.external(newest.item),
            (names[0][code] for code in newest.action),
            (names[1][code] for code in newest.surface),
            newest.timestamp.tolist(),
            strict=True,
        )
        done = [Action(item_id=i, action=a, surface=s, timestamp=t) for i, a, s, t in rows]
        return Actions(user_id=user.user_id, known=user.admitted, actions=done[::-1])

    def readiness(self) -> dict[str, Any]:
        """Whether there are feeds, and what they have to do without."""
        refused = self._switch.refused
        return {
            "ready": not self._closing,
            "bundle": self._switch.funnel.bundle.version,
            "refused": None if refused is None else asdict(refused),
            **self._health.told(self._switch, self._arms, self._utility),
        }

    def models(self) -> dict[str, Any]:
        """What serves, what it was made from, and which bundle or utility is refused, if any."""
        bundle = self._switch.funnel.bundle
        manifest = bundle.artifact.manifest
        return {
            "root": storage.uri_of(self._root.resolve()),
            "bundle": bundle.version,
            "versions": self._switch.funnel.versions,
            "utility": self._utility.describe(),
            "created": manifest.created,
            "parents": manifest.parents,
            "id_space": manifest.id_space,
            "actions": bundle.vocabulary.actions,
            "programs": sorted(bundle.programs),
            "example_users": middling_users(bundle, EXAMPLES),
            "posted_items": len(self._switch.funnel.catalogue.posted_rows),
            "store_sequence": {"bundle": bundle.store_sequence, "store": self._last_sequence()},
            "experiment": self._arms.describe(),
            "refused": self.readiness()["refused"],
            "replicas": self._health.replicas.living(),
        }

    def _last_sequence(self) -> int | None:
        """Number of what was posted last; None while the store does not tell."""
        if self._switch.funnel.breakers["store"].is_open:
            return None
        try:
            return self.store.last_sequence
        except StoreError:
            return None
