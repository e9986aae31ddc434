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
from io import StringIO
from typing import TYPE_CHECKING, Any

import httpx
from ray import serve

from data.contract.artifact import current
from data.contract.settings import UserError, to_tree
from data.contract.storage import uri_of
from ray_jobs.engine.cluster import connect, num_gpus
from ray_jobs.engine.job import console, run
from serve.access import TOKEN
from serve.app import NAME, app, refuse_lone_store, refuse_overcommitment
from serve.bundle import KIND, Bundle
from serve.proxies import ENVIRONMENT, refuse_open
from serve.users import middling_users

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_jobs.engine.job import Job
    from serve.proxies import Proxy
    from serve.settings import ServeSettings

SWITCH_SECONDS = 60.0
REQUESTS = 5


def main(job: Job) -> dict[str, Any]:
    """Serves the current bundle over HTTP until Ctrl-C."""
    settings = job.settings.serve
    refuse_open(settings, os.environ.get(TOKEN, ""))
    refuse_lone_store(job.root, settings)
    refuse_taken_port(settings)
    prepare_environment(settings.proxy)
    bundle = Bundle.open(current(job.root, KIND).path)
    # A shell that is no terminal's starts its background jobs deaf to Ctrl-C's signal.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    started = time.monotonic()
    with suppress(KeyboardInterrupt), served(job, settings.port or free_port(settings.host)) as url:
        line = f"serving {KIND}/{bundle.version} at {url} (try {url}/docs); Ctrl-C ends it"
        console.print(line, soft_wrap=True)
        while True:
            signal.pause()
    return {"bundle": bundle.version, "seconds_served": round(time.monotonic() - started, 1)}


@contextmanager
def served(job: Job, port: int) -> Iterator[str]:
    """Serves the root on this process's Ray while the context lasts. Gives the URL.

    Raises:
        UserError: the cluster runs Serve already, which this would reconfigure and then end.
    """
    settings = job.settings.serve
    connect(settings.most_replicas + 1)
    refuse_overcommitment(settings, num_gpus())
    if serve.status().proxies:
        raise UserError(
            f"this Ray cluster runs Serve already, but not {uri_of(job.root)} at "
            f"serve.port={settings.port}; give the port of its server, or end that first"
        )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.host, "port": port},
        logging_config={"log_level": "WARNING"},
    )
    args = {"root": str(job.root.resolve()), "settings": to_tree(settings)}
    try:
        serve.run(app(args), name=NAME)
        yield f"http://{settings.host}:{port}"
    finally:
        # Ray reports the end of Serve's controller on stdout as if it were a failure.
        with redirect_stdout(StringIO()):
            serve.shutdown()  # type: ignore[no-untyped-call]


def prepare_environment(proxy: Proxy) -> None:
    """Starts this program again where Ray Serve, imported by now, was to read other variables."""
    wanted = ENVIRONMENT[proxy]
    if wanted.keys() - os.environ.keys():
        os.execve(sys.executable, sys.orig_argv, wanted | os.environ)


def refuse_taken_port(settings: ServeSettings) -> None:
    """Raises UserError when something else listens already."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if settings.port and probe.connect_ex((settings.host, settings.port)) == 0:
            raise UserError(f"port {settings.port} is taken; set serve.port, 0 takes a free one")


def free_port(host: str) -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_served(job: Job) -> dict[str, Any]:
    """Asks for a feed over HTTP: a server of this root once it has switched, else one started here.

    Returns:
        status, num_items, fallback and latency_ms (median) of a known user's feed.
    """
    version = current(job.root, KIND).version
    settings = job.settings.serve
    url = f"http://{settings.host}:{settings.port}"
    if serves_root(url, job):
        wait_for_bundle(url, version)
        return ask(url, known_user(job))
    with served(job, free_port(settings.host)) as own_url:
        return ask(own_url, known_user(job))


def authorization() -> dict[str, str]:
    """Headers by which this machine's own requests are let in."""
    token = os.environ.get(TOKEN, "")
    return {"Authorization": f"Bearer {token}"} if token else {}


def serves_root(url: str, job: Job) -> bool:
    """Whether a server of this root answers at `url`."""
    try:
        answer = httpx.get(f"{url}/v1/models", timeout=5.0, headers=authorization())
        return bool(answer.json()["root"] == str(job.root.resolve()))
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False


def wait_for_bundle(url: str, version: str) -> None:
    """Waits until a server has switched. Raises UserError when it refuses or takes too long."""
    end = time.monotonic() + SWITCH_SECONDS
    while time.monotonic() < end:
        models = httpx.get(f"{url}/v1/models", timeout=5.0, headers=authorization()).json()
        if models["bundle"] == version:
            return
        refused = models["refused"]
        if refused and refused["version"] == version:
            raise UserError(f"{url} refuses bundle {version}: {refused['reason']}")
        time.sleep(0.1)
    raise UserError(f"{url} still serves {models['bundle']}, not {version}; see its log")


def known_user(job: Job) -> int | str:
    """A user with a history of middling length."""
    bundle = Bundle.open(current(job.root, KIND).path)
    return middling_users(bundle, 1)[0]


def ask(url: str, user_id: int | str) -> dict[str, Any]:
    """Posts a few requests for one user; the first warms up and is not timed."""
    times = []
    with httpx.Client(base_url=url, timeout=30.0, headers=authorization()) as client:
        for _ in range(1 + REQUESTS):
            started = time.perf_counter()
            answer = client.post("/v1/recommend", json={"user_id": user_id, "num_items": 10})
            times.append((time.perf_counter() - started) * 1000)
    body = answer.json()
    return {
        "status": answer.status_code,
        "num_items": len(body.get("items", [])),
        "fallback": body.get("fallback"),
        "latency_ms": round(statistics.median(times[1:]), 2),
    }


if __name__ == "__main__":
    run("deploy", main)
