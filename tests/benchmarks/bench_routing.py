"""What keeping users with their replica is worth: `python -m tests.benchmarks.bench_routing`.

Several replicas of `root=` answer the same requests, with and without `x-session-id`, so many at a
time. Users are drawn by Zipf's law from 100,000 ids. A hit is a feed of a user whose last feed the
replica remembers; `bound` is the share of requests whose user had asked before, what one replica
with all of the memory would hit. `replicas=3`, `requests=3000`, `at_once=4`. The last line is one
JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.benchmarks.bench_serve import body, users_of
from tests.benchmarks.bundle_copies import linked_root
from tests.benchmarks.fault_servers import Server, replicated, wait_for_replicas
from tests.benchmarks.load import Load

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNTED = "homefeed_user_feeds_total"
MANY = 1000


def main(words: Sequence[str]) -> None:
    """Measures and prints."""
    given = dict(word.split("=", 1) for word in words)
    replicas, count = int(given.get("replicas", "3")), int(given.get("requests", "3000"))
    at_once = int(given.get("at_once", "4"))
    line: dict[str, Any] = {"name": "routing", "replicas": replicas, "at_once": at_once}
    with tempfile.TemporaryDirectory() as name:
        root = linked_root(Path(given.get("root", "runs/default")), Path(name) / "root")
        users = users_of(root)[:count]
        line |= {"requests": count, "bound": round(1 - len(set(users)) / count, 4)}
        for routed in (False, True):
            with replicated(root, replicas) as server:
                wait_for_replicas(server, replicas)
                found = measured(server, users, at_once, replicas, routed)
            line["by user" if routed else "by load"] = found
            print(json.dumps(found), file=sys.stderr)
    print(json.dumps(line))


def measured(
    server: Server, users: Sequence[int | str], at_once: int, replicas: int, routed: bool
) -> dict[str, Any]:
    """Latency, hits, and the share of the busiest replica."""
    bodies, sessions = [body(user) for user in users], [str(user) for user in users]
    load = Load("127.0.0.1", server.port, bodies, sessions=sessions if routed else ())
    told = load.all(at_once).told()
    found = counted(server, replicas, MANY)
    assert len(found) == replicas, f"{len(found)} replicas answer"
    feeds = {name: sum(by.values()) for name, by in found.items()}
    hits = sum(by.get("yes", 0.0) for by in found.values())
    return told | {
        "hits": round(hits / sum(feeds.values()), 4),
        "feeds": sum(feeds.values()),
        "busiest": round(max(feeds.values()) / sum(feeds.values()), 4),
    }


def counted(server: Server, replicas: int, tries: int) -> dict[str, dict[str, float]]:
    """Replica -> whether users were remembered -> feeds; one replica answers each question."""
    found: dict[str, dict[str, float]] = {}
    for number in range(tries):
        headers = {"x-session-id": str(number)}
        text = httpx.get(f"{server.url}/metrics", headers=headers, timeout=30).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == COUNTED:
                    of_replica = found.setdefault(sample.labels["replica"], {})
                    of_replica[sample.labels["remembered"]] = sample.value
        if len(found) == replicas:
            break
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
