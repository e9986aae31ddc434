"""Who may ask, and how often."""

from typing import Any

import pytest
from fastapi import FastAPI

from data.contract.settings import UserError
from serve.access import Access, Buckets, refuse_open_host
from tests.asgi_client import Client


def client(**given: Any) -> Client:
    api = FastAPI()
    api.add_middleware(Access, **given)
    for path in ("/healthz", "/v1/models"):
        api.get(path)(lambda: {"ok": True})
    return Client(api)


def test_without_a_token_anyone_may_ask() -> None:
    assert client()("GET", "/v1/models").status_code == 200


@pytest.mark.parametrize(
    ("given", "status"),
    [("", 401), ("Bearer wrong", 401), ("secret", 401), ("Bearer secret", 200)],
)
def test_a_token_is_asked_for(given: str, status: int) -> None:
    asked = client(token="secret")
    answer = asked("GET", "/v1/models", headers={"Authorization": given} if given else {})
    assert answer.status_code == status
    assert asked("GET", "/healthz").status_code == 200
    if status == 401:
        assert "HOMEFEED_TOKEN" in answer.json()["detail"][0]["msg"]
        assert "secret" not in answer.text


def test_who_asks_too_often_is_told_to_wait() -> None:
    asked = client(rate=1.0)
    answers = [asked("GET", "/v1/models") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[2].headers["Retry-After"]) == 1
    assert asked("GET", "/healthz").status_code == 200


def test_a_bucket_fills_at_its_rate_and_clients_are_apart() -> None:
    now = [0.0]
    buckets = Buckets(2.0, lambda: now[0])
    assert [buckets.wait_s("a") for _ in range(5)] == [0.0] * 4 + [0.5]
    assert buckets.wait_s("b") == 0.0
    now[0] = 0.5
    assert [buckets.wait_s("a") for _ in range(2)] == [0.0, 0.5]
    now[0] = 100.0
    assert [buckets.wait_s("a") for _ in range(5)] == [0.0] * 4 + [0.5]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    refuse_open_host(host, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.4", "::", "feeds.example"])
def test_other_hosts_need_one(host: str) -> None:
    with pytest.raises(UserError, match="HOMEFEED_TOKEN"):
        refuse_open_host(host, "")
    refuse_open_host(host, "secret")
