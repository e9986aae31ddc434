"""Prometheus metrics of a replica."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from serve.stages import Trace

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """What is counted, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "homefeed_requests", "HTTP requests", ["route", "status"], registry=registry
        )
        self.latency = Histogram(
            "homefeed_request_seconds",
            "Time to answer",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "homefeed_stage_seconds",
            "Time of a stage",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.fallbacks = Counter(
            "homefeed_fallbacks", "Feeds that lacked something", ["kind"], registry=registry
        )
        self.failures = Counter(
            "homefeed_source_failures",
            "Sources late, shed or failed",
            ["source"],
            registry=registry,
        )
        self.items = Counter(
            "homefeed_recommended_items", "Items shown, by source", ["source"], registry=registry
        )
        self.events = Counter("homefeed_events", "Posted events", ["outcome"], registry=registry)
        self.log_lost = Counter(
            "homefeed_log_lost_items", "Shown items that were not logged", registry=registry
        )
        self.bundle = Gauge(
            "homefeed_bundle", "1 for the bundle that serves", ["version"], registry=registry
        )
        self.refused = Gauge(
            "homefeed_bundle_refused", "1 while the newest bundle is refused", registry=registry
        )
        self.utility_refused = Gauge(
            "homefeed_utility_refused", "1 while utility.json is refused", registry=registry
        )
        self.shadows = Counter(
            "homefeed_shadow_requests", "Answers of shadows", ["arm", "outcome"], registry=registry
        )
        self.shadow_overlap = Histogram(
            "homefeed_shadow_overlap",
            "Share of the served items that a shadow would have shown",
            ["arm"],
            buckets=[at / 10 for at in range(11)],
            registry=registry,
        )
        self.shadow_seconds = Histogram(
            "homefeed_shadow_seconds",
            "Time of a shadow's answer",
            ["arm"],
            buckets=SECONDS,
            registry=registry,
        )
        self.arms = Counter(
            "homefeed_arm_requests", "Feeds by arm", ["experiment", "arm"], registry=registry
        )
        self.dropped = Counter(
            "homefeed_dropped_items", "Candidates dropped, by reason", ["reason"], registry=registry
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
