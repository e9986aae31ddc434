"""Faults while feeds are asked for: `python -m tests.benchmarks.serve_faults root=runs/default`.

Each is one of a process, a socket or a file, while requests arrive at a rate whatever comes back:

    replica       one of two replicas of Ray Serve is killed
    surge         one replica that may become two is asked for more than it should have in work
    ranker        the ranker raises
    redis         the store's server is stopped, goes on, is killed, is started again
    slow_source   the two-tower source takes a second more
    corrupted     `bundles/CURRENT` names a bundle with a bit flipped
    swaps         ten switches between two bundles
    other_space   `bundles/CURRENT` names a bundle whose index is of another space than its towers

`seconds=10` is what a phase lasts, `rate=5` requests a second, `faults=a,b` are some of them,
`users=200` those by whose feeds the world tells what a slow source costs. The root is not written
to: a linked copy is served. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from data.contract.artifact import POINTER
from serve.bundle import KIND
from serve.pairing import MODEL
from tests.benchmarks.bench_serve import body, users_of
from tests.benchmarks.bundle_copies import broken, linked_root, point, stranger, twin
from tests.benchmarks.fault_phases import LONGEST_S, nothing, then, under_load
from tests.benchmarks.fault_redis import Redis, post, posted
from tests.benchmarks.fault_servers import (
    Server,
    faulty,
    kill_one,
    replicated,
    wait_for,
    wait_for_replicas,
)
from tests.benchmarks.load import Load
from tests.benchmarks.serve_faulty import RANKER, SLOW
from tests.benchmarks.slow_source import costs

if TYPE_CHECKING:
    from collections.abc import Callable

SWAPS = 10
CROWD = 8


@dataclass(frozen=True)
class Trial:
    """What a fault is tried on.

    Attributes:
        world: the given root, which is only read.
        root: its copy, which is served.
        flags: folder of the files that switch faults on.
        bodies: of the requests.
        seconds: that a phase lasts.
        rate: requests a second.
        users: of the question what a slow source costs.
    """

    world: Path
    root: Path
    flags: Path
    bodies: Sequence[bytes]
    seconds: float
    rate: float
    users: int

    @property
    def version(self) -> str:
        """What serves before anything happens."""
        return (self.root / KIND / POINTER).read_text().strip()

    def run(self, server: Server, *phases: tuple[str, Callable[[], Any]]) -> dict[str, Any]:
        """The phases under load, between one before them and one after."""
        load = Load("127.0.0.1", server.port, self.bodies)
        load.closed(2, 3.0)
        every = (("before", nothing), *phases, ("after", nothing))
        return under_load(load, self.rate, self.seconds, every)


def main(words: Sequence[str]) -> None:
    """Tries faults, and prints what came back."""
    given = dict(word.split("=", 1) for word in words)
    line: dict[str, Any] = {"name": "serve_faults"}
    for name in given.get("faults", ",".join(FAULTS)).split(","):
        with tempfile.TemporaryDirectory() as folder:
            line[name] = FAULTS[name](trial_of(given, Path(folder)))
        print(json.dumps({name: line[name]}), file=sys.stderr)
    print(json.dumps(line))


def trial_of(given: dict[str, str], folder: Path) -> Trial:
    """A fresh copy of the root."""
    world = Path(given["root"])
    root = linked_root(world, folder / "root")
    (folder / "flags").mkdir()
    bodies = [body(user) for user in users_of(root)]
    seconds, rate = float(given.get("seconds", "10")), float(given.get("rate", "5"))
    users = int(given.get("users", "200"))
    return Trial(world, root, folder / "flags", bodies, seconds, rate, users)


def replica(trial: Trial) -> dict[str, Any]:
    """One of two is killed; the other answers until Ray has started a third."""
    with replicated(trial.root, 2) as server:
        wait_for_replicas(server, 2)
        return trial.run(
            server,
            ("killed", partial(kill_one, server)),
            ("started again", partial(wait_for_replicas, server, 2)),
        )


def surge(trial: Trial) -> dict[str, Any]:
    """A crowd comes beside the usual requests, and stays until another replica has come too."""
    with replicated(trial.root, 1, "serve.max_replicas=2") as server, ThreadPoolExecutor(1) as pool:
        crowd, ended = Load("127.0.0.1", server.port, trial.bodies), Event()
        asking = pool.submit(crowd.closed, CROWD, LONGEST_S, ended)
        try:
            found = trial.run(server, ("crowded", partial(wait_for_replicas, server, 2)))
        finally:
            ended.set()
        return found | {"crowd": asking.result().told()}


def ranker(trial: Trial) -> dict[str, Any]:
    """It raises for a while."""
    flag = trial.flags / RANKER
    with faulty(trial.root, trial.flags) as server:
        return trial.run(
            server,
            ("failing", flag.touch),
            ("mended", then(flag.unlink, partial(healthy, server))),
        )


def healthy(server: Server) -> dict[str, Any]:
    """Waits until a server has nothing to complain of."""
    return {"degraded before": server.get("/readyz")["degraded"]} | wait_for(
        lambda: not server.get("/readyz")["degraded"]
    )


def redis(trial: Trial) -> dict[str, Any]:
    """Its process hangs, goes on, dies, and comes back with what it had acknowledged."""
    with (
        Redis(trial.root.parent) as store,
        faulty(trial.root, trial.flags, {"store": store.url}) as server,
    ):
        return trial.run(
            server,
            ("posting", partial(post, server, "before")),
            ("stopped", then(store.stop, partial(post, server, "stopped"))),
            ("continued", then(store.go_on, partial(healthy, server))),
            ("killed", then(store.kill, partial(post, server, "killed"))),
            ("restarted", then(store.start, partial(healthy, server))),
            ("read again", partial(posted, server)),
        )


def slow_source(trial: Trial) -> dict[str, Any]:
    """The most important one takes a second more; then the world is asked what that costs."""
    flag = trial.flags / SLOW
    with faulty(trial.root, trial.flags) as server:
        found = trial.run(
            server,
            ("slow", flag.touch),
            ("mended", then(flag.unlink, partial(healthy, server))),
        )
        return found | {"utility": costs(trial.world, trial.root, server, flag, trial.users)}


def refusing(trial: Trial, server: Server, version: str) -> dict[str, Any]:
    """What the servers say of a version that they are to take and should not."""
    point(trial.root, version)
    waited = wait_for(lambda: server.get("/v1/models")["refused"] is not None)
    models, ready = server.get("/v1/models"), server.get("/readyz")
    return waited | {
        "published": version,
        "bundle": models["bundle"],
        "refused": models["refused"],
        "readyz": {name: ready[name] for name in ("ready", "refused", "degraded")},
    }


def refused_bundle(trial: Trial, make: Callable[[Path, str], str]) -> dict[str, Any]:
    """A version that cannot serve is published, then the one before again."""
    good = trial.version
    bad = make(trial.root, good)
    with faulty(trial.root, trial.flags) as server:
        towers = server.get("/v1/models")["versions"][MODEL]
        return {"served": good, "towers": towers} | trial.run(
            server,
            ("published", partial(refusing, trial, server, bad)),
            ("pointed back", then(partial(point, trial.root, good), partial(healthy, server))),
        )


def corrupted(trial: Trial) -> dict[str, Any]:
    """One bit of a file is not what its checksum says."""
    return refused_bundle(trial, broken)


def other_space(trial: Trial) -> dict[str, Any]:
    """The index is of another space than the towers."""
    return refused_bundle(trial, stranger)


def swaps(trial: Trial) -> dict[str, Any]:
    """Two good versions follow one another."""
    first = trial.version
    second = twin(trial.root, first)
    with faulty(trial.root, trial.flags) as server:

        def swap() -> list[dict[str, Any]]:
            return [switched(trial, server, (second, first)[at % 2]) for at in range(SWAPS)]

        return trial.run(server, ("swapping", swap))


def switched(trial: Trial, server: Server, version: str) -> dict[str, Any]:
    """Points to a version and waits until it serves."""
    point(trial.root, version)
    return {"version": version} | wait_for(lambda: server.get("/v1/models")["bundle"] == version)


FAULTS = {
    fault.__name__: fault
    for fault in (replica, surge, ranker, redis, slow_source, corrupted, swaps, other_space)
}


if __name__ == "__main__":
    main(sys.argv[1:])
