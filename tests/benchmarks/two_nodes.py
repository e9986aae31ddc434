"""Two nodes with a disk each and a bucket between them: `python -m tests.benchmarks.two_nodes`.

Each node has an address of its own; jobs are submitted to the head, and their root is in an
S3-compatible server. The second node is killed with all its processes and reaped:

- in training, another joins: rows learnt from, and recall, beside a training without a loss;
- in the sampling of neighbourhoods, another joins: shards beside those of an undisturbed run;
- in training, none joins, with `train.min_workers=1`: how the group goes on;
- in a sweep, none joins: trials and their results beside those of an undisturbed one;
- while feeds are asked for, none joins: what comes back (`cluster_serving`).

`parts=training,sampling` runs some of them. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import storage
from data.contract.artifact import Manifest, current, read
from tests.benchmarks.cluster_serving import serving
from tests.benchmarks.machines import Machines, disturbed, there
from tests.e2e.processes import run
from tests.e2e.ray_nodes import running_head
from tests.object_store import BUCKET, running_s3

TRAINING = (
    *("world.preset=tiny", "model=two_tower", "two_tower.graph_vectors=false"),
    *("two_tower.max_steps=100000", "train.max_epochs=60", "train.patience=100000"),
    *("train.checkpoint_every=10", "train.validate_every=100"),
)
SHARDS = 16
SAMPLING = ("graph.walk.walks=200", "graph.walk.neighbors=20", "prepare.workers=4")
EVERYWHERE = ("prepare.in_process_rows=0",)
SWEEP = (
    *("model=two_tower", "two_tower.graph_vectors=false", "search=grid", "seeds=3"),
    *("grid.two_tower.id_dropout=[0,0.5]", "train.max_steps=400", "train.patience=100000"),
    *("train.checkpoint_every=20", "train.validate_every=100", "split.refit=false"),
)
SPREAD = 4  # trials that have begun: with as many at once as there are CPUs, on both nodes


def training(machines: Machines, folder: Path) -> dict[str, Any]:
    """A node lost while it trains, and another in its place."""
    root = f"s3://{BUCKET}/training"
    words = (f"root={root}", *TRAINING, "train.num_workers=2")
    pointer = "two_tower-*/choose/CURRENT"
    found = disturbed(machines, ("pipeline", *words), lambda: bool(there(root, pointer)), True)
    alone = run("pipeline", f"root={folder / 'alone'}", *TRAINING)
    rows = [rows_of(storage.mirror(root)), rows_of(folder / "alone")]
    recalls = [summary_of(root), alone]
    return found | {
        "rows": rows[0],
        "rows_alone": rows[1],
        "recall@50": recalls[0]["metrics"]["retrieval"]["recall@50"],
        "recall@50_alone": recalls[1]["metrics"]["retrieval"]["recall@50"],
    }


def shrink(machines: Machines, folder: Path) -> dict[str, Any]:
    """A node lost while it trains, and none in its place."""
    root = f"s3://{BUCKET}/shrink"
    fewer = ("train.num_workers=5", "train.min_workers=1", "train.max_epochs=10")
    words = (f"root={root}", *TRAINING, *fewer)
    pointer = "two_tower-*/choose/CURRENT"
    found = disturbed(machines, ("pipeline", *words), lambda: bool(there(root, pointer)), False)
    return found | {"rows": rows_of(storage.mirror(root))}


def sampling(machines: Machines, folder: Path) -> dict[str, Any]:
    """A node lost while it samples neighbourhoods, and another in its place."""
    pairs = write_pairs(folder / "pairs.parquet")
    root = f"s3://{BUCKET}/sampling"
    source = (
        "source.kind=table",
        f"source.events={pairs}",
        "split.kind=column",
        "split.column=split",
    )
    machines.job("prepare", f"root={root}", *source)
    words = (f"root={root}", *SAMPLING, *EVERYWHERE)
    begun = "neighborhoods-*/item-*.arrow"
    found = disturbed(machines, ("sample", *words), lambda: len(there(root, begun)) > 2, True)
    run("prepare", f"root={folder / 'sampled'}", *source)
    summary = run("sample", f"root={folder / 'sampled'}", *SAMPLING)
    alone = current_rows(folder / "sampled", summary)
    disturbed_rows = current_rows(storage.mirror(root), summary_of(root))
    return found | {
        "shards": len(alone.checksums),
        "equal": alone.checksums == disturbed_rows.checksums,
        "nodes": disturbed_rows.details["nodes"],
    }


def tuning(machines: Machines, folder: Path) -> dict[str, Any]:
    """A node lost while it runs trials, and none in its place."""
    root = f"s3://{BUCKET}/tuning"
    for name in ("simulate", "prepare"):
        machines.job(name, f"root={root}", "world.preset=tiny")
        run(name, f"root={folder / 'tuned'}", "world.preset=tiny")
    words = (*SWEEP, "concurrency=5")
    seen: set[str] = set()

    def begun() -> bool:
        """Trials that have ended leave no checkpoint."""
        seen.update(there(root, "two_tower-*/choose/CURRENT"))
        return len(seen) > SPREAD

    found = disturbed(machines, ("tune", f"root={root}", *words), begun, False)
    alone = run("tune", f"root={folder / 'tuned'}", *SWEEP)
    summary = summary_of(root)
    return found | {
        "trials": summary["trials"],
        "failed": summary["failed"],
        "recall@10": [row["metrics"]["recall@10"] for row in summary["table"]],
        "recall@10_alone": [row["metrics"]["recall@10"] for row in alone["table"]],
    }


def write_pairs(file: Path) -> Path:
    """Users and items at random: every item is a node, and has about three edges."""
    rng = np.random.default_rng(0)
    items = SHARDS << 16
    item = np.concatenate([np.arange(1, items), rng.integers(1, items, 2 * items)])
    table = {
        "user_id": rng.integers(1, items // 10, len(item)),
        "item_id": item,
        "action": pa.array(["save"] * len(item)),
        "split": np.where(np.arange(len(item)) % 100, "train", "test"),
    }
    pq.write_table(pa.table(table), file)
    return file


def current_rows(root: Path, summary: dict[str, Any]) -> Manifest:
    """Manifest of sampled neighbourhoods."""
    return read(root / "neighborhoods" / summary["neighborhoods"]).manifest


def rows_of(root: Path) -> int:
    """Rows that the retriever has learnt from."""
    return int(current(root, "two_tower").manifest.details["phases"]["choose"]["rows"])


def summary_of(root: str) -> dict[str, Any]:
    """Summary of the last job of a root."""
    file = storage.mirror(root) / "summary.json"
    storage.fetch(file, fresh=True)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


PARTS = {
    "training": training,
    "sampling": sampling,
    "shrink": shrink,
    "tuning": tuning,
    "serving": serving,
}


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    found: dict[str, Any] = {"name": "two_nodes"}
    with tempfile.TemporaryDirectory(prefix="hf-", dir="/tmp") as name, running_s3() as variables:
        folder = Path(name)
        os.environ |= variables | {"HOMEFEED_MIRROR": str(folder / "here")}
        own = {"HOMEFEED_MIRROR": str(folder / "head"), "GLOO_SOCKET_IFNAME": "lo"}
        with running_head(**variables, **own) as head:
            for part in words.get("parts", ",".join(PARTS)).split(","):
                machines = Machines(head, folder)
                try:
                    found[part] = PARTS[part](machines, folder)
                finally:
                    machines.end()
                print(json.dumps({part: found[part]}), file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
