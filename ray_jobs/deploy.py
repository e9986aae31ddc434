"""Serves a root on this machine: `python -m ray_jobs.deploy root=runs/default`, Ctrl-C ends it.

What `bundles/CURRENT` names is served, and whatever it names later, without a restart.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import statistics
import sys
import time
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING, Any

import httpx
from ray import serve

from data.contract.artifact import current
from data.contract.settings import UserError, to_tree
from data.contract.storage import uri_of
from ray_jobs.engine.cluster import connect, head_elsewhere, num_gpus, on_head
from ray_jobs.engine.job import console, run
from serve.access import TOKEN
from serve.app import NAME, app, refuse_lone_store, refuse_overcommitment
from serve.bundle import KIND, Bundle
from serve.proxies import ENVIRONMENT, refuse_open
from serve.users import middling_users

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ray_jobs.engine.job import Job
    from serve.proxies import Proxy
    from serve.settings import ServeSettings

LOOPBACK = "127.0.0.1"
SWITCH_SECONDS = 300.0  # a server may have to fetch the bundle first
BUSY_SECONDS = 30.0
# Of a request beyond its budget: for a replica, or for many items to be kept.
WAITING_SECONDS = 10.0
BUSY = (
    httpx.codes.SERVICE_UNAVAILABLE,
    httpx.codes.TOO_MANY_REQUESTS,
    httpx.codes.REQUEST_TIMEOUT,  # what Ray answers while no replica does
)
REQUESTS = 5


class RefusedError(UserError):
    """A server does not take the bundle that it is pointed to."""


def main(job: Job) -> dict[str, Any]:
    """Serves the current bundle over HTTP until Ctrl-C."""
    settings = job.settings.serve
    refuse_open(settings, os.environ.get(TOKEN, ""))
    refuse_lone_store(job.root, settings)
    prepare_environment(settings.proxy)
    refuse_taken_port(settings)  # may connect to Ray
    bundle = Bundle.open(current(job.root, KIND).path)
    # A shell that is no terminal's starts its background jobs deaf to Ctrl-C's signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    port = settings.port or on_head(free_port, settings.host)
    with suppress(KeyboardInterrupt), served(job.root, settings, port) as url:
        line = f"serving {KIND}/{bundle.version} at {url} (try {url}/docs){place()}; Ctrl-C ends it"
        console.print(line, soft_wrap=True)
        while True:
            signal.pause()
    return {"bundle": bundle.version, "seconds_served": round(time.monotonic() - started, 1)}


def place() -> str:
    """On which machine a server's URL holds, where that is another one."""
    head = head_elsewhere()
    return f" on the cluster's head, {head['NodeManagerAddress']}" if head else ""


@contextmanager
def served(root: Path, settings: ServeSettings, port: int) -> Iterator[str]:
    """Serves a root on this process's Ray while the context lasts. Gives the URL on the head.

    Raises:
        UserError: the cluster runs Serve already, which this would reconfigure and then end.
    """
    connect(settings.most_replicas + 1)
    refuse_overcommitment(settings, num_gpus())
    if serve.status().proxies:
        raise UserError(
            f"this Ray cluster runs Serve already, but not {uri_of(root)} at "
            f"serve.port={settings.port}; give the port of its server, or end that first"
        )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="HeadOnly",
        http_options=http_options(settings, port),
        logging_config={"log_level": "WARNING"},
    )
    args = {"root": str(root.resolve()), "settings": to_tree(settings)}
    try:
        serve.run(app(args), name=NAME)
        yield f"http://{settings.host}:{port}"
    finally:
        # Ray reports the end of Serve's controller on stdout as if it were a failure.
        with redirect_stdout(StringIO()):
            serve.shutdown()  # type: ignore[no-untyped-call]


def http_options(settings: ServeSettings, port: int) -> dict[str, Any]:
    """Where Ray Serve listens, and how long a request may wait there for a replica and answer."""
    timeout_s = WAITING_SECONDS + settings.budget_ms / 1000
    return {"host": settings.host, "port": port, "request_timeout_s": timeout_s}


def prepare_environment(proxy: Proxy) -> None:
    """Starts this program again where Ray Serve, imported by now, was to read other variables."""
    wanted = ENVIRONMENT[proxy]
    if wanted.keys() - os.environ.keys():
        os.execve(sys.executable, sys.orig_argv, wanted | os.environ)


def refuse_taken_port(settings: ServeSettings) -> None:
    """Raises UserError when something else listens already."""
    if settings.port and on_head(is_taken, settings.host, settings.port):
        raise UserError(f"port {settings.port} is taken; set serve.port, 0 takes a free one")


def is_taken(host: str, port: int) -> bool:
    """Whether something listens on a port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def free_port(host: str) -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_served(job: Job) -> dict[str, Any]:
    """Asks for a feed over HTTP: a server of this root once it has switched, else one started here.

    Returns:
        status, num_items, fallback and latency_ms (median) of a known user's feed, the bundle that
        serves and, where that is not the current one or no feed came, a warning that says so.

    Raises:
        RefusedError: the server refuses the bundle.
        UserError: the cluster serves something else.
    """
    version = current(job.root, KIND).version
    settings = job.settings.serve
    url = f"http://{settings.host}:{settings.port}"
    if not on_head(serves_root, url, uri_of(job.root.resolve())):
        with served(job.root, alone(settings), on_head(free_port, LOOPBACK)) as own_url:
            return told(on_head(ask, own_url, known_user(job)) | {"bundle": version})
    serving = on_head(wait_for_bundle, url, version)
    if refuses(serving, version):
        raise RefusedError(f"{url} refuses bundle {version}: {serving['refused']['reason']}")
    found = on_head(ask, url, known_user(job)) | {"bundle": serving.get("bundle")}
    if found["bundle"] != version:
        late = f"{url} has not switched to bundle {version} in {SWITCH_SECONDS:g} s; see its log"
        found = {"warning": late} | found
    return told(found)


def alone(settings: ServeSettings) -> ServeSettings:
    """Settings of a server that only its job asks: nobody else is let in, nobody sees its feeds."""
    return replace(settings, host=LOOPBACK, proxy="python", log_requests=False)


def told(found: dict[str, Any]) -> dict[str, Any]:
    """What a server answered, once the warning in it, if any, has been told."""
    if "warning" in found:
        console.print(f"[yellow]warning:[/] {found['warning']}", soft_wrap=True)
    return found


def authorization() -> dict[str, str]:
    """Headers by which this machine's own requests are let in."""
    token = os.environ.get(TOKEN, "")
    return {"Authorization": f"Bearer {token}"} if token else {}


def models(client: httpx.Client) -> dict[str, Any] | None:
    """What a server tells of itself: nothing where none of ours answers, None if it is too busy."""
    try:
        answer = client.get("/v1/models")
        if answer.status_code in BUSY:
            return None
        found = answer.json() if answer.status_code == httpx.codes.OK else {}
    except httpx.TimeoutException:
        return None
    except (httpx.HTTPError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def asking(url: str, timeout_s: float) -> httpx.Client:
    """A client that this machine's own server lets in."""
    return httpx.Client(base_url=url, timeout=timeout_s, headers=authorization())


def serves_root(url: str, root: str) -> bool:
    """Whether a server of this root, as `uri_of` names it, answers at `url`."""
    end = time.monotonic() + BUSY_SECONDS
    with asking(url, 5.0) as client:
        while (found := models(client)) is None and time.monotonic() < end:
            time.sleep(0.1)
    return bool(found and found.get("root") == root)


def wait_for_bundle(url: str, version: str) -> dict[str, Any]:
    """Waits until a server has switched to a version, or refuses it, or time is up.

    Returns:
        what it told of itself last, nothing where it told nothing.
    """
    end, found = time.monotonic() + SWITCH_SECONDS, dict[str, Any]()
    with asking(url, 5.0) as client:
        while True:
            found = models(client) or found
            if found.get("bundle") == version or refuses(found, version):
                return found
            if time.monotonic() >= end:
                return found
            time.sleep(0.1)


def refuses(found: dict[str, Any], version: str) -> bool:
    """Whether a server told that it refuses a version."""
    return bool((found.get("refused") or {}).get("version") == version)


def known_user(job: Job) -> int | str:
    """A user with a history of middling length."""
    bundle = Bundle.open(current(job.root, KIND).path)
    return middling_users(bundle, 1)[0]


def ask(url: str, user_id: int | str) -> dict[str, Any]:
    """Posts a few requests for one user; the first warms up and is not timed."""
    times = []
    with asking(url, 30.0) as client:
        for _ in range(1 + REQUESTS):
            started = time.perf_counter()
            status, body = recommended(client, user_id)
            times.append((time.perf_counter() - started) * 1000)
    found = {
        "status": status,
        "num_items": len(body.get("items", [])),
        "fallback": body.get("fallback"),
        "latency_ms": round(statistics.median(times[1:]), 2),
    }
    if status == httpx.codes.OK:
        return found
    return found | {"warning": f"{url} gave no feed: {status or 'no answer'}; see its log"}


def recommended(client: httpx.Client, user_id: int | str) -> tuple[int | None, dict[str, Any]]:
    """Status of a request for a feed, None where no answer came, and the feed."""
    try:
        answer = client.post("/v1/recommend", json={"user_id": user_id, "num_items": 10})
    except httpx.HTTPError:
        return None, {}
    status = answer.status_code
    return status, answer.json() if status == httpx.codes.OK else {}


if __name__ == "__main__":
    run("deploy", main)
