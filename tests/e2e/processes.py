"""The product as a newcomer meets it: commands in processes of their own, HTTP, signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = (
    "world.preset=tiny",
    "train.max_steps=40",
    "train.validate_every=20",
    "train.refresh_steps=10",
    "two_tower.batch_size=16",
    "ranker.batch_size=16",
)
START_SECONDS = 180


def environment() -> dict[str, str]:
    """Of a shell that has never heard of these tests."""
    hidden = ("RAY_AUTH_MODE", "RAY_ADDRESS", "OMP_NUM_THREADS")
    return {k: v for k, v in os.environ.items() if k not in hidden}


def start(job: str, *words: str) -> subprocess.Popen[str]:
    """Starts a job in the repository."""
    command = [sys.executable, "-m", f"ray_jobs.{job}", *words]
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[str], seconds: float = 600) -> dict[str, Any]:
    """Waits for a job that must succeed; its last line."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err[-4000:]
    summary: dict[str, Any] = json.loads(out.splitlines()[-1])
    return summary


def run(job: str, *words: str) -> dict[str, Any]:
    """Runs a job that must succeed; its last line."""
    return finish(start(job, *words))


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_it_answers(
    ask: Callable[[], object], refusals: type[Exception], seconds: float = 60.0
) -> None:
    """Asks a server until it answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            ask()
        except refusals:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def wait_until_ready(url: str, process: subprocess.Popen[str], token: str = "") -> None:
    """Waits until a server answers that it is ready."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, (process.stderr.read() if process.stderr else "")[-4000:]
        try:
            if httpx.get(f"{url}/readyz", timeout=2, headers=headers).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"{url} was not ready within {START_SECONDS} s")


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """`make serve` of a root while the context lasts; it must end cleanly on Ctrl-C."""
    port = free_port()
    process = start("deploy", f"root={root}", f"serve.port={port}")
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        summary = finish(process, 90)
        assert summary["job"] == "deploy"
    finally:
        process.kill()


def words_of(root: Path, *more: str) -> tuple[str, ...]:
    """Words of a job on a root of these tests."""
    return (f"root={root}", *QUICK, *more)
