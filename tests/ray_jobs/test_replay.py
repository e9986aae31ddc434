"""A logged request comes out again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.contract.settings import UserError
from ray_jobs.engine.job import Job, start
from ray_jobs.preparation.posted_log import PostedLog
from ray_jobs.replay import Logged, ReplayArguments, features_equal, main, query_of
from serve.experiments import Arm, Experiment
from serve.feed import Feed
from serve.messages import Context, Event, RecommendRequest, RecommendResponse
from serve.request_log import HISTORY
from serve.settings import ServeSettings
from tests.tiny_root import TinyLog, write_bundle

SETTINGS = ServeSettings(
    candidates=100, budget_ms=60_000.0, deadlines_ms={"default": 30_000.0}, clock="log"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "root", "v1", TinyLog(), graph=True)


def job(root: Path, request_id: int, *words: str) -> Job:
    patient = ("serve.candidates=100", "serve.budget_ms=60000", "serve.clock=log")
    late = "serve.deadlines_ms.default=30000"
    given = (f"root={root}", f"request_id={request_id}", *patient, late, *words)
    return start(given, ReplayArguments)


def served(root: Path, **fields: Any) -> RecommendResponse:
    """A feed of user 3, who did something before it and after it."""
    feed = Feed(root, SETTINGS, background=False)
    feed.post_events([Event(user_id=3, item_id=1001, action="save")])
    answer = feed.recommend(RecommendRequest(user_id=3, debug=True, **fields))
    feed.post_events([Event(user_id=3, item_id=1002, action="hide")])
    feed.close()
    return answer


@pytest.mark.parametrize(
    "fields",
    [{}, {"exclude": [1010, 1011]}, {"surface": "related", "context": Context(item_id=1005)}],
)
def test_the_same_features_scores_and_feed_come_out(root: Path, fields: Any) -> None:
    answer = served(root, **fields)
    found = main(job(root, answer.request_id))
    assert found["features_equal"] is True
    assert found["largest_difference"] < 1e-6
    assert found["same_feed"]
    assert [row["item_id"] for row in found["items"]] == [item.item_id for item in answer.items]
    assert [row["place"] for row in found["items"]] == list(range(10))
    assert answer.debug is not None
    assert answer.debug["found"]["pixie"] > 0


def test_another_bundle_may_answer(root: Path) -> None:
    answer = served(root)
    write_bundle(root, "v2", TinyLog(), ranker=False)
    found = main(job(root, answer.request_id, "bundle=v2"))
    assert found["bundle"] == "v2"
    assert found["features_equal"] is None
    assert found["largest_difference"] is None
    assert len(found["feed"]) == 10


def test_of_an_item_the_place_or_the_reason_is_told(root: Path) -> None:
    answer = served(root, exclude=[1010])
    shown = answer.items[2].item_id
    assert main(job(root, answer.request_id, f"item_id={shown}"))["why"] == "place 2"
    ids = {item.item_id for item in answer.items}
    reasons = {
        main(job(root, answer.request_id, f"item_id={item}"))["why"]
        for item in range(1000, 1012)
        if item not in ids
    }
    assert reasons <= {"score", "seen", "copy", "quota", "not_retrieved", "diversity"}
    with pytest.raises(UserError, match="no item of bundle v1"):
        main(job(root, answer.request_id, "item_id=5"))


def test_what_was_not_logged_cannot_be_replayed(root: Path) -> None:
    with pytest.raises(UserError, match="has no request log"):
        main(job(root, 17))
    served(root)
    with pytest.raises(UserError, match="request_id=17 is not in"):
        main(job(root, 17))


def test_what_was_posted_later_is_not_in_the_features(root: Path) -> None:
    answer = served(root)
    feed = Feed(root, SETTINGS, background=False)
    feed.post_events([Event(user_id=3, item_id=1003, action="save")])
    feed.close()
    found = main(job(root, answer.request_id))
    assert found["features_equal"] is True
    assert found["same_feed"]


def test_what_has_left_the_store_is_still_in_the_features(root: Path) -> None:
    answer = served(root)
    replayed = job(root, answer.request_id)
    with PostedLog.opened(root, replayed.settings.serve) as posted:
        assert posted.archive(posted.last_sequence) == 2
    found = main(replayed)
    assert found["features_equal"] is True
    assert found["same_feed"]


def test_a_feed_of_an_arm_comes_out_again_under_the_utility_in_force(root: Path) -> None:
    (root / "utility.json").write_text('{"weights": {"hide": -9}}')
    experiment = Experiment(
        name="try", arms={"hated": Arm(share=1.0, settings={"utility.weights.save": -9.0})}
    )
    feed = Feed(root, replace(SETTINGS, experiment=experiment), background=False)
    answer = feed.recommend(RecommendRequest(user_id=3))
    feed.close()
    arm = "{share: 1.0, settings: {utility.weights.save: -9.0}}"
    words = ("serve.experiment.name=try", f"serve.experiment.arms.hated={arm}")
    found = main(job(root, answer.request_id, *words))
    assert found["same_feed"]
    assert found["utility_equal"]
    assert not main(job(root, answer.request_id))["utility_equal"]


def test_the_history_of_a_replay_is_the_one_that_was_used(root: Path) -> None:
    """Also how long each action took, and nothing of it where an earlier release logged none."""
    feed = Feed(root, SETTINGS, background=False)
    feed.post_events([Event(user_id=3, item_id=1001, action="click", duration_s=12.5)])
    answer = feed.recommend(RecommendRequest(user_id=3))
    funnel = feed._switch.funnel
    used = funnel.users.read(3, feed.store, funnel.clock.now_ms())
    feed._log.write()
    logged = Logged.find(root, answer.request_id)
    nothing = replace(used, events=used.events.newest(0))
    for name in HISTORY:
        expected = getattr(used.events.newest(funnel.bundle.longest_history), name)
        found = getattr(query_of(logged, funnel, nothing).user.events, name)
        np.testing.assert_array_equal(found, expected)
    assert found[-1] == 12.5
    del logged.request["history.duration_s"]
    assert not query_of(logged, funnel, nothing).user.events.duration_s.any()
    then = replace(used, now_ms=logged.request["now_ms"])
    assert features_equal(logged, funnel, then)
    feed.close()
