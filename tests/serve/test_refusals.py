"""Answers that are no success."""

import pytest

from serve.api import create_api
from serve.feed import Feed
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
