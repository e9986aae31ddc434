"""Two Ray nodes in network namespaces of their own, and a job of every kind on both of them.

Nothing of one is at the other's loopback, as between machines; the disk is common, like a network
file system. `python -m tests.e2e.two_machines ROOT` enters the namespaces, which asks for no rights
where a user may make some; the last line is one JSON object: on how many nodes each kind of actor
and task ran, and what the jobs said.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from typing import Any

from tests.e2e.processes import QUICK
from tests.e2e.ray_nodes import Head, end, running_head

HERE, THERE = "10.77.0.1", "10.77.0.2"
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


def inside(root: str) -> dict[str, Any]:
    """Runs in the first namespace."""
    through = ("nsenter", f"--net=/proc/{os.environ[INSIDE]}/ns/net")
    with running_head(HERE, CPUS) as head:
        node = head.join(THERE, through)
        try:
            job(head, "pipeline", f"root={root}", *QUICK, *SPREAD)
            job(head, "tune", f"root={root}", *SWEEP, "train.max_steps=10", "concurrency=3")
            actors, tasks = head.told("actors"), head.told("tasks")
        finally:
            end(node, gently=False)
    return {"actors": nodes_of(actors, "class_name"), "tasks": nodes_of(tasks, "name")}


def main() -> None:
    """Enters the namespaces, or is there."""
    if INSIDE not in os.environ:
        os.execvp(APART[0], [*APART, sys.executable, "-m", "tests.e2e.two_machines", *sys.argv[1:]])
    sys.stdout.write(json.dumps(inside(sys.argv[1])) + "\n")


if __name__ == "__main__":
    main()
