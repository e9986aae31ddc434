"""Two nodes with a replica each, of which one is lost while feeds are asked for (`two_nodes`)."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from data.contract import storage
from tests.benchmarks.bench_routing import counted
from tests.benchmarks.bench_serve import body, users_of
from tests.benchmarks.fault_phases import nothing, under_load
from tests.benchmarks.fault_redis import Redis, post, posted
from tests.benchmarks.fault_servers import Server, wait_for
from tests.benchmarks.load import Load
from tests.e2e.processes import free_port
from tests.object_store import BUCKET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.machines import Machines

RATE, SECONDS = 10.0, 15.0
TRIES = 50
WORDS = ("world.preset=tiny", "train.max_steps=20", "train.validate_every=10")


def serving(machines: Machines, folder: Path) -> dict[str, Any]:
    """A node lost with its replica, and none in its place: the head has room for another."""
    root = f"s3://{BUCKET}/serving"
    machines.job("pipeline", f"root={root}", *WORDS)
    machines.join()
    with Redis(folder) as store, deployed(machines, root, store.url) as server:
        before = replicas(server, 2)
        event = post(server, "before the loss")
        bodies = [body(user) for user in users_of(storage.mirror(root))]
        found = under_load(
            Load("127.0.0.1", server.port, bodies),
            RATE,
            SECONDS,
            (
                ("before", nothing),
                ("lost", machines.lose),
                ("again", partial(wait_for, lambda: len(replicas(server, 2)) == 2)),
                ("after", nothing),
            ),
        )
        after = replicas(server, 2)
        read = posted(server)
    return {
        **found,
        "disks": [sorted(one.values()) for one in (before, after)],
        "posted": event,
        "read again": read,
    }


def replicas(server: Server, count: int) -> dict[str, str]:
    """Each replica by its name, and its disk."""
    return {name: disk_of(name) for name in counted(server, count, TRIES)}


def disk_of(name: str) -> str:
    """Last part of the folder that a replica's node keeps files in."""
    pid = int(name.rsplit("-", 2)[1])
    return Path(psutil.Process(pid).environ()["HOMEFEED_MIRROR"]).name


@contextmanager
def deployed(machines: Machines, root: str, store: str) -> Iterator[Server]:
    """Two replicas, by a job that is submitted and stopped."""
    port = free_port()
    words = (f"root={root}", f"serve.port={port}", "serve.replicas=2", f"serve.store={store}")
    name = machines.head.begin("python", "-m", "ray_jobs.deploy", *words)
    server = Server(port)
    try:
        wait_for(lambda: len(replicas(server, 2)) == 2)
        yield server
    finally:
        machines.head.stop(name)
