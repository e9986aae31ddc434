"""Prometheus metrics of a replica."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from serve.stages import Trace

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
TENTHS = tuple(at / 10 for at in range(11))


class Metrics:
    """What is counted, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        count = partial(Counter, registry=self._registry)
        level = partial(Gauge, registry=self._registry)
        time_of = partial(Histogram, registry=self._registry, buckets=SECONDS)
        share = partial(Histogram, registry=self._registry, buckets=TENTHS)
        self.requests = count("homefeed_requests", "HTTP requests", ["route", "status"])
        self.latency = time_of("homefeed_request_seconds", "Time to answer", ["route"])
        self.stages = time_of("homefeed_stage_seconds", "Time of a stage", ["stage"])
        self.fallbacks = count("homefeed_fallbacks", "Feeds that lacked something", ["kind"])
        self.failures = count(
            "homefeed_source_failures", "Sources late, shed or failed", ["source"]
        )
        self.items = count("homefeed_recommended_items", "Items shown, by source", ["source"])
        self.dropped = count("homefeed_dropped_items", "Candidates dropped, by reason", ["reason"])
        self.events = count("homefeed_events", "Posted events", ["outcome"])
        self.log_lost = count("homefeed_log_lost_items", "Shown items that were not logged")
        self.bundle = level("homefeed_bundle", "1 for the bundle that serves", ["version"])
        self.refused = level("homefeed_bundle_refused", "1 while the newest bundle is refused")
        self.utility_refused = level("homefeed_utility_refused", "1 while utility.json is refused")
        self.arms = count("homefeed_arm_requests", "Feeds by arm", ["experiment", "arm"])
        self.shadows = count("homefeed_shadow_requests", "Answers of shadows", ["arm", "outcome"])
        self.shadow_seconds = time_of(
            "homefeed_shadow_seconds", "Time of a shadow's answer", ["arm"]
        )
        self.shadow_overlap = share(
            "homefeed_shadow_overlap",
            "Share of the served items that a shadow would have shown",
            ["arm"],
        )

    def observe(self, trace: Trace, sources: list[str]) -> None:
        """Counts an answered request for a feed."""
        for stage, milliseconds in trace.timings_ms.items():
            self.stages.labels(stage).observe(milliseconds / 1000)
        for kind in trace.fallbacks:
            self.fallbacks.labels(kind).inc()
        for reason, count in trace.drops.items():
            self.dropped.labels(reason).inc(count)
        for source in trace.funnel.get("failures", {}):
            self.failures.labels(source).inc()
        for source in sources:
            self.items.labels(source).inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


class RequestMetrics:
    """ASGI middleware that counts and times requests by route and status.

    Args:
        app: what is measured.
        metrics: where it is counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, status).inc()
            self._metrics.latency.labels(route).observe(time.perf_counter() - started)
