import json
import threading
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.api import create_api
from serve.feed import Feed
from serve.limits import MAX_BODY_BYTES, Limits
from tests.asgi_client import Client


@pytest.fixture
def client(feed: Feed) -> Client:
    return Client(create_api(feed))


def test_a_feed_has_the_fields_of_the_contract(client: Client) -> None:
    answer = client("POST", "/v1/recommend", json={"user_id": 3, "num_items": 10})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"request_id", "items", "versions", "fallback", "timings_ms"}
    assert len(body["items"]) == 10
    assert set(body["items"][0]) == {"item_id", "score", "predictions", "source"}
    assert set(body["items"][0]["predictions"]) == {"save", "click", "hide"}
    assert body["fallback"] is False
    assert {"user", "sources", "rank", "blend", "total"} <= set(body["timings_ms"])
    assert body["versions"]["bundle"] == "v1"


def test_debug_answers_the_funnel(client: Client) -> None:
    body = client("POST", "/v1/recommend", json={"user_id": 3, "debug": True}).json()
    assert set(body["debug"]) >= {"found", "kept", "failures", "dropped", "dropped_items"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "Field required"),
        ({"user_id": None}, "valid integer"),
        ({"user_id": 1.5}, "valid integer"),
        ({"user_id": True}, "valid integer"),
        ({"user_id": "abc"}, "user ids are 64-bit integers here; got 'abc'"),
        ({"user_id": 2**63}, "less than"),
        ({"user_id": ""}, "at least 1 character"),
        ({"user_id": 3, "num_items": 0}, "greater than or equal to 1"),
        ({"user_id": 3, "num_items": "ten"}, "valid integer"),
        ({"user_id": 3, "num_item": 5}, "Extra inputs are not permitted"),
        ({"user_id": 3, "exclude": 5}, "valid list"),
        ({"user_id": 3, "exclude": list(range(20_000))}, "at most 10000"),
        ({"user_id": 3, "context": {"item_id": 4}}, "is no item here"),
        ({"user_id": 3, "context": {"query_vector": [1.0]}}, "the item space has 8"),
        ({"user_id": 3, "context": {"query_vector": ["a"]}}, "valid number"),
        ({"user_id": 3, "context": {"query_vector": [1e38] * 8}}, "less than or equal to 65504"),
        ({"user_id": 3, "surface": "related"}, "needs context.item_id"),
        ([1, 2], "valid dictionary"),
    ],
)
def test_a_bad_body_is_answered_with_the_reason(client: Client, body: Any, reason: str) -> None:
    answer = client("POST", "/v1/recommend", json=body)
    assert answer.status_code == 422
    assert reason in json.dumps(answer.json()["detail"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"user_id": "\\ud800"}',
        b'{"user_id": 3, "context": {"query_vector": [NaN]}}',
        b'{"user_id": 3, "context": {"query_vector": [1e999]}}',
        b'{"user_id": 3, "surface": "\\udfff"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_proper_json_is_the_callers_error(client: Client, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = client("POST", "/v1/recommend", content=content, headers=headers)
    assert 400 <= answer.status_code < 500
    assert answer.json()["detail"]


def test_events_are_taken_one_by_one_or_as_a_list(client: Client) -> None:
    event = {"user_id": 3, "item_id": 1005, "action": "save", "event_id": "a"}
    bodies = (
        event,
        [event, event | {"event_id": 2, "duration_s": 3}],
        {"events": [event | {"event_id": 3}]},
    )
    answers = [client("POST", "/v1/events", json=body).json() for body in bodies]
    assert [(a["accepted"], a["duplicates"]) for a in answers] == [(1, 0), (1, 1), (1, 0)]
    assert answers[0]["sequence"] < answers[1]["sequence"] < answers[2]["sequence"]
    assert client("POST", "/v1/events", json=[]).json()["accepted"] == 0
    assert client("POST", "/v1/events", json={"events": []}).json()["accepted"] == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"action": "zap"}, "action 'zap' is unknown; known are save, click, hide"),
        ({"timestamp": 1_767_225_600}, "greater than or equal to 631152000000"),
        ({"user_id": None}, "valid integer"),
        ({"item_id": "x"}, "item ids are 64-bit integers"),
        ({"duration_s": -1}, "greater than or equal to 0"),
        ({"duration_s": 1e38}, "less than or equal to 1000000000"),
        ({"zap": 1}, "Extra inputs"),
    ],
)
def test_a_bad_event_is_refused_and_none_of_its_batch_is_taken(
    client: Client, feed: Feed, change: dict[str, Any], reason: str
) -> None:
    event = {"user_id": 3, "item_id": 1005, "action": "save"}
    answer = client("POST", "/v1/events", json=[event, event | change])
    assert answer.status_code == 422
    assert reason in json.dumps(answer.json())
    assert feed.store.last_sequence == 0


def test_a_posted_item_is_similar_at_once(client: Client) -> None:
    item = {"item_id": 5000, "content": [1.0] + [0.0] * 7, "interests": ["food"]}
    answer = client("POST", "/v1/items", json=item)
    assert answer.json() == {"accepted": 1, "recommendable": 1}
    similar = client("GET", "/v1/items/5000/similar", params={"num_items": 3})
    assert similar.status_code == 200
    assert len(similar.json()["items"]) == 3
    assert similar.json()["item_id"] == 5000
    assert 5000 not in [one["item_id"] for one in similar.json()["items"]]


def test_items_are_taken_as_a_list_or_a_batch(client: Client) -> None:
    first = client("POST", "/v1/items", json=[{"item_id": 5000}, {"item_id": 5001}])
    assert first.json() == {"accepted": 2, "recommendable": 2}
    batch = client("POST", "/v1/items", json={"items": [{"item_id": 5002}]})
    assert batch.json() == {"accepted": 1, "recommendable": 1}
    assert client("POST", "/v1/items", json=[]).json() == {"accepted": 0, "recommendable": 0}


@pytest.mark.parametrize("path", ["/v1/events", "/v1/items"])
@pytest.mark.parametrize("body", [5, None, "x", {}, [5], {"events": 3}, {"items": [3]}, [[]]])
def test_a_body_of_no_known_form_is_refused(client: Client, path: str, body: Any) -> None:
    answer = client("POST", path, json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"]


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["save", "home", "related", 3, 1005, 10**12])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
NAMES = ["user_id", "item_id", "action", "surface", "timestamp", "num_items", "exclude", "context"]
NAMES += ["event_id", "duration_s", "query_vector", "interests", "content", "quality", "events"]
objects = st.dictionaries(st.sampled_from(NAMES), values, max_size=5)
bodies = objects | st.lists(objects, max_size=2) | values
ROUTES = ["/v1/recommend", "/v1/events", "/v1/items"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(ROUTES), body=bodies, user=st.booleans())
def test_no_body_makes_the_server_fail(client: Client, path: str, body: Any, user: bool) -> None:
    if user and isinstance(body, dict):
        body = {"user_id": 3, "item_id": 1005} | body
    content = json.dumps(body).encode()
    answer = client("POST", path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 422)
    assert answer.json()


def test_a_bad_item_is_refused_with_the_reason(client: Client) -> None:
    answer = client("POST", "/v1/items", json=[{"item_id": 5000}, {"item_id": 5001, "zap": 1}])
    assert answer.status_code == 422
    assert "items[1]: items have no column 'zap' here" in json.dumps(answer.json())
    assert client("GET", "/v1/items/5000/similar").status_code == 404


@pytest.mark.parametrize("columns", [{"content": [2**63] * 8}, {"interests": [1, True]}])
def test_an_item_that_cannot_be_encoded_does_not_stand_in_the_way_of_others(
    client: Client, feed: Feed, columns: Any
) -> None:
    answer = client("POST", "/v1/items", json={"item_id": 5000, **columns})
    assert answer.status_code == 422
    assert feed.store.last_sequence == 0
    assert client("POST", "/v1/items", json={"item_id": 5001}).json()["recommendable"] == 1


def test_an_unknown_item_is_not_found(client: Client) -> None:
    answer = client("GET", "/v1/items/77/similar")
    assert answer.status_code == 404
    assert "77" in json.dumps(answer.json())
    assert client("GET", "/v1/items/abc/similar").status_code == 422
    assert client("GET", "/v1/items/1005/similar", params={"num_items": 0}).status_code == 422


def test_status_tells_what_serves(client: Client) -> None:
    assert client("GET", "/healthz").json() == {"status": "ok"}
    ready = {"ready": True, "bundle": "v1", "refused": None, "open_breakers": [], "degraded": {}}
    assert client("GET", "/readyz").json() == ready
    models = client("GET", "/v1/models").json()
    utility = {"utility": models["utility"]["version"]}
    assert models["versions"] == {"bundle": "v1", "two_tower": "tt1", "ranker": "r1"} | utility
    assert models["actions"] == ["save", "click", "hide"]


def test_metrics_count_requests_fallbacks_and_events(client: Client, feed: Feed) -> None:
    client("POST", "/v1/recommend", json={"user_id": 3})
    client("POST", "/v1/recommend", json={})
    client("GET", "/nowhere")
    client("POST", "/v1/events", json={"user_id": 3, "item_id": 1005, "action": "save"})
    feed._switch.funnel.ranking.ranker = None
    text = client("GET", "/metrics").text
    assert 'homefeed_requests_total{route="/v1/recommend",status="200"} 1.0' in text
    assert 'homefeed_requests_total{route="/v1/recommend",status="422"} 1.0' in text
    assert 'homefeed_requests_total{route="other",status="404"} 1.0' in text
    assert 'homefeed_events_total{outcome="accepted"} 1.0' in text
    assert 'homefeed_bundle{version="v1"} 1.0' in text
    assert 'homefeed_stage_seconds_count{stage="rank"} 1.0' in text


def test_a_body_beyond_the_bound_is_refused(client: Client) -> None:
    answer = client("POST", "/v1/recommend", content=b" " * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413

    async def endless() -> Any:
        for _ in range(10):
            yield b" " * (1 << 20)

    assert client("POST", "/v1/recommend", content=endless()).status_code == 413


def test_a_body_that_is_said_to_be_beyond_all_measure_is_refused(client: Client) -> None:
    headers = {"content-length": "9" * 5000}
    assert client("POST", "/v1/recommend", content=b"{}", headers=headers).status_code == 413


def test_too_many_requests_in_work_are_told_to_come_back() -> None:
    import anyio

    gate = anyio.Event()
    statuses = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(limits: Limits) -> None:
        transport = httpx.ASGITransport(limits)
        async with httpx.AsyncClient(transport=transport, base_url="http://feed") as client:
            answer = await client.get("/")
            statuses.append((answer.status_code, answer.headers.get("retry-after")))
            if answer.status_code == 503:
                gate.set()

    async def main() -> None:
        limits = Limits(slow, max_concurrent=2)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask, limits)
        await ask(limits)

    anyio.run(main)
    assert sorted(statuses) == [(200, None), (200, None), (200, None), (503, "1")]


def test_a_busy_server_still_says_that_it_lives(feed: Feed) -> None:
    import anyio

    api, gate = create_api(feed), threading.Event()

    @api.get("/slow")
    def slow() -> None:
        gate.wait(30)

    async def main() -> list[int]:
        transport = httpx.ASGITransport(api)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://feed") as client,
            anyio.create_task_group() as group,
        ):
            for _ in range(feed.settings.max_concurrent):
                group.start_soon(client.get, "/slow")
            while (await client.get("/openapi.json")).status_code != 503:
                await anyio.sleep(0.01)
            found = [(await client.get(path)).status_code for path in ("/healthz", "/readyz")]
            gate.set()
        return found

    assert anyio.run(main) == [200, 200]


def test_posts_to_a_store_that_hangs_leave_places_to_feeds(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import anyio

    feed.settings = replace(feed.settings, max_concurrent=20)
    gate, append = threading.Event(), feed.store.append
    monkeypatch.setattr(feed.store, "append", lambda events: gate.wait(60) and append(events))
    event = {"user_id": 3, "item_id": 1005, "action": "save"}
    statuses: list[int] = []

    async def main() -> int:
        transport = httpx.ASGITransport(create_api(feed))

        async def post() -> None:
            statuses.append((await client.post("/v1/events", json=event)).status_code)
            if len(statuses) == 190:
                refused.set()

        async with (
            httpx.AsyncClient(transport=transport, base_url="http://feed") as client,
            anyio.create_task_group() as group,
        ):
            refused = anyio.Event()
            for _ in range(200):
                group.start_soon(post)
            await refused.wait()
            asked = await client.post("/v1/recommend", json={"user_id": 3})
            gate.set()
        return asked.status_code

    assert anyio.run(main) == 200
    assert statuses == [503] * 190 + [200] * 10


def test_the_page_is_served_and_names_what_it_asks(client: Client) -> None:
    page = client("GET", "/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    for path in ("/v1/recommend", "/v1/events", "/v1/models", "/actions?limit=", "/similar?"):
        assert path in page.text


def test_actions_of_a_user_are_told_newest_first(client: Client) -> None:
    posted = {"user_id": 3, "item_id": 1004, "action": "hide", "surface": "home"}
    client("POST", "/v1/events", json=posted)
    found = client("GET", "/v1/users/3/actions?limit=2").json()
    assert found["user_id"] == 3
    assert found["known"] is True
    assert len(found["actions"]) == 2
    newest = found["actions"][0]
    assert (newest["item_id"], newest["action"], newest["surface"]) == (1004, "hide", "home")
    nobody = client("GET", "/v1/users/987654/actions").json()
    assert nobody == {"user_id": 987654, "known": False, "actions": []}
    assert client("GET", "/v1/users/x/actions").status_code == 422


def test_models_name_users_to_try(client: Client) -> None:
    users = client("GET", "/v1/models").json()["example_users"]
    assert 0 < len(users) <= 8
    for user in users:
        assert client("GET", f"/v1/users/{user}/actions").json()["actions"]
