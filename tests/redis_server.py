"""A Redis server of one's own that writes before it answers."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from tests.e2e.processes import free_port, wait_until_it_answers


def is_installed() -> bool:
    return shutil.which("redis-server") is not None


@contextmanager
def running_redis(folder: Path, password: str = "") -> Iterator[str]:
    """Address of a server that keeps what it is given in a folder, and ends with the context."""
    port = free_port()
    words = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "yes"]
    words += ["--appendfsync", "always", "--dir", str(folder)]
    words += ["--requirepass", password] if password else []
    with subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL) as server:
        try:
            url = f"redis://127.0.0.1:{port}/0"
            wait_until_it_answers(
                redis.Redis.from_url(url, password=password or None).ping, redis.RedisError
            )
            yield url
        finally:
            server.terminate()
