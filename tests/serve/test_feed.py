import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.contract.artifact import read, write_atomically
from data.contract.encode import encode_history
from data.contract.settings import UserError
from serve.feed import Feed
from serve.messages import Context, Event, Item, RecommendRequest, RecommendResponse
from serve.request_ids import RequestIds
from serve.settings import ServeSettings
from serve.stages import Trace
from serve.utility import UtilitySettings

FRESH_NOW = 1_767_225_600_000 + 10 * 86_400_000
ACTION_WEIGHTS = np.array([4.0, 2.0, -3.0], np.float32)


OWN_SOURCE = """
import numpy as np
from serve.candidates import Found

class Oldest:
    name = "oldest"

    def __init__(self, bundle, catalogue):
        self.rows = np.asarray(bundle.live_items)

    def applies(self, query):
        return True

    def __call__(self, query, limit):
        return Found(self.name, self.rows[:limit], -np.arange(limit, dtype=np.float32))
"""


def ask(feed: Feed, user_id: int | str, **fields: Any) -> RecommendResponse:
    return feed.recommend(RecommendRequest(user_id=user_id, debug=True, **fields))


def shown(answer: RecommendResponse) -> list[int | str]:
    return [item.item_id for item in answer.items]


def acted_on(feed: Feed, user_id: int) -> set[int]:
    funnel = feed._switch.funnel
    user = funnel.users.read(user_id, feed.store, funnel.clock.now_ms())
    return set(funnel.catalogue.external(user.seen))


def content_of(feed: Feed, item_ids: list[Any]) -> Any:
    catalogue = feed._switch.funnel.catalogue
    return catalogue.features(catalogue.rows_of(item_ids))["item.content"]


def test_a_known_user_gets_a_full_feed_without_what_they_acted_on(feed: Feed) -> None:
    for user_id in range(1, 51):
        answer = ask(feed, user_id)
        assert len(set(shown(answer))) == 10
        assert answer.fallback is False
        assert not acted_on(feed, user_id) & set(shown(answer))


def test_scores_are_those_of_the_ranker_over_the_newest_events(feed: Feed, root: Path) -> None:
    funnel = feed._switch.funnel
    bundle = funnel.bundle
    user = funnel.users.read(3, feed.store, 0)
    newest = user.events.item[-4:]
    table = np.load(root / "bundles" / "v1" / "tables" / "ranker.item_id.npy")
    users = np.load(root / "bundles" / "v1" / "tables" / "ranker.user_id.npy")
    past = table[newest] + funnel.catalogue.features(newest)["item.content"]
    state = users[user.row] + past.sum(0)
    answer = ask(feed, 3)
    rows = funnel.catalogue.rows_of(shown(answer))
    match = (table[rows] + content_of(feed, shown(answer))) @ state
    expected = 1 / (1 + np.exp(-match[:, None] * ACTION_WEIGHTS))
    got = [
        [item.predictions[action] for action in bundle.vocabulary.actions] for item in answer.items
    ]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    utility = expected @ np.array([1, 1, -1])
    np.testing.assert_allclose([item.score for item in answer.items], utility, atol=1e-5)


def test_encoded_history_is_that_of_training(feed: Feed) -> None:
    funnel = feed._switch.funnel
    user = funnel.users.read(3, feed.store, FRESH_NOW)
    inputs = funnel.ranker.user_inputs(user)
    row = user.row
    start, end = funnel.bundle.histories.offsets[row : row + 2]
    whole = funnel.bundle.histories.cut(np.array([start]), np.array([end - start]))
    expected = encode_history(whole.newest(4), np.array([FRESH_NOW]))
    for name, array in expected.items():
        np.testing.assert_array_equal(inputs[name], array)


def test_a_posted_event_is_reflected_in_the_next_request(feed: Feed) -> None:
    before = ask(feed, 3)
    liked = before.items[0].item_id
    feed.post_events([Event(user_id=3, item_id=liked, action="save")])
    after = ask(feed, 3)
    assert liked not in shown(after)
    same = {item.item_id: item.predictions for item in before.items}
    assert any(
        same[item.item_id] != item.predictions for item in after.items if item.item_id in same
    )


def test_an_unknown_user_gets_popular_and_fresh_items_ranked(feed: Feed) -> None:
    answer = ask(feed, 999_999)
    assert len(answer.items) == 10
    assert answer.fallback is False
    assert {item.source for item in answer.items} <= {"popular", "fresh"}
    assert set(answer.debug["found"]) == {"popular", "fresh"}
    assert all(item.predictions for item in answer.items)


def test_a_new_user_is_known_after_the_first_event(feed: Feed) -> None:
    liked = 1042
    feed.post_events([Event(user_id=777, item_id=liked, action="click")])
    answer = ask(feed, 777)
    assert "two_tower" in answer.debug["found"]
    assert liked not in shown(answer)
    assert answer.fallback is False


def test_excluded_items_are_never_shown(feed: Feed) -> None:
    first = shown(ask(feed, 3))
    second = shown(ask(feed, 3, exclude=first))
    assert not set(first) & set(second)
    assert len(second) == 10


def test_a_negative_action_lowers_what_is_alike(feed: Feed, settings: ServeSettings) -> None:
    weights = feed._switch.funnel.utility.weights
    assert weights.tolist() == [1.0, 1.0, -1.0]


def test_related_items_come_from_the_context_item(feed: Feed) -> None:
    answer = ask(feed, 3, surface="related", context=Context(item_id=1005), num_items=50)
    assert 1005 not in shown(answer)
    assert set(answer.debug["found"]) == {"related", "popular"}
    near = {one.item_id for one in feed.similar(1005, 60).items}
    related = [item.item_id for item in answer.items if item.source == "related"]
    assert related
    assert len(set(related) - near) <= len(related) // 2


@pytest.mark.parametrize("surface", ["home", "related"])
@pytest.mark.parametrize("failing", [False, True])
def test_no_feed_shows_the_item_that_it_is_about_nor_its_copies(
    root: Path,
    publish_bundle: Callable[..., Path],
    settings: ServeSettings,
    monkeypatch: pytest.MonkeyPatch,
    surface: str,
    failing: bool,
) -> None:
    """Neither what all like, nor what the user does, nor what stands in for either."""
    feed = Feed(publish_bundle(root, "v2", graph=True), settings, background=False)
    funnel = feed._switch.funnel
    if failing:
        monkeypatch.setattr(funnel, "slate", broken)
    two_tower = [] if failing else shown(ask(feed, 3))[:5]
    popular = funnel.catalogue.external(np.asarray(funnel.bundle.popular[:10]))
    for item in (*two_tower, *popular, *range(1000, 1010)):
        answer = ask(feed, 3, surface=surface, context=Context(item_id=item), num_items=60)
        copies = funnel.catalogue.with_copies(funnel.catalogue.rows_of([item]))
        assert not set(funnel.catalogue.external(copies)) & set(shown(answer))
        assert len(answer.items) == 60
    feed.close()


def test_interests_restrict_their_source_to_items_that_carry_them(feed: Feed) -> None:
    answer = ask(feed, 999, context=Context(interests=["topic3"]), num_items=50)
    found = [int(item.item_id) - 1000 for item in answer.items if item.source == "interests"]
    assert found
    assert all(i % 5 == 3 and i % 3 > 0 for i in found)


@pytest.mark.parametrize("limit", [4, 20, 40])
def test_interests_of_a_new_user_take_turns_in_the_order_of_popularity(
    feed: Feed, limit: int
) -> None:
    """Also where one of them has as many items as are wanted of all."""
    funnel = feed._switch.funnel
    named = Context(interests=["topic1", "topic2", "topic3", "topic4"])
    query = funnel.query(RecommendRequest(user_id=999, context=named), Trace())
    rows = next(one for one in funnel.sources if one.name == "interests")(query, limit).rows
    topics = (np.array(funnel.catalogue.external(rows)) - 1000) % 5
    assert len(set(rows.tolist())) == limit
    assert np.bincount(topics, minlength=5).tolist() == [0, *[limit // 4] * 4]
    places = {row: place for place, row in enumerate(funnel.bundle.popular.tolist())}
    for topic in range(1, 5):
        of_topic = [places[row] for row in rows[topics == topic].tolist()]
        assert of_topic == sorted(of_topic)


def test_an_unknown_interest_changes_nothing(feed: Feed) -> None:
    answer = ask(feed, 999, context=Context(interests=["no such topic"]))
    assert len(answer.items) == 10
    assert answer.fallback is False


def test_a_query_vector_retrieves_what_is_near_it(feed: Feed) -> None:
    vector = feed._switch.funnel.bundle.item_embeddings[50]
    wanted = feed._switch.funnel.catalogue.external(np.array([50]))[0]
    answer = ask(feed, 999, context=Context(query_vector=vector.tolist()), num_items=100)
    assert {item.item_id: item.source for item in answer.items}[wanted] == "related"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"context": Context(item_id=5)}, "context.item_id 5 is no item"),
        ({"context": Context(query_vector=[1.0, 2.0])}, "the item space has 8"),
        ({"surface": "related"}, "needs context.item_id"),
        ({"surface": "related", "context": Context(interests=["topic1"])}, "needs context.item_id"),
        ({"exclude": ["abc"]}, "item ids are 64-bit integers"),
    ],
)
def test_a_request_that_names_nothing_is_refused_with_the_reason(
    feed: Feed, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        ask(feed, 3, **fields)


def test_numeric_strings_are_ids_too(feed: Feed) -> None:
    assert shown(ask(feed, "3")) == shown(ask(feed, 3))
    with pytest.raises(UserError, match="user ids are 64-bit integers here; got 'x'"):
        ask(feed, "x")
    for wrong in (str(2**63), "9" * 5000, "1_0", " 3", "٣"):
        with pytest.raises(UserError, match="64-bit"):
            feed._switch.funnel.users.canonical_id(wrong)


def test_near_duplicates_are_shown_once(feed: Feed) -> None:
    """Items 1000 and 1001 share an image signature, as do 1002 and 1003 and so on."""
    answer = ask(feed, 999, num_items=100)
    pairs = [(int(item) - 1000) // 2 for item in shown(answer) if int(item) < 1010]
    assert len(pairs) == len(set(pairs))


def test_a_creator_is_capped_in_the_head_of_the_feed(feed: Feed) -> None:
    answer = ask(feed, 3, num_items=100)
    creators = [int(item) % 40 for item in shown(answer)]
    _, counts = np.unique(creators[:50], return_counts=True)
    assert counts.max() <= 3


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("broken by the test")


def test_each_source_has_its_least_share_of_the_shown_items(
    root: Path, settings: ServeSettings
) -> None:
    feed = Feed(root, replace(settings, candidates=40), background=False)
    items = [item for user in range(1, 41) for item in ask(feed, user).items]
    shares = {name: np.mean([i.source == name for i in items]) for name in ("popular", "fresh")}
    assert min(shares.values()) > 0.03
    related = ask(feed, 3, surface="related", context={"item_id": shown(ask(feed, 3))[0]})
    assert {item.source for item in related.items} <= {"related", "popular"}
    feed.close()
    greedy = Feed(root, replace(settings, candidates=40, least_share=0.0), background=False)
    items = [item for user in range(1, 41) for item in ask(greedy, user).items]
    assert min(np.mean([i.source == name for i in items]) for name in shares) < 0.03
    greedy.close()


@pytest.mark.parametrize("half", ["read", "rank"])
def test_without_the_ranker_the_retrieval_score_ranks(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    funnel = feed._switch.funnel
    monkeypatch.setattr(funnel.ranker, half, broken)
    answer = ask(feed, 3)
    assert answer.fallback == "unranked"
    vector = funnel._tower(funnel.users.read(3, feed.store, 0)).vector
    rows = funnel.catalogue.rows_of(shown(answer))
    scores = funnel.catalogue.embeddings(rows) @ vector + funnel.catalogue.priors(rows)
    np.testing.assert_allclose([item.score for item in answer.items], scores, atol=1e-6)
    assert (np.diff(scores) <= 1e-6).all()


def test_a_bundle_without_a_ranker_is_no_fallback(
    root: Path, publish_bundle: Callable[..., Path], settings: ServeSettings
) -> None:
    feed = Feed(publish_bundle(root, "v2", ranker=False), settings, background=False)
    answer = ask(feed, 3)
    assert answer.fallback is False
    assert all(item.predictions == {} for item in answer.items)
    assert len(ask(feed, 999_999).items) == 10
    feed.close()


def test_a_failing_source_gives_a_partial_feed(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(feed._switch.funnel.catalogue), "nearest", broken)
    answer = ask(feed, 3)
    assert answer.fallback == "partial"
    assert "two_tower" in answer.debug["failures"]
    assert len(answer.items) == 10


def test_a_late_source_gives_a_partial_feed_in_time(root: Path) -> None:
    settings = ServeSettings(
        budget_ms=60_000.0, deadlines_ms={"default": 30_000.0, "two_tower": 50.0}, clock="log"
    )
    feed = Feed(root, settings, background=False)
    wait = threading.Event()
    catalogue = feed._switch.funnel.catalogue
    catalogue.nearest = lambda *_: wait.wait(30)  # type: ignore[method-assign]
    started = time.monotonic()
    answer = ask(feed, 3)
    assert time.monotonic() - started < 15
    assert answer.fallback == "partial"
    assert answer.debug["failures"] == {"two_tower": "late"}
    wait.set()
    feed.close()


def test_a_failing_store_leaves_the_history_of_the_bundle(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed.store, "actions", broken)
    answer = ask(feed, 3)
    assert answer.fallback == "partial"
    monkeypatch.undo()
    assert shown(answer) == shown(ask(feed, 3))


def test_a_failing_store_leaves_what_was_last_read_there(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.post_events([Event(user_id=3, item_id=item, action="save") for item in (1001, 1002)])
    before = ask(feed, 3)
    monkeypatch.setattr(feed.store, "actions", broken)
    answer = ask(feed, 3)
    assert answer.fallback == "cached"
    assert shown(answer) == shown(before)


def test_a_store_that_fails_again_and_again_is_left_alone(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def failing(*args: Any) -> Any:
        calls.append(args)
        return broken()

    monkeypatch.setattr(feed.store, "actions", failing)
    for _ in range(8):
        assert ask(feed, 3).fallback == "partial"
    assert len(calls) == feed.settings.breaker_failures


def test_a_ranker_that_there_is_no_time_for_is_left_out(feed: Feed) -> None:
    funnel = feed._switch.funnel
    assert ask(feed, 3).fallback is False
    funnel.ranking._takes_s = 50.0
    answer = feed.recommend(RecommendRequest(user_id=3), 20_000.0)
    assert answer.fallback == "unranked"
    while funnel.ranking._takes_s > 10.0:
        feed.recommend(RecommendRequest(user_id=3), 20_000.0)
    assert feed.recommend(RecommendRequest(user_id=3), 20_000.0).fallback is False


def test_a_ranker_that_hangs_keeps_no_feed(root: Path, settings: ServeSettings) -> None:
    feed = Feed(root, replace(settings, budget_ms=2000.0), background=False)
    wait, ranker = threading.Event(), feed._switch.funnel.ranker
    ranker._items_program = lambda *_: wait.wait(60)
    for _ in range(feed.settings.breaker_failures):
        answer = ask(feed, 3)
        assert answer.fallback == "unranked"
        assert len(answer.items) == 10
    assert feed.readiness()["open_breakers"] == ["ranker"]
    assert not wait.is_set()
    wait.set()
    feed.close()


def test_a_user_tower_that_hangs_keeps_no_feed_and_no_source_that_can_do_without(
    root: Path,
) -> None:
    settings = ServeSettings(budget_ms=4000.0, deadlines_ms={"default": 2000.0}, clock="log")
    feed = Feed(root, settings, background=False)
    funnel, wait = feed._switch.funnel, threading.Event()
    funnel._tower._program = lambda *_: wait.wait(60)
    answer = ask(feed, 3, context={"interests": ["topic1"]})
    assert answer.debug["failures"] == {"two_tower": "late"}
    assert {item.source for item in answer.items} & {"popular", "fresh", "interests"}
    assert len(answer.items) == 10
    assert all(item.predictions for item in answer.items)
    funnel.ranking.ranker = None
    related = ask(feed, 3, surface="related", context={"item_id": shown(answer)[0]})
    assert related.fallback == "unranked"
    assert len(related.items) == 10
    wait.set()
    feed.close()


def test_a_user_tower_that_fails_is_asked_once_for_all_sources(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def failing(*_: Any) -> Any:
        calls.append(1)
        return broken()

    monkeypatch.setattr(feed._switch.funnel._tower, "_program", failing)
    answer = ask(feed, 3, context={"interests": ["topic1"]})
    assert set(answer.debug["failures"]) == {"two_tower"}
    assert len(calls) == 1


def test_sources_have_half_of_the_callers_time(feed: Feed) -> None:
    wait = threading.Event()
    catalogue = feed._switch.funnel.catalogue
    catalogue.nearest = lambda *_: wait.wait(30)  # type: ignore[method-assign]
    started = time.monotonic()
    answer = feed.recommend(RecommendRequest(user_id=3), 400.0)
    assert time.monotonic() - started < 15
    assert answer.fallback in ("partial", "unranked")
    assert len(answer.items) == 10
    for _ in range(feed.settings.breaker_failures):
        feed.recommend(RecommendRequest(user_id=3), 20.0)
    assert feed.readiness()["open_breakers"] == []  # callers in a hurry spoil nothing for others
    wait.set()


def test_when_all_fails_the_last_feed_of_the_user_is_shown(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ask(feed, 3)
    monkeypatch.setattr(feed._switch.funnel, "slate", broken)
    for same in (3, "3"):
        answer = ask(feed, same, num_items=4)
        assert answer.fallback == "cached"
        assert shown(answer) == shown(before)[:4]


def test_when_all_fails_popular_items_are_shown(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed._switch.funnel, "slate", broken)
    answer = ask(feed, 3)
    assert answer.fallback == "popular"
    rows = feed._switch.funnel.bundle.popular[:10]
    assert shown(answer) == feed._switch.funnel.catalogue.external(np.asarray(rows))


@pytest.mark.parametrize("failing", ["slate", "query"])
@pytest.mark.parametrize("known", [True, False])
def test_what_a_request_excludes_is_in_no_feed_that_stands_in(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, failing: str, known: bool
) -> None:
    funnel = feed._switch.funnel
    popular = funnel.catalogue.external(np.asarray(funnel.bundle.popular[:5]))
    excluded = shown(ask(feed, 3))[:5] if known else popular
    monkeypatch.setattr(funnel, failing, broken)
    answer = ask(feed, 3, exclude=excluded)
    assert answer.fallback == ("cached" if known else "popular")
    assert len(answer.items) == (5 if known else 10)
    rows = funnel.catalogue.rows_of(excluded)
    copies = funnel.catalogue.external(funnel.catalogue.with_copies(rows))
    assert not {*excluded, *copies} & set(shown(answer))


def test_a_user_who_has_seen_everything_gets_popular_items(feed: Feed) -> None:
    events = [Event(user_id=5, item_id=item, action="click") for item in range(1000, 1200)]
    feed.post_events(events)
    answer = ask(feed, 5)
    assert answer.fallback == "popular"
    assert len(answer.items) == 10


def test_shown_items_wait_for_the_hours_set(root: Path) -> None:
    settings = ServeSettings(seen_hours=1.0, budget_ms=60_000.0, deadlines_ms={"default": 30_000.0})
    feed = Feed(root, settings, background=False)
    assert not set(shown(ask(feed, 3))) & set(shown(ask(feed, 3)))
    feed.close()


def test_a_posted_item_can_be_found_and_recommended(feed: Feed) -> None:
    vector = content_of(feed, [1007])[0].tolist()
    item = Item(item_id=5000, content=vector, creator_id=99, quality=3.5, interests=["topic1"])
    assert feed.post_items([item]).recommendable == 1
    assert feed.similar(1007, 1).items[0].item_id == 5000
    assert feed.similar(5000, 3).items[0].item_id == 1007
    found = {one.item_id: one for one in ask(feed, 999, num_items=100).items}
    assert found[5000].source == "fresh"
    feed.post_events([Event(user_id=3, item_id=5000, action="save")])
    assert 5000 in acted_on(feed, 3)
    assert 5000 not in shown(ask(feed, 3, num_items=100))


def test_posted_items_and_events_survive_a_restart(root: Path, settings: ServeSettings) -> None:
    feed = Feed(root, settings, background=False)
    feed.post_items([Item(item_id=5000, content=[1.0] + [0.0] * 7)])
    feed.post_events([Event(user_id=777, item_id=5000, action="save")])
    before = ask(feed, 777)
    feed.close()
    feed = Feed(root, settings, background=False)
    assert feed.similar(5000, 1) is not None
    assert shown(ask(feed, 777)) == shown(before)
    feed.close()


def test_what_the_store_holds_keeps_no_replica_from_opening(
    root: Path, settings: ServeSettings
) -> None:
    first = Feed(root, settings, background=False)
    bad = [{"item_id": 5000, "interests": [1, True]}, {"item_id": "no number"}]
    first.store.put_items([*bad, {"item_id": 5001, "content": [0.5] * 8}])
    first.close()
    feed = Feed(root, settings, background=False)
    catalogue = feed._switch.funnel.catalogue
    assert catalogue.external(catalogue.posted_rows) == [5001]
    feed.close()


def test_posting_an_item_of_the_bundle_waits_for_the_next_bundle(feed: Feed) -> None:
    accepted = feed.post_items([Item(item_id=1007, quality=1.0), Item(item_id=5000)])
    assert (accepted.accepted, accepted.recommendable) == (2, 1)


def test_an_action_that_the_root_does_not_know_is_refused(feed: Feed) -> None:
    good = Event(user_id=3, item_id=1005, action="save")
    with pytest.raises(UserError, match=r"events\[1\]: action 'zap' .* save, click, hide"):
        feed.post_events([good, Event(user_id=3, item_id=1005, action="zap")])
    assert feed.store.last_sequence == 0


def test_the_newest_bundle_serves_once_it_is_pointed_to(
    root: Path, feed: Feed, publish_bundle: Callable[..., Path]
) -> None:
    assert ask(feed, 3).versions["bundle"] == "v1"
    publish_bundle(root, "v2", scale=2.0)
    feed.tick()
    answer = ask(feed, 3)
    assert answer.versions["bundle"] == "v2"
    assert answer.fallback is False
    assert feed.models()["refused"] is None


def test_a_corrupt_bundle_is_refused_and_the_old_one_serves(
    root: Path, feed: Feed, publish_bundle: Callable[..., Path]
) -> None:
    publish_bundle(root, "v2")
    path = root / "bundles" / "v2" / "item_embeddings.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    feed.tick()
    assert ask(feed, 3).versions["bundle"] == "v1"
    assert feed.models()["refused"]["version"] == "v2"
    assert "item_embeddings.npy does not match its checksum" in feed.models()["refused"]["reason"]
    publish_bundle(root, "v2")
    feed.tick()
    assert ask(feed, 3).versions["bundle"] == "v2"
    assert feed.models()["refused"] is None


def test_a_pinned_bundle_serves_whatever_is_pointed_to(
    root: Path, feed: Feed, publish_bundle: Callable[..., Path]
) -> None:
    publish_bundle(root, "v2")
    feed.pin("v1")
    feed.tick()
    assert feed.models()["bundle"] == "v1"
    feed.pin("")
    feed.tick()
    assert feed.models()["bundle"] == "v2"


def test_pinning_what_is_not_there_is_refused_and_the_old_one_serves(feed: Feed) -> None:
    feed.pin("v9")
    feed.tick()
    assert feed.models()["bundle"] == "v1"
    assert feed.models()["refused"]["version"] == "v9"
    assert "no bundle v9" in feed.models()["refused"]["reason"]


def test_pointing_back_clears_the_refusal(
    root: Path, feed: Feed, publish_bundle: Callable[..., Path]
) -> None:
    publish_bundle(root, "v2")
    (root / "bundles" / "v2" / "popular.npy").unlink()
    feed.tick()
    assert "lacks popular.npy" in feed.models()["refused"]["reason"]
    write_atomically(root / "bundles" / "CURRENT", "v1\n")
    feed.tick()
    assert feed.models()["refused"] is None


def test_a_pointer_to_nothing_is_refused(root: Path, feed: Feed) -> None:
    write_atomically(root / "bundles" / "CURRENT", "gone\n")
    feed.tick()
    assert feed.models()["refused"] is not None
    assert len(ask(feed, 3).items) == 10


def test_the_background_thread_switches_without_a_failed_request(
    root: Path, publish_bundle: Callable[..., Path]
) -> None:
    settings = ServeSettings(
        poll_seconds=0.05, budget_ms=60_000.0, deadlines_ms={"default": 30_000.0}
    )
    feed = Feed(root, settings)
    seen: list[str] = []
    end = time.monotonic() + 120
    for version in ("v2", "v3"):
        publish_bundle(root, version)
        while version not in seen and time.monotonic() < end:
            answer = ask(feed, 3)
            assert answer.fallback is False
            assert len(answer.items) == 10
            seen.append(answer.versions["bundle"])
    feed.close()
    assert list(dict.fromkeys(seen)) == ["v1", "v2", "v3"]


def test_an_absorbed_item_leaves_the_delta(
    root: Path, feed: Feed, tiny_log: Any, publish_bundle: Callable[..., Path]
) -> None:
    feed.post_items([Item(item_id=5000, content=[1.0] + [0.0] * 7)])
    assert feed.models()["posted_items"] == 1
    publish_bundle(root, "v2", log=tiny_log.with_item(5000))
    feed.tick()
    assert feed.models()["posted_items"] == 0
    assert feed.similar(5000, 1) is not None


def test_absorbed_events_are_not_counted_twice(
    root: Path,
    feed: Feed,
    publish_bundle: Callable[..., Path],
    edit_manifest: Callable[[Path, dict[str, Any]], None],
) -> None:
    posted = feed.post_events([Event(user_id=3, item_id=1005, action="save")]).sequence
    assert 1005 in acted_on(feed, 3)
    publish_bundle(root, "v2")
    folder = root / "bundles" / "v2"
    edit_manifest(folder, {"details": read(folder).manifest.details | {"store_sequence": posted}})
    feed.tick()
    assert feed._switch.funnel.bundle.store_sequence == posted
    assert 1005 not in acted_on(feed, 3)


def test_without_a_bundle_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no bundle to serve"):
        Feed(tmp_path, ServeSettings(), background=False)


def test_a_source_of_ones_own_joins_by_its_path(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme_sources.py").write_text(OWN_SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    own = ServeSettings(sources=("acme_sources:Oldest",), shares={"oldest": 1.0}, candidates=40)
    feed = Feed(root, own, background=False)
    answer = ask(feed, 999, num_items=40)
    feed.close()
    assert "oldest" in {item.source for item in answer.items}
    wrong = ServeSettings(sources=("acme_sources:Missing",))
    with pytest.raises(UserError, match=r"'acme_sources:Missing' is no package\.module:Class"):
        Feed(root, wrong, background=False)


def test_an_unknown_action_in_the_utility_is_refused(root: Path) -> None:
    settings = ServeSettings(utility=UtilitySettings(weights={"zap": 1.0}))
    with pytest.raises(UserError, match=r"serve\.utility\.weights\.zap"):
        Feed(root, settings, background=False)


def test_string_ids_work_throughout(
    tmp_path: Path, string_log: Any, publish_bundle: Callable[..., Path], settings: ServeSettings
) -> None:
    feed = Feed(publish_bundle(tmp_path, "v1", log=string_log), settings, background=False)
    answer = ask(feed, "3")
    assert all(isinstance(item.item_id, str) for item in answer.items)
    feed.post_events([Event(user_id="neu-ü", item_id=answer.items[0].item_id, action="save")])
    assert "two_tower" in ask(feed, "neu-ü").debug["found"]
    assert [event["user_id"] for _, event in feed.store.documents("events", 0)] == ["neu-ü"]
    feed.close()


def test_request_ids_are_distinct_and_exact_in_json() -> None:
    ids = RequestIds()
    made = [ids.next() for _ in range(10_000)]
    assert len(set(made)) == len(made)
    assert max(made) < 2**53


def test_feeds_of_users_whom_a_replica_remembers_are_counted(feed: Feed) -> None:
    def counted() -> list[bytes]:
        lines = feed.metrics.text().splitlines()
        return [line for line in lines if line.startswith(b"homefeed_user_feeds_total")]

    for user_id in (1, 2, 1, 1):
        ask(feed, user_id)
    with pytest.raises(UserError):
        ask(feed, 1, surface="related")
    assert counted() == [
        b'homefeed_user_feeds_total{remembered="yes"} 2.0',
        b'homefeed_user_feeds_total{remembered="no"} 2.0',
    ]
