"""Two Ray nodes, and a job of every kind on both of them.

Within `APART` they are in network namespaces of their own, which asks for no rights where a user
may make some: nothing of one is at the other's loopback, as between machines. Else each has an
address of the loopback. The disk is common, like a network file system.
`python -m tests.e2e.two_machines ROOT`: the last line is one JSON object, on how many nodes each
kind of actor and task ran, and what the first job has come to.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.e2e.processes import QUICK
from tests.e2e.ray_nodes import Head, end, running_head

HERE, THERE = "10.77.0.1", "10.77.0.2"
LOOPBACK = "127.0.0.2", "127.0.0.3"
CPUS = 2  # of each
NETWORK = f"""
ip link set lo up
unshare --net sleep 3000 & far=$!
trap "kill $far" EXIT
until [ "$(readlink /proc/$far/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link add near type veth peer name far netns $far
ip addr add {HERE}/24 dev near
ip link set near up
nsenter --net=/proc/$far/ns/net sh -c "
  ip link set lo up; ip addr add {THERE}/24 dev far; ip link set far up"
FAR=$far "$@"
"""
APART = ("unshare", "--map-root-user", "--net", "bash", "-euc", NETWORK, "bash")
INSIDE = "FAR"
# Every pass and every training leaves the driver, in many pieces; two replicas answer.
SPREAD = (
    *("prepare.in_process_rows=0", "prepare.workers=4", "train.num_workers=2"),
    *("prepare.shard_events=2000", "prepare.block_rows=1000"),
    *("serve.replicas=2", "two_tower.graph_vectors=false", "train.max_steps=10"),
)
SWEEP = ("model=two_tower", "search=grid", "grid.two_tower.id_dropout=[0,0.2,0.4]")


def job(head: Head, name: str, *words: str) -> str:
    """Submits a job that must succeed; what it has printed."""
    done = head.submit("python", "-m", f"ray_jobs.{name}", *words)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-6000:])
    return done.stdout


def nodes_of(rows: list[dict[str, Any]], name: str) -> dict[str, int]:
    """Number of nodes on which each kind ran."""
    found = defaultdict(set)
    for row in rows:
        if row["node_id"]:
            found[row[name]].add(row["node_id"])
    return {kind: len(nodes) for kind, nodes in found.items()}


def places() -> tuple[str, str, tuple[str, ...]]:
    """Addresses of head and node, and the command that leads to the node."""
    if INSIDE not in os.environ:
        return *LOOPBACK, ()
    return HERE, THERE, ("nsenter", f"--net=/proc/{os.environ[INSIDE]}/ns/net")


def two_nodes(root: Path) -> dict[str, Any]:
    """Runs the jobs."""
    here, there, through = places()
    with running_head(here, CPUS) as head:
        node = head.join(there, through)
        try:
            stranger = head.submit("python", "-c", "print('ran')", token=False)
            job(head, "pipeline", f"root={root}", *QUICK, *SPREAD)
            pipeline = json.loads((root / "summary.json").read_text())
            job(head, "tune", f"root={root}", *SWEEP, "train.max_steps=10", "concurrency=3")
            actors, tasks = head.told("actors"), head.told("tasks")
        finally:
            end(node, gently=False)
    return {
        "without token": (stranger.returncode, stranger.stdout, stranger.stderr),
        "served": pipeline["served"],
        "actors": nodes_of(actors, "class_name"),
        "tasks": nodes_of(tasks, "name"),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(two_nodes(Path(sys.argv[1]))) + "\n")
