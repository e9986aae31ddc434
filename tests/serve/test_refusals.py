"""Answers that are no success."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from serve.api import create_api
from serve.feed import Feed
from serve.messages import MOST_REASONS, Events, Items, RecommendRequest
from serve.store import StoreError
from tests.asgi_client import Client


@pytest.fixture
def client(feed: Feed) -> Client:
    return Client(create_api(feed))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/items/77/similar", 404),
        ("PUT", "/v1/events", 405),
        ("GET", "/v1/recommend", 405),
    ],
)
def test_a_refusal_lists_its_reasons(client: Client, method: str, path: str, status: int) -> None:
    answer = client(method, path)
    assert answer.status_code == status
    assert answer.json()["detail"][0]["msg"]


def test_bytes_that_are_no_text_are_refused_in_the_body(client: Client) -> None:
    headers = {"content-type": "application/json"}
    answer = client("POST", "/v1/events", content=b"\xff", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["detail"][0]["loc"] == ["body"]


@given(st.integers(0, 60), st.booleans(), st.booleans())
def test_of_unknown_keys_the_first_few_are_named(unknown: int, whole: bool, inside: bool) -> None:
    """As many as an answer gives, and the same ones as if each were made a reason first."""
    keys = {f"key{i}": i for i in range(unknown)}
    user: dict[str, Any] = {"user_id": 3} if whole else {}
    body = user | {"context": keys} if inside else user | keys
    place = ("context",) if inside else ()
    missing = [] if whole else [("user_id",)]
    expected = missing + [(*place, key) for key in keys]
    assert reasons(RecommendRequest, body)[:MOST_REASONS] == expected[:MOST_REASONS]


def reasons(kind: Any, body: Any) -> list[tuple[int | str, ...]]:
    try:
        TypeAdapter(kind).validate_python(body)
    except ValidationError as error:
        return [reason["loc"] for reason in error.errors()]
    return []


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (RecommendRequest, {"user_id": 1} | {f"key{i}": 1 for i in range(100_000)}),
        (RecommendRequest, {"user_id": 1, "exclude": [None] * 10_000}),
        (RecommendRequest, {"user_id": 1, "context": {"query_vector": [None] * 4096}}),
        (RecommendRequest, {"user_id": 1, "context": {"interests": [None] * 100}}),
        (Events, [{f"key{i}": 1 for i in range(30)}] * 10_000),
        (Events, {"events": [{}] * 10_000}),
        (Items, [{}] * 10_000),
        (Items, {"items": [{}] * 10_000}),
    ],
)
def test_no_body_makes_more_reasons_than_a_few(kind: Any, body: Any) -> None:
    """Each takes microseconds, in the loop that all requests wait for, and a kilobyte."""
    assert 0 < len(reasons(kind, body)) <= MOST_REASONS + 3


def test_an_id_of_a_path_is_refused_in_the_path(client: Client) -> None:
    detail = client("GET", "/v1/items/abc/similar").json()["detail"]
    assert detail == [{"loc": ["path"], "msg": "item ids are 64-bit integers here; got 'abc'"}]


def test_what_a_failing_store_does_not_keep_is_not_acknowledged(
    client: Client, feed: Feed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise StoreError("gone")

    monkeypatch.setattr(feed.store, "append", fail)
    event = {"user_id": 3, "item_id": 1005, "action": "save"}
    answer = client("POST", "/v1/events", json=event)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "nothing is acknowledged" in answer.json()["detail"][0]["msg"]
    assert "gone" in caplog.text


def test_a_server_without_its_store_is_ready_for_it_has_feeds(
    client: Client, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise StoreError("gone")

    monkeypatch.setattr(type(feed.store), "last_sequence", property(fail))
    ready = client("GET", "/readyz").json()
    assert (ready["ready"], ready["bundle"], ready["refused"]) == (True, "v1", None)
    assert client("GET", "/v1/models").json()["store_sequence"]["store"] is None
