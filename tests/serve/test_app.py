"""The same feed behind Ray Serve's proxy, in a process of its own."""

import gc
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml

from data.contract.settings import UserError
from tests.tiny_root import TinyLog, write_bundle

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def served(
    ray_cluster: None, tmp_path_factory: pytest.TempPathFactory, tiny_log: TinyLog
) -> Iterator[SimpleNamespace]:
    from ray import serve

    from serve.app import app

    root = write_bundle(tmp_path_factory.mktemp("served"), "v1", tiny_log)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"budget_ms": 60_000.0, "deadlines_ms": {"default": 30_000.0}, "poll_seconds": 0.1}
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    serve.run(app({"root": str(root), "settings": settings}), name="homefeed")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield SimpleNamespace(client=client, root=root, settings=settings)
    serve.shutdown()


def recommend(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/recommend", json=body)
    assert answer.status_code == 200
    return dict(answer.json())


def test_a_feed_comes_over_http_and_an_event_is_reflected_in_the_next(
    served: SimpleNamespace,
) -> None:
    before = recommend(served.client, user_id=3)
    assert len(before["items"]) == 10
    assert before["fallback"] is False
    liked = before["items"][0]["item_id"]
    event = {"user_id": 3, "item_id": liked, "action": "save"}
    assert served.client.post("/v1/events", json=event).json()["accepted"] == 1
    assert liked not in [item["item_id"] for item in recommend(served.client, user_id=3)["items"]]


def test_a_replica_looks_for_garbage_among_what_it_serves_alone(
    tmp_path: Path, tiny_log: TinyLog
) -> None:
    from serve.app import FeedReplica

    root = write_bundle(tmp_path, "v1", tiny_log)
    before = len(gc.get_objects())
    try:
        replica = FeedReplica(str(root), {})
        assert len(gc.get_objects()) < before / 4
        del replica
    finally:
        gc.unfreeze()


def test_what_is_posted_must_be_where_the_next_day_finds_it() -> None:
    from serve.app import app

    with pytest.raises(UserError, match=r"s3://bucket/root does not.*serve\.store=redis"):
        app({"root": "s3://bucket/root"})
    assert app({"root": "s3://bucket/root", "settings": {"store": "redis://redis:6379/0"}})


def test_a_bad_body_is_refused_over_http(served: SimpleNamespace) -> None:
    answer = served.client.post("/v1/recommend", json={"user_id": 3, "num_items": -1})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "num_items"]


def test_bundles_switch_under_load_without_a_failed_request(
    served: SimpleNamespace, tiny_log: TinyLog
) -> None:
    """Two clients ask while two bundles follow each other."""
    answers: list[tuple[int, str]] = []
    done = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=served.client.base_url, timeout=30) as client:
            while not done.is_set():
                answer = client.post("/v1/recommend", json={"user_id": 7})
                answers.append((answer.status_code, answer.json()["versions"]["bundle"]))

    clients = [threading.Thread(target=load) for _ in range(2)]
    for client in clients:
        client.start()
    for version in ("v2", "v3"):
        write_bundle(served.root, version, tiny_log)
        wait_until_served(served.client, version)
    done.set()
    for client in clients:
        client.join()
    assert {status for status, _ in answers} == {200}
    assert {"v2", "v3"} <= {version for _, version in answers}


def test_a_user_config_switches_without_a_restart(
    served: SimpleNamespace, tiny_log: TinyLog
) -> None:
    """As `serve deploy` does it: the same configuration, and another bundle in it."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    write_bundle(served.root, "v4", tiny_log)
    pids = []
    for bundle, then in (("", "v4"), ("v1", "v1"), ("", "v4")):
        config = yaml.safe_load((REPOSITORY / "serve" / "config.yaml").read_text())
        config["http_options"]["port"] = served.client.base_url.port
        (application,) = config["applications"]
        application["args"] = {"root": str(served.root), "settings": served.settings}
        application["deployments"][0]["user_config"] = {"bundle": bundle}
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config), _blocking=True)
        wait_until_served(served.client, then)
        pids.append([one["pid"] for one in served.client.get("/v1/models").json()["replicas"]])
    assert pids[0] == pids[1] == pids[2]


def wait_until_served(client: httpx.Client, version: str) -> None:
    end = time.monotonic() + 30
    while client.get("/v1/models").json()["bundle"] != version:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_root_of_the_server_is_told(served: SimpleNamespace) -> None:
    assert Path(served.client.get("/v1/models").json()["root"]) == served.root.resolve()
