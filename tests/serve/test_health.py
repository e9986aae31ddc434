"""What a server tells of itself while something is wrong."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from data.contract.artifact import write_atomically
from serve.api import create_api
from serve.experiments import Arm, Experiment
from serve.feed import Feed
from serve.messages import Event, RecommendRequest
from serve.metrics import SCORES
from serve.replicas import Replicas
from serve.settings import ServeSettings
from serve.store import StoreError
from tests.asgi_client import Client


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("broken by the test")


def value(feed: Feed, series: str, /, **labels: str) -> float | None:
    families = text_string_to_metric_families(feed.exposition().decode())
    found = [
        s.value for f in families for s in f.samples if s.name == series and s.labels == labels
    ]
    return found[0] if found else None


def test_a_source_that_is_left_alone_is_told(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    feed.tick()
    assert feed.readiness()["degraded"] == {}
    with monkeypatch.context() as patched:
        patched.setattr(type(feed._switch.funnel.catalogue), "nearest", broken)
        for _ in range(feed.settings.breaker_failures):
            feed.recommend(RecommendRequest(user_id=3))
    feed.tick()
    found = feed.readiness()
    assert found["open_breakers"] == ["two_tower"]
    assert "failed 5 times in a row" in found["degraded"]["two_tower"]
    assert found["ready"] is True
    assert value(feed, "homefeed_breaker_open", name="two_tower") == 1
    assert value(feed, "homefeed_breaker_open", name="popular") == 0
    counted = {"source": "two_tower", "kind": "error"}
    assert value(feed, "homefeed_source_failures_total", **counted) == 5


def test_a_funnel_that_fails_is_told_until_it_makes_a_feed_again(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(feed._switch.funnel, "slate", broken)
        for _ in range(100):
            feed.recommend(RecommendRequest(user_id=3))
    assert "broken by the test" in feed.readiness()["degraded"]["making feeds"]
    assert len([record for record in caplog.records if record.exc_info]) == 1
    feed.recommend(RecommendRequest(user_id=3))
    assert feed.readiness()["degraded"] == {}


def test_a_breaker_of_a_bundle_that_is_gone_is_shut(
    feed: Feed, root: Path, publish_bundle: Callable[..., Path]
) -> None:
    for _ in range(feed.settings.breaker_failures):
        feed._switch.funnel.breakers["ranker"].note(False)
    feed.tick()
    assert value(feed, "homefeed_breaker_open", name="ranker") == 1
    publish_bundle(root, "v2")
    feed.tick()
    assert feed.readiness()["open_breakers"] == []
    assert value(feed, "homefeed_breaker_open", name="ranker") == 0


def test_a_canarys_breaker_is_told_with_its_arm(
    root: Path, settings: ServeSettings, publish_bundle: Callable[..., Path]
) -> None:
    publish_bundle(root, "v2")
    write_atomically(root / "bundles" / "CURRENT", "v1")
    trial = Experiment(name="try", arms={"canary": Arm(share=0.5, bundle="v2")})
    feed = Feed(root, replace(settings, experiment=trial), background=False)
    for _ in range(settings.breaker_failures):
        feed._arms._funnels["canary"].breakers["ranker"].note(False)
    assert feed.readiness()["open_breakers"] == ["canary/ranker"]
    feed.close()


def test_what_fails_in_the_background_is_told_and_stops_nothing_else(
    feed: Feed, root: Path, monkeypatch: pytest.MonkeyPatch, publish_bundle: Callable[..., Path]
) -> None:
    feed.recommend(RecommendRequest(user_id=3))
    feed._logged_s = -math.inf
    with monkeypatch.context() as patched:
        patched.setattr(feed.store._store, "documents", broken)
        publish_bundle(root, "v2")
        feed.tick()
    assert feed.readiness()["degraded"]["taking in posted items"].startswith("StoreError")
    assert feed.readiness()["bundle"] == "v2"
    assert list((root / "requests").rglob("*.parquet"))
    feed.tick()
    assert feed.readiness()["degraded"] == {}


def test_a_bundle_is_not_refused_because_the_store_is_away(
    feed: Feed, root: Path, monkeypatch: pytest.MonkeyPatch, publish_bundle: Callable[..., Path]
) -> None:
    publish_bundle(root, "v2")
    with monkeypatch.context() as patched:
        patched.setattr(feed.store._store, "skip_to", broken)
        feed.tick()
    assert feed.models()["bundle"] == "v2"
    assert feed.models()["refused"] is None
    assert value(feed, "homefeed_store_failures_total", operation="skip_to") == 1


def test_what_serves_is_told_while_the_store_is_away(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counting(*_: Any) -> Any:
        calls.append(1)
        return broken()

    for name in ("actions", "documents"):
        monkeypatch.setattr(feed.store._store, name, counting)
    monkeypatch.setattr(type(feed.store._store), "last_sequence", property(counting))
    assert feed.models()["store_sequence"] == {"bundle": 0, "store": None}
    for _ in range(feed.settings.breaker_failures):
        feed.recommend(RecommendRequest(user_id=3))
    asked = len(calls)
    assert feed.models()["store_sequence"]["store"] is None
    assert feed.readiness()["open_breakers"] == ["store"]
    assert len(calls) == asked


def test_what_cannot_be_kept_is_not_acknowledged(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(create_api(feed))
    event = {"user_id": 3, "item_id": 1005, "action": "save", "event_id": "a"}
    with monkeypatch.context() as patched:
        patched.setattr(feed.store._store, "append", broken)
        answer = client("POST", "/v1/events", json=event)
        with pytest.raises(StoreError, match="append"):
            feed.post_events([Event(user_id=3, item_id=1005, action="save")])
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert client("POST", "/v1/events", json=event).json()["accepted"] == 1


def test_nothing_is_posted_to_a_store_that_is_left_alone(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, posted = Client(create_api(feed)), []
    monkeypatch.setattr(feed.store._store, "actions", broken)
    for name in ("append", "put_items"):
        monkeypatch.setattr(feed.store._store, name, lambda documents: posted.append(documents))
    for _ in range(feed.settings.breaker_failures):
        feed.recommend(RecommendRequest(user_id=3))
    event, item = {"user_id": 3, "item_id": 1005, "action": "save"}, {"item_id": 5000}
    answers = [client("POST", "/v1/events", json=event), client("POST", "/v1/items", json=item)]
    assert [(one.status_code, one.headers["retry-after"]) for one in answers] == [(503, "1")] * 2
    assert posted == []


def test_a_post_that_succeeds_ends_the_time_in_which_the_store_is_left_alone(feed: Feed) -> None:
    breaker = feed._switch.funnel.breakers["store"]
    for _ in range(feed.settings.breaker_failures):
        breaker.note(False)
    breaker._retry_at = 0.0
    assert feed.post_events([Event(user_id=3, item_id=1005, action="save")]).accepted == 1
    assert not breaker.is_open


def test_a_server_that_is_closing_is_not_ready(root: Path, settings: ServeSettings) -> None:
    feed = Feed(root, settings)
    client = Client(create_api(feed))
    assert client("GET", "/readyz").status_code == 200
    assert len(feed.models()["replicas"]) == 1
    feed.close()
    assert client("GET", "/readyz").status_code == 503
    assert list((root / "replicas").iterdir()) == []


def test_a_note_that_cannot_be_left_is_told_and_stops_nothing(
    root: Path, settings: ServeSettings
) -> None:
    (root / "replicas").write_text("a file where the folder should be")
    feed = Feed(root, settings)
    assert "telling of itself" in feed.readiness()["degraded"]
    assert len(feed.recommend(RecommendRequest(user_id=3)).items) == 10
    feed.close()


def test_versions_in_answers_are_told_and_whether_they_are_current(
    feed: Feed, root: Path, publish_bundle: Callable[..., Path]
) -> None:
    assert value(feed, "homefeed_version_match") == 1
    assert value(feed, "homefeed_model", model="ranker", version="r1") == 1
    publish_bundle(root, "v2")
    (root / "bundles" / "v2" / "popular.npy").unlink()
    feed.tick()
    assert value(feed, "homefeed_version_match") == 0
    assert value(feed, "homefeed_bundle", version="v1") == 1
    assert "lacks popular.npy" in feed.readiness()["degraded"]["bundle"]
    publish_bundle(root, "v2")
    feed.tick()
    assert value(feed, "homefeed_version_match") == 1
    assert value(feed, "homefeed_bundle", version="v1") is None
    assert value(feed, "homefeed_bundle", version="v2") == 1
    assert value(feed, "homefeed_replicas", version="v2") == 1


def test_each_replica_tells_of_all(root: Path, settings: ServeSettings) -> None:
    other = Replicas(root)
    other.note({"versions": {"bundle": "v0"}})
    feed = Feed(root, replace(settings, replicas=2), background=False)
    feed.tick()
    found = [note["versions"]["bundle"] for note in feed.models()["replicas"]]
    assert sorted(found) == ["v0", "v1"]
    name = feed._health.replicas.name
    for version in ("v0", "v1"):
        assert value(feed, "homefeed_replicas", version=version, replica=name) == 1
    assert value(feed, "homefeed_version_match", replica=name) == 1
    feed.close()


def test_scores_and_probabilities_of_what_is_shown_are_counted(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = feed.recommend(RecommendRequest(user_id=3))
    best = max(item.score for item in answer.items)
    at = int(np.searchsorted(SCORES, best))
    buckets = [value(feed, "homefeed_top_score_bucket", le=str(b)) for b in SCORES[at - 1 : at + 1]]
    assert buckets == [0, 1]
    saves = [item.predictions["save"] for item in answer.items]
    found = value(feed, "homefeed_shown_probability_sum", action="save")
    assert found == pytest.approx(sum(saves) / len(saves), rel=1e-5)
    assert value(feed, "homefeed_feeds_total", outcome="full") == 1
    monkeypatch.setattr(feed._switch.funnel.ranker, "rank", broken)
    feed.recommend(RecommendRequest(user_id=3))
    assert value(feed, "homefeed_feeds_total", outcome="unranked") == 1
    assert value(feed, "homefeed_top_score_count") == 1
