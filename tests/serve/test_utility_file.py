import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.contract.artifact import read, write_atomically
from data.contract.settings import UserError, build
from serve import utility_file
from serve.feed import Feed
from serve.messages import Item, RecommendRequest, RecommendResponse
from serve.settings import ServeSettings
from serve.utility import UtilitySettings

TOPIC = {"weights": {"click": 1.0}, "column": "interests", "values": ["topic2"]}


def ask(feed: Feed, user_id: int = 3, **fields: Any) -> RecommendResponse:
    return feed.recommend(RecommendRequest(user_id=user_id, debug=True, **fields))


def say(root: Path, tree: Any) -> None:
    write_atomically(root / "utility.json", tree if isinstance(tree, str) else json.dumps(tree))


def scores(answer: RecommendResponse, weights: dict[str, float]) -> list[float]:
    return [sum(weights[a] * p for a, p in i.predictions.items()) for i in answer.items]


def of_topic(answer: RecommendResponse) -> int:
    rows = [int(item.item_id) - 1000 for item in answer.items]
    return sum(row % 5 == 2 and row % 3 > 0 for row in rows)


def test_a_running_feed_takes_new_weights_without_a_restart(root: Path, feed: Feed) -> None:
    before = ask(feed)
    say(root, {"weights": {"hide": -9}})
    assert ask(feed).versions == before.versions, "until it looks"
    feed.tick()
    after = ask(feed)
    assert after.versions["utility"] != before.versions["utility"]
    assert feed.models()["versions"] == after.versions
    assert feed.models()["utility"]["settings"]["weights"] == {"hide": -9}
    weights = {"save": 1.0, "click": 1.0, "hide": -9.0}
    np.testing.assert_allclose([i.score for i in after.items], scores(after, weights), atol=1e-5)
    (root / "utility.json").unlink()
    feed.tick()
    assert ask(feed).versions == before.versions
    assert [i.item_id for i in ask(feed).items] == [i.item_id for i in before.items]


def test_the_background_thread_takes_it_within_poll_seconds(root: Path) -> None:
    settings = ServeSettings(
        poll_seconds=0.05, budget_ms=60_000.0, deadlines_ms={"default": 30_000.0}, clock="log"
    )
    feed = Feed(root, settings)
    before, end = ask(feed).versions, time.monotonic() + 20
    say(root, {"weights": {"save": 3}})
    while (after := ask(feed).versions) == before and time.monotonic() < end:
        time.sleep(0.01)
    feed.close()
    assert after["utility"] == UtilitySettings(weights={"save": 3.0}).version


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "an object, found list"),
        ({"weigths": {}}, "unknown setting weigths; did you mean weights?"),
        ({"weights": {"zap": 1}}, r"weights\.zap names no action; known are save, click, hide"),
        ({"weights": {"save": "much"}}, r"weights\.save"),
        ({"gates": {"hide": 2}}, r"gates\.hide"),
        ({"parties": {"ad": {"weights": {"click": 1}, "column": "campaign"}}}, "campaign names no"),
    ],
)
def test_a_broken_file_is_refused_and_the_old_weights_stay(
    root: Path, feed: Feed, content: Any, reason: str
) -> None:
    say(root, {"weights": {"hide": -9}})
    feed.tick()
    before = ask(feed)
    say(root, content)
    feed.tick()
    told = feed.models()["utility"]
    assert told["refused"].startswith(str(root / "utility.json"))
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(told["refused"])
    assert ask(feed).versions == before.versions
    assert [i.score for i in ask(feed).items] == [i.score for i in before.items]
    assert b"homefeed_utility_refused 1.0" in feed.metrics.text()
    say(root, {"weights": {"hide": -9}})
    feed.tick()
    assert feed.models()["utility"]["refused"] is None
    assert b"homefeed_utility_refused 0.0" in feed.metrics.text()


def test_a_file_that_cannot_be_read_is_refused(root: Path, feed: Feed) -> None:
    (root / "utility.json").mkdir()
    feed.tick()
    assert "cannot be read" in feed.models()["utility"]["refused"]
    assert len(ask(feed).items) == 10


def test_a_feed_starts_with_the_file_or_without_a_broken_one(
    root: Path, settings: ServeSettings
) -> None:
    say(root, {"weights": {"click": 2}})
    feed = Feed(root, settings, background=False)
    assert feed.models()["utility"]["settings"]["weights"] == {"click": 2}
    feed.close()
    say(root, "{")
    feed = Feed(root, settings, background=False)
    assert ask(feed).versions["utility"] == settings.utility.version
    assert feed.models()["utility"]["refused"]
    feed.close()


def test_the_file_overrides_what_it_names_and_keeps_the_rest(
    root: Path, settings: ServeSettings
) -> None:
    set_to = build(
        UtilitySettings, {"weights": {"hide": -2.0}, "parties": {"topic": TOPIC}, "form": "product"}
    )
    feed = Feed(root, replace(settings, utility=set_to), background=False)
    say(root, {"weights": {"save": 2}, "party_weights": {"topic": 5}})
    feed.tick()
    told = feed.models()["utility"]["settings"]
    assert told["weights"] == {"hide": -2, "save": 2}
    assert told["party_weights"] == {"topic": 5}
    assert told["form"] == "product"
    assert utility_file.in_force(root, set_to).party_weights == {"topic": 5}
    feed.close()


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    settings = build(
        UtilitySettings, {"parties": {"topic": TOPIC}, "party_weights": {"topic": 0.5}}
    )
    assert utility_file.in_force(tmp_path, settings) == settings
    utility_file.write(tmp_path, settings)
    assert utility_file.in_force(tmp_path, UtilitySettings()) == settings
    say(tmp_path, "{")
    with pytest.raises(UserError, match=r"utility\.json: not valid JSON"):
        utility_file.in_force(tmp_path, settings)


def test_a_new_bundle_serves_under_the_same_utility(
    root: Path, feed: Feed, publish_bundle: Callable[..., Path]
) -> None:
    say(root, {"weights": {"hide": -9}})
    feed.tick()
    utility = ask(feed).versions["utility"]
    publish_bundle(root, "v2")
    feed.tick()
    assert ask(feed).versions["bundle"] == "v2"
    assert ask(feed).versions["utility"] == utility
    publish_bundle(root, "v3")
    say(root, {})
    feed.tick()
    assert ask(feed).versions["bundle"] == "v3"
    assert ask(feed).versions["utility"] == UtilitySettings().version


def test_a_partys_weight_moves_its_items_up(root: Path, feed: Feed) -> None:
    users = range(1, 21)
    before = sum(of_topic(ask(feed, user)) for user in users)
    say(root, {"parties": {"topic": TOPIC}, "party_weights": {"topic": 50}})
    feed.tick()
    after = sum(of_topic(ask(feed, user)) for user in users)
    assert after > 2 * before


def test_posted_items_are_a_partys_by_their_columns(root: Path, feed: Feed) -> None:
    content = [1.0] + [0.0] * 7
    feed.post_items([Item(item_id=5000, content=content, interests=["topic2", "topic4"])])
    feed.post_items([Item(item_id=5001, content=content, interests=["topic4"])])
    say(root, {"parties": {"topic": TOPIC}, "party_weights": {"topic": 100}})
    feed.tick()
    found = {item.item_id: item for item in ask(feed, 999, num_items=100).items}
    for item_id, weight in ((5000, 100), (5001, 0)):
        p = found[item_id].predictions
        expected = p["save"] + p["click"] - p["hide"] + weight * p["click"]
        assert found[item_id].score == pytest.approx(expected, abs=1e-4)


def test_a_gate_drops_items_and_the_trace_counts_them(root: Path, feed: Feed) -> None:
    before = ask(feed)
    assert "gate" not in before.debug["dropped"]
    limit = float(np.median([i.predictions["hide"] for i in ask(feed, num_items=100).items]))
    say(root, {"gates": {"hide": limit}})
    feed.tick()
    after = ask(feed)
    assert after.debug["dropped"]["gate"] > 0
    assert all(item.predictions["hide"] <= limit for item in after.items)
    assert b'homefeed_dropped_items_total{reason="gate"}' in feed.metrics.text()


@pytest.mark.parametrize("surface", ["home", "related"])
def test_a_gate_never_lets_a_feed_run_empty(root: Path, feed: Feed, surface: str) -> None:
    context = {"item_id": 1005} if surface == "related" else {}
    before = ask(feed, surface=surface, context=context)
    say(root, {"gates": {"hide": 0}})
    feed.tick()
    after = ask(feed, surface=surface, context=context)
    assert len(after.items) == len(before.items) == 10
    assert after.fallback is False
    assert after.debug["dropped"]["gate"] == after.debug["candidates"] - 10


def test_the_retrieval_score_ranks_where_nothing_is_predicted(
    root: Path, publish_bundle: Callable[..., Path], settings: ServeSettings
) -> None:
    utility = build(UtilitySettings, {"gates": {"hide": 0.1}, "parties": {"topic": TOPIC}})
    publish_bundle(root, "v2", ranker=False)
    feed = Feed(root, replace(settings, utility=utility), background=False)
    answer = ask(feed)
    feed.close()
    assert len(answer.items) == 10
    assert "gate" not in answer.debug["dropped"]


def test_a_file_that_names_what_the_next_bundle_has_is_in_force_once_that_serves(
    root: Path,
    feed: Feed,
    publish_bundle: Callable[..., Path],
    edit_manifest: Callable[[Path, dict[str, Any]], None],
) -> None:
    say(root, {"weights": {"mute": -7}})
    feed.tick()
    assert "mute names no action" in feed.models()["utility"]["refused"]
    publish_bundle(root, "v2")
    folder = root / "bundles" / "v2"
    details = read(folder).manifest.details
    vocabulary = details["vocabulary"] | {"actions": ["save", "click", "mute"]}
    edit_manifest(folder, {"details": details | {"vocabulary": vocabulary}})
    for _ in range(2):  # the first serves the bundle
        feed.tick()
    assert feed.models()["bundle"] == "v2"
    assert feed.models()["utility"]["refused"] is None
    assert feed.models()["utility"]["settings"]["weights"] == {"mute": -7}
    weights = {"save": 1.0, "click": 1.0, "mute": -7.0}
    answer = ask(feed)
    np.testing.assert_allclose([i.score for i in answer.items], scores(answer, weights), atol=1e-5)
    serving = feed._switch.funnel
    feed.tick()
    assert feed._switch.funnel is serving, "nothing has changed"
