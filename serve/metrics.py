"""Prometheus metrics of a replica."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

from serve.stages import SEVERITY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client import Metric
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from serve.funnel import Slate
    from serve.stages import Trace

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
TENTHS = tuple(at / 10 for at in range(11))
PROBABILITIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
SCORES = (-5.0, -2.0, -1.0, -0.5, -0.2, -0.1, 0.0, *PROBABILITIES, 1.0, 2.0, 5.0)
KINDS = ("late", "shed", "open")  # of a source's failures; all others are errors


class Metrics:
    """What is counted, in a registry of its own.

    Labels take values of which a server has few: routes, stages, sources, actions, reasons, arms.

    Args:
        replica: name that all series carry, where several replicas answer at one address.
    """

    def __init__(self, replica: str = "") -> None:
        self._registry = CollectorRegistry()
        self._replica = replica
        self._versions: dict[str, str] = {}
        count = partial(Counter, registry=self._registry)
        level = partial(Gauge, registry=self._registry)
        time_of = partial(Histogram, registry=self._registry, buckets=SECONDS)
        self._of_feeds(count, time_of)
        self._of_sources(count, time_of)
        self._of_store(count, time_of)
        self._of_versions(level)
        self._of_arms(count, time_of)
        self.breakers = level("homefeed_breaker_open", "1 while a breaker is open", ["name"])

    def _of_feeds(self, count: partial[Counter], time_of: partial[Histogram]) -> None:
        self.requests = count("homefeed_requests", "HTTP requests", ["route", "status"])
        self.latency = time_of("homefeed_request_seconds", "Time to answer", ["route"])
        self.stages = time_of("homefeed_stage_seconds", "Time of a stage", ["stage"])
        self.feeds = _from_zero(
            count("homefeed_feeds", "Feeds, by the worst that they lacked", ["outcome"]),
            ("full", *SEVERITY),
        )
        self.users = _from_zero(
            count("homefeed_user_feeds", "Feeds by whether the last one is here", ["remembered"]),
            ("yes", "no"),
        )
        self.fallbacks = count("homefeed_fallbacks", "Feeds that lacked something", ["kind"])
        self.top_score = Histogram(
            "homefeed_top_score", "Best utility of a feed", registry=self._registry, buckets=SCORES
        )
        self.probability = Histogram(
            "homefeed_shown_probability",
            "Mean probability of an action over the items of a feed",
            ["action"],
            registry=self._registry,
            buckets=PROBABILITIES,
        )

    def _of_sources(self, count: partial[Counter], time_of: partial[Histogram]) -> None:
        self.failures = count(
            "homefeed_source_failures", "Sources late, shed, left alone, failed", ["source", "kind"]
        )
        self.source_seconds = time_of("homefeed_source_seconds", "Time of a source", ["source"])
        self.items = count("homefeed_recommended_items", "Items shown, by source", ["source"])
        self.dropped = count("homefeed_dropped_items", "Candidates dropped, by reason", ["reason"])

    def _of_store(self, count: partial[Counter], time_of: partial[Histogram]) -> None:
        self.store_seconds = time_of(
            "homefeed_store_seconds", "Time of a call of the store", ["operation"]
        )
        self.store_failures = count(
            "homefeed_store_failures", "Calls of the store that failed", ["operation"]
        )
        self.events = count("homefeed_events", "Posted events", ["outcome"])
        self.log_lost = count("homefeed_log_lost_items", "Shown items that were not logged")

    def _of_versions(self, level: partial[Gauge]) -> None:
        self.bundle = level("homefeed_bundle", "1 for the bundle that serves", ["version"])
        self.models = level("homefeed_model", "1 for each version in answers", ["model", "version"])
        self.current = level("homefeed_version_match", "1 while what serves is what CURRENT names")
        self.replicas = level("homefeed_replicas", "Replicas that serve a bundle", ["version"])
        self.refused = level("homefeed_bundle_refused", "1 while the newest bundle is refused")
        self.utility_refused = level("homefeed_utility_refused", "1 while utility.json is refused")

    def _of_arms(self, count: partial[Counter], time_of: partial[Histogram]) -> None:
        self.arms = count("homefeed_arm_requests", "Feeds by arm", ["experiment", "arm"])
        self.shadows = count("homefeed_shadow_requests", "Answers of shadows", ["arm", "outcome"])
        self.shadow_seconds = time_of(
            "homefeed_shadow_seconds", "Time of a shadow's answer", ["arm"]
        )
        self.shadow_overlap = Histogram(
            "homefeed_shadow_overlap",
            "Share of the served items that a shadow would have shown",
            ["arm"],
            registry=self._registry,
            buckets=TENTHS,
        )

    def serves(self, versions: Mapping[str, str], is_current: bool) -> None:
        """Tells which versions answers carry, and whether they are what the pointer names."""
        self.current.set(is_current)
        if versions == self._versions:
            return
        self._versions = dict(versions)
        self.bundle.clear()
        self.models.clear()
        self.bundle.labels(versions["bundle"]).set(1)
        for model in versions.keys() - {"bundle"}:
            self.models.labels(model, versions[model]).set(1)

    def observe(self, trace: Trace, slate: Slate, actions: tuple[str, ...]) -> None:
        """Counts an answered request for a feed."""
        self.feeds.labels(trace.fallback or "full").inc()
        for stage, milliseconds in trace.timings_ms.items():
            self.stages.labels(stage).observe(milliseconds / 1000)
        for kind in trace.fallbacks:
            self.fallbacks.labels(kind).inc()
        for reason, count in trace.drops.items():
            self.dropped.labels(reason).inc(count)
        for source, failure in trace.funnel.get("failures", {}).items():
            self.failures.labels(source, failure if failure in KINDS else "error").inc()
        for source in slate.sources:
            self.items.labels(source).inc()
        if slate.predictions.size:
            self.top_score.observe(float(slate.scores.max()))
            for action, mean in zip(actions, slate.predictions.mean(0).tolist(), strict=True):
                self.probability.labels(action).observe(mean)

    def observe_source(self, source: str, seconds: float) -> None:
        """Counts a call of a source that ended, in time or not."""
        self.source_seconds.labels(source).observe(seconds)

    def text(self) -> bytes:
        """The exposition format."""
        if not self._replica:
            return generate_latest(self._registry)
        return generate_latest(Named(self._registry, self._replica))


def _from_zero(counter: Counter, values: Iterable[str]) -> Counter:
    """A counter with the values of its label, so that a share of none is 0."""
    for value in values:
        counter.labels(value)
    return counter


class Named(Collector):
    """Series of one replica among several.

    Args:
        registry: where they are.
        replica: its name.
    """

    def __init__(self, registry: CollectorRegistry, replica: str) -> None:
        self._registry = registry
        self._label = {"replica": replica}

    def collect(self) -> Iterable[Metric]:
        """The same with a label more."""
        for metric in self._registry.collect():
            samples = [s._replace(labels={**s.labels, **self._label}) for s in metric.samples]
            metric.samples = samples
            yield metric


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
