"""A Redis server of one's own that writes before it answers."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.e2e.processes import free_port


def is_installed() -> bool:
    return shutil.which("redis-server") is not None


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """Address of a server that keeps what it is given in a folder, and ends with the context."""
    port = free_port()
    words = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "yes"]
    words += ["--appendfsync", "always", "--dir", str(folder)]
    with subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL) as server:
        try:
            url = f"redis://127.0.0.1:{port}/0"
            wait_for(redis.Redis.from_url(url))
            yield url
        finally:
            server.terminate()


def wait_for(server: Any, seconds: float = 10.0) -> None:
    """Until a Redis server answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            server.ping()
        except redis.RedisError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return
