"""Arms of an experiment: other settings, another bundle, shadows."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.contract.artifact import write_atomically
from data.contract.settings import UserError, to_tree
from serve.arms import OF_ARMS, changed
from serve.experiments import Arm, Experiment
from serve.feed import Feed
from serve.messages import Item, RecommendRequest
from serve.retry import Retry
from serve.settings import ServeSettings
from serve.stages import Trace

Serving = Callable[..., Feed]


@pytest.fixture
def serving(root: Path, settings: ServeSettings) -> Iterator[Serving]:
    """A feed with an experiment of some arms."""
    feeds: list[Feed] = []

    def serve(**arms: Arm) -> Feed:
        experiment = Experiment(name="try", arms=arms)
        feeds.append(Feed(root, replace(settings, experiment=experiment), background=False))
        return feeds[-1]

    yield serve
    for feed in feeds:
        feed.close()


def shown(feed: Feed, user_id: int) -> list[Any]:
    answer = feed.recommend(RecommendRequest(user_id=user_id, num_items=10))
    return [item.item_id for item in answer.items]


def users_of(feed: Feed, arm: str) -> list[int]:
    return [u for u in range(1, 51) if feed.settings.experiment.arm_of(u) == arm]


def test_users_of_an_arm_are_served_by_its_settings(serving: Serving, root: Path) -> None:
    feed = serving(hated=Arm(share=0.5, settings={"utility.weights.save": -9.0}))
    plain = replace(feed.settings, experiment=Experiment())
    funnel = feed._switch.funnel
    reference = funnel.with_settings(plain)
    for arm, same in (("", True), ("hated", False)):
        for user in users_of(feed, arm)[:5]:
            known = reference.slate(
                reference.query(RecommendRequest(user_id=user), Trace()), 10, Trace()
            )
            assert (shown(feed, user) == reference.catalogue.external(known.rows)) is same
    feed._log.write()
    files = (root / "requests" / "impressions").rglob("part-*.parquet")
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert {(r["user_id"] in users_of(feed, "hated"), r["experiment"], r["arm"]) for r in rows} == {
        (True, "try", "hated"),
        (False, "", ""),
    }


def test_a_canary_serves_its_share_by_another_bundle(
    serving: Serving, root: Path, publish_bundle: Callable[..., Path]
) -> None:
    publish_bundle(root, "v2", ranker=False)
    write_atomically(root / "bundles" / "CURRENT", "v1")
    feed = serving(canary=Arm(share=0.4, bundle="v2"))
    for user in range(1, 51):
        answer = feed.recommend(RecommendRequest(user_id=user))
        canary = user in users_of(feed, "canary")
        assert answer.versions["bundle"] == ("v2" if canary else "v1")
        assert bool(answer.items[0].predictions) is not canary


def test_a_shadow_answers_too_but_is_not_shown(serving: Serving) -> None:
    feed = serving(
        alike=Arm(share=0.5, shadow=True, settings={"max_per_creator": 3}),
        unlike=Arm(share=0.5, shadow=True, settings={"utility.weights.save": -9.0}),
    )
    plain = serving_without(feed)
    for user in range(1, 21):
        assert shown(feed, user) == plain(user)
        feed._arms._pool.submit(lambda: None).result(30)
    text = feed.metrics.text().decode()
    compared = [
        line for line in text.splitlines() if 'outcome="compared"' in line and "_total" in line
    ]
    assert sum(float(line.split()[-1]) for line in compared) == 20
    overlap = {
        arm: float(
            next(x for x in text.splitlines() if f'overlap_sum{{arm="{arm}"' in x).split()[-1]
        )
        for arm in ("alike", "unlike")
    }
    count = {arm: sum(user <= 20 for user in users_of(feed, arm)) for arm in overlap}
    assert overlap["alike"] == count["alike"]
    assert overlap["unlike"] < 0.9 * count["unlike"]


def test_a_shadow_shows_nothing_again_that_those_it_is_compared_with_may_not(
    root: Path, settings: ServeSettings
) -> None:
    experiment = Experiment(name="try", arms={"alike": Arm(share=1.0, shadow=True)})
    waiting = replace(settings, experiment=experiment, seen_hours=1.0, explore=0.0)
    feed = Feed(root, waiting, background=False)
    for _ in range(3):
        shown(feed, 3)
        feed._arms._pool.submit(lambda: None).result(30)
    text = feed.metrics.text().decode()
    assert 'homefeed_shadow_overlap_sum{arm="alike"} 3.0' in text
    feed.close()


def serving_without(feed: Feed) -> Callable[[int], list[Any]]:
    """What users get without any experiment."""
    funnel = feed._switch.funnel

    def answer(user_id: int) -> list[Any]:
        trace = Trace()
        slate = funnel.slate(funnel.query(RecommendRequest(user_id=user_id), trace), 10, trace)
        return funnel.catalogue.external(slate.rows)

    return answer


@pytest.mark.parametrize(
    ("arm", "reason"),
    [
        (Arm(share=1.0, bundle="v9"), "v9"),
        (Arm(share=1.0, settings={"rules.a.column": "nothing"}), "nothing"),
        (Arm(share=1.0, settings={"diversty": 1}), "diversity"),
        (Arm(share=1.0, settings={"seen_hours": 24.0}), "seen_hours is the same for all arms"),
    ],
)
def test_an_arm_that_cannot_serve_leaves_its_users_with_the_others(
    serving: Serving, arm: Arm, reason: str
) -> None:
    feed = serving(broken=arm)
    assert len(shown(feed, 3)) == 10
    refused = feed.models()["experiment"]["refused"]
    assert reason in refused["broken"]


def test_arms_follow_a_new_bundle(
    serving: Serving, root: Path, publish_bundle: Callable[..., Path]
) -> None:
    feed = serving(spread=Arm(share=1.0, settings={"diversity": 2.0}))
    publish_bundle(root, "v2")
    feed.tick()
    answer = feed.recommend(RecommendRequest(user_id=3))
    assert answer.versions["bundle"] == "v2"
    assert feed._arms.of(3, feed._switch.funnel)[1]._settings.diversity == 2.0


def test_an_arm_changes_the_utility_that_is_in_force(serving: Serving, root: Path) -> None:
    """What the file of the root says holds for all that the arm does not name, at any time."""
    feed = serving(calmer=Arm(share=1.0, settings={"utility.weights.hide": -8.0}))
    for save in (-5.0, 3.0):
        write_atomically(root / "utility.json", json.dumps({"weights": {"save": save}}))
        feed.tick()
        arm, main = feed._arms._funnels["calmer"].utility, feed._switch.funnel.utility
        assert main.weights.tolist() == [save, 1.0, -1.0]
        assert arm.weights.tolist() == [save, 1.0, -8.0]
    plain = feed._switch.funnel.with_settings(feed.settings)
    assert plain.utility.weights.tolist() == [1.0, 1.0, -1.0]


def test_an_arm_may_change_what_a_request_reads_and_nothing_else() -> None:
    """Anything else would be taken and change nothing: arms would be compared that are alike."""
    for name, value in to_tree(ServeSettings()).items():
        if name in OF_ARMS:
            assert changed(ServeSettings(), {name: value}) == ServeSettings()
        else:
            with pytest.raises(UserError, match=f"{name} is the same for all arms"):
                changed(ServeSettings(), {name: value})


def test_settings_of_an_arm_are_checked() -> None:
    found = changed(ServeSettings(), {"utility.weights.save": 2.0, "diversity": 1.0})
    assert (found.utility.weights, found.diversity) == ({"save": 2.0}, 1.0)
    with pytest.raises(UserError):
        changed(ServeSettings(), {"diversity": -1.0})


@pytest.fixture
def with_canary(serving: Serving, root: Path, publish_bundle: Callable[..., Path]) -> Feed:
    """Half of the users are served by a newer bundle than the current one."""
    publish_bundle(root, "v2")
    write_atomically(root / "bundles" / "CURRENT", "v1")
    return serving(canary=Arm(share=0.5, bundle="v2"))


def test_a_canary_that_fails_leaves_the_others_their_ranker(
    with_canary: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = with_canary

    def broken(*_: Any) -> Any:
        raise ValueError("no luck")

    monkeypatch.setattr(feed._arms._funnels["canary"].ranker, "rank", broken)
    for user in users_of(feed, "canary")[:8]:
        assert feed.recommend(RecommendRequest(user_id=user)).fallback == "unranked"
    for user in users_of(feed, "")[:3]:
        assert feed.recommend(RecommendRequest(user_id=user)).fallback is False


def test_a_canary_takes_posted_items_in(with_canary: Feed) -> None:
    feed = with_canary
    feed.post_items([Item(item_id=5_000_000, content=[1.0] + [0.0] * 7)])
    feed.tick()
    rows = feed._arms._funnels["canary"].catalogue.rows_of([5_000_000])
    assert feed._arms._funnels["canary"].catalogue.may_serve(rows).all()


def test_an_arm_that_could_not_serve_is_tried_again_and_the_others_stay(
    serving: Serving, root: Path, publish_bundle: Callable[..., Path]
) -> None:
    now_s = 0.0
    feed = serving(canary=Arm(share=0.3, bundle="v2"), other=Arm(share=0.3, settings={}))
    feed._arms._retry = Retry(lambda: now_s)
    feed._arms._retry.note(settled=False)
    main, other = feed._switch.funnel, feed._arms._funnels["other"]
    publish_bundle(root, "v2")
    write_atomically(root / "bundles" / "CURRENT", "v1")
    feed.tick()
    assert "v2" in feed.models()["experiment"]["refused"]["canary"]
    now_s = 60.0
    feed.tick()
    assert feed.models()["experiment"]["refused"] == {}
    assert feed._switch.funnel is main
    assert feed._arms._funnels["other"] is other
    user = users_of(feed, "canary")[0]
    assert feed.recommend(RecommendRequest(user_id=user)).versions["bundle"] == "v2"
    del feed._arms._funnels["other"]  # nothing is due, nothing is made
    feed.tick()
    assert "other" not in feed._arms._funnels
