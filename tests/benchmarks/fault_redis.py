"""A Redis server of one's own that can be stopped, killed and started again, and events for it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import redis

from tests.benchmarks.fault_servers import wait_for
from tests.e2e.processes import free_port

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from tests.benchmarks.fault_servers import Server


class Redis:
    """A server that writes before it answers, while the context lasts.

    Args:
        folder: where it keeps its file.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        assert program is not None, "needs redis-server (make servers)"
        port = free_port()
        words = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
        self._command = [program, *words, "--appendonly", "yes", "--appendfsync", "always"]
        self.url = f"redis://127.0.0.1:{port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        with redis.Redis.from_url(self.url) as client:
            wait_for(lambda: answers(client))

    def stop(self) -> None:
        """Lets it hang."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it without warning."""
        self._process.kill()
        self._process.wait()


def answers(client: Any) -> bool:
    """Whether a server answers."""
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def post(server: Server, event_id: str) -> dict[str, Any]:
    """Posts an event of one of the users; its status, and how long that took."""
    models, started = server.get("/v1/models"), time.monotonic()
    user = models["example_users"][0]
    item = server.post("/v1/recommend", {"user_id": user, "num_items": 1}).json()["items"][0]
    event = {
        "user_id": user,
        "item_id": item["item_id"],
        "action": models["actions"][0],
        "event_id": event_id,
    }
    started = time.monotonic()
    status = server.post("/v1/events", event).status_code
    return {"event": event, "status": status, "took_s": round(time.monotonic() - started, 2)}


def posted(server: Server) -> dict[str, Any]:
    """What is known of the newest action of that user."""
    user = server.get("/v1/models")["example_users"][0]
    return {"newest action": server.get(f"/v1/users/{user}/actions?limit=1")["actions"]}
