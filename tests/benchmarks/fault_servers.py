"""Servers to which faults are done: processes of their own, asked over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from tests.e2e.processes import free_port, wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

PATIENCE_S = 180.0


@dataclass(frozen=True)
class Server:
    """A server on loopback."""

    port: int

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> dict[str, Any]:
        """What it tells."""
        found: dict[str, Any] = httpx.get(self.url + path, timeout=30).json()
        return found

    def post(self, path: str, document: Mapping[str, Any]) -> httpx.Response:
        """Sends a document."""
        return httpx.post(self.url + path, json=dict(document), timeout=30)


@contextmanager
def running(command: Sequence[str], port: int) -> Iterator[Server]:
    """A server while the context lasts; Ctrl-C's signal ends it."""
    with subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", process)
            yield Server(port)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(90)


@contextmanager
def faulty(root: Path, flags: Path, settings: Mapping[str, Any] | None = None) -> Iterator[Server]:
    """One process, which files make fail."""
    port = free_port()
    words = (str(root), str(port), str(flags), json.dumps(settings or {}))
    with running(("tests.benchmarks.serve_faulty", *words), port) as server:
        yield server


@contextmanager
def replicated(root: Path, replicas: int, *more: str) -> Iterator[Server]:
    """Several replicas of Ray Serve, under more settings."""
    port = free_port()
    words = (f"root={root}", f"serve.port={port}", f"serve.replicas={replicas}", *more)
    with running(("ray_jobs.deploy", *words), port) as server:
        yield server


def wait_for(holds: Callable[[], bool]) -> dict[str, Any]:
    """Waits until something holds; whether it came to that, and after how long."""
    started = time.monotonic()
    while not (held := asked(holds)) and time.monotonic() - started < PATIENCE_S:
        time.sleep(0.2)
    return {"held": held, "after_s": round(time.monotonic() - started, 1)}


def asked(holds: Callable[[], bool]) -> bool:
    """Whether something holds; not while it cannot be asked for."""
    try:
        return holds()
    except (httpx.HTTPError, ValueError, KeyError):
        return False


def pids(server: Server) -> list[int]:
    """Processes of the replicas."""
    return sorted(note["pid"] for note in server.get("/v1/models")["replicas"])


def wait_for_replicas(server: Server, count: int) -> dict[str, Any]:
    """Waits until so many serve; their processes."""
    waited = wait_for(lambda: len(pids(server)) == count)
    return waited | {"pids": pids(server)}


def kill_one(server: Server) -> dict[str, Any]:
    """Kills the replica of the lowest process id."""
    victim = pids(server)[0]
    os.kill(victim, signal.SIGKILL)
    return {"killed": victim}
