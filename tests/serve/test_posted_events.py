"""What is posted over HTTP stands in the very next answer."""

from typing import Any

import pytest

from data.contract.schema import DAY_MS
from serve.api import create_api
from serve.feed import Feed
from serve.messages import Action
from tests.asgi_client import Client
from tests.tiny_root import FIRST_DAY_MS

END_MS = FIRST_DAY_MS + 10 * DAY_MS
NEW_USER = 900


@pytest.fixture
def client(feed: Feed) -> Client:
    return Client(create_api(feed))


def post(client: Client, *events: dict[str, Any]) -> dict[str, int]:
    answer = client("POST", "/v1/events", json=list(events))
    assert answer.status_code == 200
    taken: dict[str, int] = answer.json()
    return taken


def event(item_id: Any, **changes: Any) -> dict[str, Any]:
    return {"user_id": NEW_USER, "item_id": item_id, "action": "save"} | changes


def actions(client: Client, user_id: int = NEW_USER) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client("GET", f"/v1/users/{user_id}/actions").json()["actions"]
    return found


def feed_of(client: Client, user_id: int = NEW_USER) -> dict[str, Any]:
    answer = client("POST", "/v1/recommend", json={"user_id": user_id})
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_an_event_is_in_the_next_feed_and_the_next_actions(client: Client) -> None:
    before = {item["item_id"]: item["predictions"] for item in feed_of(client, 3)["items"]}
    liked = next(iter(before))
    post(client, event(liked, user_id=3))
    after = {item["item_id"]: item["predictions"] for item in feed_of(client, 3)["items"]}
    assert liked not in after
    assert any(before[item] != after[item] for item in before.keys() & after.keys())
    assert actions(client, 3)[0]["item_id"] == liked


def test_the_first_event_of_a_user_whom_nobody_knew_is_in_their_next_feed(client: Client) -> None:
    assert actions(client) == []
    assert {item["source"] for item in feed_of(client)["items"]} <= {"popular", "fresh"}
    post(client, event(1042))
    after = feed_of(client)
    assert "two_tower" in {item["source"] for item in after["items"]}
    assert 1042 not in {item["item_id"] for item in after["items"]}


def test_events_that_come_out_of_order_are_told_in_order_of_time(client: Client) -> None:
    times = [END_MS + late for late in (30, 10, 40, 20)]
    for late, time_ms in enumerate(times):
        post(client, event(1001 + late, timestamp=time_ms))
    assert [a["timestamp"] for a in actions(client)] == sorted(times, reverse=True)
    assert [a["item_id"] for a in actions(client)] == [1003, 1001, 1004, 1002]


def test_an_event_that_is_posted_again_is_there_once(client: Client) -> None:
    first = post(client, event(1001, event_id=7), event(1001, event_id="7"))
    assert (first["accepted"], first["duplicates"]) == (1, 1)
    again = post(client, event(1002, event_id="7"))
    assert (again["accepted"], again["duplicates"], again["sequence"]) == (0, 1, first["sequence"])
    assert [a["item_id"] for a in actions(client)] == [1001]


def test_an_event_from_the_future_leaves_a_whole_feed(client: Client) -> None:
    post(client, event(1001, timestamp=END_MS + 3650 * DAY_MS), event(1002, timestamp=END_MS))
    assert [a["item_id"] for a in actions(client)] == [1001, 1002]
    found = feed_of(client)
    assert len(found["items"]) == 10
    assert found["fallback"] is False
    assert all(item["predictions"] for item in found["items"])


def test_an_item_that_is_posted_after_its_event_is_known_in_it(client: Client) -> None:
    post(client, event(5000))
    assert Action.model_validate(actions(client)[0]).item_id is None
    assert len(feed_of(client)["items"]) == 10
    client("POST", "/v1/items", json={"item_id": 5000, "content": [1.0] + [0.0] * 7})
    assert actions(client)[0]["item_id"] == 5000
    assert 5000 not in {item["item_id"] for item in feed_of(client)["items"]}


@pytest.mark.parametrize("body", [[], {"events": []}])
def test_an_empty_list_is_taken_and_changes_nothing(client: Client, body: Any) -> None:
    sequence = post(client, event(1001))["sequence"]
    answer = client("POST", "/v1/events", json=body)
    assert answer.json() == {"accepted": 0, "duplicates": 0, "sequence": sequence}
    assert [a["item_id"] for a in actions(client)] == [1001]
