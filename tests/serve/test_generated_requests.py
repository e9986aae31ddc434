"""Requests made from the server's own description, fit and unfit, and some that no schema makes."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from serve.api import create_api
from serve.feed import Feed
from serve.settings import ServeSettings
from tests.asgi_client import Client

POSTING = ("/v1/recommend", "/v1/events", "/v1/items")
READING = ("/v1/items/{item_id}/similar", "/v1/users/{user_id}/actions")
STATUS = ("/healthz", "/readyz", "/v1/models", "/metrics")
DESCRIBED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
LONGEST_S = 20.0
UNFIT, FIT = GenerationMode.NEGATIVE, GenerationMode.POSITIVE
UNFIT_BODIES, FIT_BODIES, UNFIT_PATHS = 110, 60, 40  # 510 bodies beside the enumerated ones
drawn = settings(
    database=None,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def description(feed: Feed) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", create_api(feed))


@pytest.fixture(scope="module")
def client(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a server that refuses all that it is asked here, and so keeps nothing."""
    root = shutil.copytree(published, tmp_path_factory.mktemp("refusing") / "root")
    feed = Feed(Path(root), ServeSettings(), background=False)
    yield Client(create_api(feed))
    assert feed.store.last_sequence == 0
    feed.close()


def operation(description: Any, path: str) -> Any:
    return description[path]["POST" if path in POSTING else "GET"]


def answered(case: Any) -> Any:
    """The answer to a generated request, which is one that is described and gives a reason."""
    answer = case.call(timeout=LONGEST_S)
    case.validate_response(answer, checks=DESCRIBED)
    if answer.status_code >= 400:
        check_reasons(answer)
    return answer


def check_reasons(answer: Any) -> None:
    reasons = answer.json()["detail"]
    assert reasons
    assert all(reason["msg"] for reason in reasons)
    if answer.status_code in (400, 422):
        assert all(reason["loc"] for reason in reasons)


def with_known_action(body: Any) -> Any:
    """The same events of an action that the bundle knows: which it knows no description says."""
    if isinstance(body, list):
        return [with_known_action(one) for one in body]
    if not isinstance(body, dict):
        return body
    if "events" in body:
        return {"events": with_known_action(body["events"])}
    return body | {"action": "save"} if "action" in body else body


def has_whole_float(value: Any) -> bool:
    """Whether 3.0 is anywhere: an integer to JSON Schema, and refused here as an id."""
    if isinstance(value, dict):
        return any(map(has_whole_float, value.values()))
    if isinstance(value, list):
        return any(map(has_whole_float, value))
    return isinstance(value, float) and value.is_integer()


def refused_as_unknown(answer: Any) -> bool:
    """Whether the form was right and the bundle does not have what the request names."""
    if answer.status_code == 404:
        return True
    reasons = answer.json()["detail"]
    return answer.status_code == 422 and [r["loc"] for r in reasons] in ([["body"]], [["path"]])


@pytest.mark.parametrize("path", POSTING + READING)
def test_what_does_not_fit_the_description_is_refused_with_a_reason(
    description: Any, path: str
) -> None:
    @given(operation(description, path).as_strategy(generation_mode=UNFIT))
    @settings(drawn, max_examples=UNFIT_BODIES if path in POSTING else UNFIT_PATHS)
    def ask(case: Any) -> None:
        answered(case)

    ask()


@pytest.mark.parametrize("path", POSTING + READING)
def test_what_fits_the_description_is_refused_only_where_it_is_unknown(
    description: Any, path: str
) -> None:
    taken = []

    @given(operation(description, path).as_strategy(generation_mode=FIT))
    @settings(drawn, max_examples=FIT_BODIES)
    def ask(case: Any) -> None:
        assume(not has_whole_float(case.body))
        case.body = with_known_action(case.body)
        answer = answered(case)
        taken.append(answer.status_code == 200)
        assert taken[-1] or refused_as_unknown(answer)

    ask()
    assert any(taken) or path == "/v1/items/{item_id}/similar"


def enumerated(description: Any, path: str, mode: GenerationMode) -> Iterator[Any]:
    """A request for each bound and each keyword of the description."""
    return description.iter_coverage_cases(
        operation(description, path),
        generation_modes=[mode],
        generation_config=description.config.generation,
    )


@pytest.mark.parametrize("path", POSTING + READING + STATUS)
def test_every_bound_of_the_description_is_the_servers(description: Any, path: str) -> None:
    for case in enumerated(description, path, UNFIT):
        answered(case)
    for case in enumerated(description, path, FIT):
        case.body = with_known_action(case.body)
        answer = answered(case)
        assert answer.status_code == 200 or refused_as_unknown(answer)


DEEP = 100_000
MANGLED = {
    "empty": b"",
    "half an object": b'{"user_id": 3',
    "two values": b'{"user_id": 3} {"user_id": 3}',
    "no unicode": b'{"user_id": "\xff\xfe"}',
    "half a surrogate pair": b'{"user_id": "\\ud800", "item_id": "\\ud800", "action": "save"}',
    "a name of half a surrogate pair": b'{"user_id": 3, "item_id": 1005, "\\udfff": 1}',
    "not a number": b'{"user_id": NaN, "item_id": NaN}',
    "no end": b'{"user_id": Infinity, "item_id": -Infinity}',
    "an exponent beyond floats": b'{"user_id": 1e999, "item_id": 1e999}',
    "a whole number beyond 64 bits": b'{"user_id": 9223372036854775808, "item_id": -1%s}'
    % (b"0" * 19),
    "a number of 5000 digits": b'{"user_id": %s}' % (b"7" * 5000),
    "lists without end": b"[" * DEEP,
    "nested lists": b'{"user_id": 3, "item_id": 1005, "zap": %s1%s}' % (b"[" * DEEP, b"]" * DEEP),
    "nested objects": b'{"item_id": 1005, "quality": %s1%s}' % (b'{"a":' * 900, b"}" * 900),
    "a null byte": b"\x00",
    "null bytes in names": b'{"user_id\\u0000": 3, "item_id\\u0000": 3}',
    "a very long string": b'{"user_id": "%s", "item_id": "%s"}'
    % (b"x" * 3_000_000, b"x" * 3_000_000),
    "very many names": b"{%s}" % b",".join(b'"%d": 1' % n for n in range(50_000)),
    "very many nulls": b"[%s]" % b",".join([b"null"] * 100_000),
}


@pytest.mark.parametrize("path", POSTING)
@pytest.mark.parametrize("name", MANGLED)
def test_a_body_that_no_schema_makes_is_refused_with_a_reason(
    client: Client, path: str, name: str
) -> None:
    headers = {"content-type": "application/json"}
    answer = client("POST", path, content=MANGLED[name], headers=headers)
    assert answer.status_code in (400, 422)
    check_reasons(answer)


@pytest.mark.parametrize("path", POSTING)
@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "application/msgpack", ""])
def test_a_body_of_another_type_is_refused_by_its_type(
    client: Client, path: str, kind: str
) -> None:
    answer = client("POST", path, content=b'{"user_id": 3}', headers={"content-type": kind})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["header", "content-type"]


IDS = [
    "%00",
    "%FF",
    "%2F",
    "%2e%2e%2f",
    "9" * 20,
    "9" * 5000,
    "1005%00",
    "%D9%A3",
    "1e3",
    "x" * 9000,
]


@pytest.mark.parametrize("path", READING)
@pytest.mark.parametrize("item_or_user", IDS)
def test_an_id_that_is_none_is_refused_in_a_path(
    client: Client, path: str, item_or_user: str
) -> None:
    found = path.replace("{item_id}", item_or_user).replace("{user_id}", item_or_user)
    answer = client("GET", found)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["path"]


@pytest.mark.parametrize(
    "value", ["nan", "inf", "-1", "0", "60001", "", "null", "\x00", "9" * 5000]
)
def test_a_deadline_that_is_none_is_refused(client: Client, value: str) -> None:
    headers = {"x-deadline-ms": value.encode()}
    answer = client("POST", "/v1/recommend", json={"user_id": 3}, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["header", "x-deadline-ms"]
