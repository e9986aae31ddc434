"""What /openapi.json says of the server."""

from typing import Any

import pytest

from serve.access import TOKEN
from serve.api import create_api
from serve.feed import Feed


@pytest.fixture
def described(feed: Feed) -> dict[str, Any]:
    return create_api(feed).openapi()


def test_every_route_is_named(described: dict[str, Any]) -> None:
    assert {"/v1/recommend", "/v1/events", "/v1/items"} <= set(described["paths"])
    assert {"/v1/items/{item_id}/similar", "/v1/users/{user_id}/actions"} <= set(described["paths"])
    assert {"/healthz", "/readyz", "/v1/models", "/metrics"} <= set(described["paths"])


def test_ids_have_the_exact_bounds_of_64_bits(described: dict[str, Any]) -> None:
    user_id = described["components"]["schemas"]["RecommendRequest"]["properties"]["user_id"]
    (whole,) = (form for form in user_id["anyOf"] if form["type"] == "integer")
    bounds = (whole["minimum"], whole["exclusiveMaximum"])
    assert [str(bound) for bound in bounds] == ["-9223372036854775808", "9223372036854775808"]


def test_the_deadline_is_a_number_that_may_be_absent(described: dict[str, Any]) -> None:
    (header,) = described["paths"]["/v1/recommend"]["post"]["parameters"]
    assert (header["name"], header["in"], header["required"]) == ("x-deadline-ms", "header", False)
    assert header["schema"]["type"] == "number"
    assert header["schema"]["maximum"] == 60_000


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/events", "/v1/items"])
def test_every_refusal_of_a_body_is_described(described: dict[str, Any], path: str) -> None:
    answers = described["paths"][path]["post"]["responses"]
    assert set(answers) == {"200", "400", "401", "413", "422", "429", "503"}
    forms = {answers[status]["content"]["application/json"]["schema"]["$ref"] for status in answers}
    assert len(forms) == 2


def test_metrics_are_text(described: dict[str, Any]) -> None:
    answers = described["paths"]["/metrics"]["get"]["responses"]
    assert list(answers["200"]["content"]) == ["text/plain"]


def test_a_token_is_told_of_where_there_is_one(
    feed: Feed, described: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "securitySchemes" not in described["components"]
    monkeypatch.setenv(TOKEN, "secret")
    secured = create_api(feed).openapi()
    assert secured["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert secured["paths"]["/v1/recommend"]["post"]["security"] == [{"token": []}]
    assert "security" not in secured["paths"]["/healthz"]["get"]
