"""Two nodes with a disk each and a bucket between them: `python -m tests.benchmarks.two_nodes`.

Each node has an address of its own; jobs are submitted to the head, and their root is in an
S3-compatible server. The second node is killed with all its processes and reaped:

- in training, another joins: rows learnt from, and recall, beside a training without a loss;
- in the sampling of neighbourhoods, another joins: shards beside those of an undisturbed run;
- in training, none joins, with `train.min_workers=1`: how the group goes on.

`parts=training,sampling,shrink` runs some of them. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from data.contract import storage
from data.contract.artifact import Manifest, current, read
from tests.e2e.processes import run
from tests.e2e.ray_nodes import Head, end, running_head
from tests.object_store import BUCKET, running_s3

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

OTHER = "127.0.0.3"
WAIT_S = 600
TRAINING = (
    *("world.preset=tiny", "model=two_tower", "two_tower.graph_vectors=false"),
    *("two_tower.max_steps=100000", "train.max_epochs=60", "train.patience=100000"),
    *("train.checkpoint_every=10", "train.validate_every=100"),
)
SHARDS = 16
SAMPLING = ("graph.walk.walks=200", "graph.walk.neighbors=20", "prepare.workers=4")
EVERYWHERE = ("prepare.in_process_rows=0",)


class Machines:
    """A head and, while it lives, a second node.

    Args:
        head: of the cluster.
        folder: for the second node's disk.
    """

    def __init__(self, head: Head, folder: Path) -> None:
        self.head, self._folder = head, folder
        self._disk = folder
        self._node: Any = None

    def join(self) -> None:
        """Starts a second node with an empty disk."""
        self._disk = Path(tempfile.mkdtemp(dir=self._folder))
        self._node = self.head.join(OTHER, HOMEFEED_MIRROR=str(self._disk))

    def lose(self) -> int:
        """Kills the second node; gives the number of files that its disk had of the root."""
        self.end()
        return sum(file.is_file() for file in self._disk.rglob("*"))

    def end(self) -> None:
        """Ends the second node if it runs."""
        if self._node is not None:
            end(self._node, gently=False)
            self._node = None

    def job(self, name: str, *words: str) -> str:
        """Submits a job that must succeed and waits for it; what it has printed."""
        done = self.head.submit("python", "-m", f"ray_jobs.{name}", *words)
        if done.returncode:
            raise RuntimeError((done.stdout + done.stderr)[-6000:])
        return done.stdout


def disturbed(
    machines: Machines, words: tuple[str, ...], begun: Callable[[], bool], replaced: bool
) -> dict[str, Any]:
    """Runs a job on two nodes, of which one is lost once it has begun."""
    machines.join()
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(machines.job, *words)
        wait_for(begun, job)
        files = machines.lose()
        lost = time.monotonic()
        if replaced:
            machines.join()
        said = job.result()
    ended = time.monotonic()
    return {
        "succeeded": "succeeded" in said,
        "files_of_the_lost_node": files,
        "seconds": round(ended - started, 1),
        "seconds_after_the_loss": round(ended - lost, 1),
        "groups_started": re.findall(r"Started training worker group of size (\d+)", said),
        "log": [line for line in plain(said) if "RETRY" in line or "marked dead" in line],
    }


def plain(text: str) -> list[str]:
    """Lines without colours, cut."""
    return [line[:200] for line in re.sub(r"\x1b\[\d+m", "", text).splitlines()]


def wait_for(begun: Callable[[], bool], job: Future[Any]) -> None:
    """Until a job is in the middle of its work."""
    ends = time.monotonic() + WAIT_S
    while not begun():
        if job.done() or time.monotonic() > ends:
            raise RuntimeError(f"it never began: {job.result()[-6000:]}")
        time.sleep(0.2)


def there(root: str, pattern: str) -> int:
    """Objects of a root that match."""
    system, place = fs.FileSystem.from_uri(root)
    selector = fs.FileSelector(f"{place}/checkpoints", recursive=True, allow_not_found=True)
    return sum(Path(one.path).match(pattern) for one in system.get_file_info(selector))


def training(machines: Machines, folder: Path) -> dict[str, Any]:
    """A node lost while it trains, and another in its place."""
    root = f"s3://{BUCKET}/training"
    words = (f"root={root}", *TRAINING, "train.num_workers=2")
    pointer = "two_tower-*/choose/CURRENT"
    found = disturbed(machines, ("pipeline", *words), lambda: there(root, pointer) > 0, True)
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
    found = disturbed(machines, ("pipeline", *words), lambda: there(root, pointer) > 0, False)
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
    found = disturbed(machines, ("sample", *words), lambda: there(root, begun) > 2, True)
    run("prepare", f"root={folder / 'sampled'}", *source)
    summary = run("sample", f"root={folder / 'sampled'}", *SAMPLING)
    alone = current_rows(folder / "sampled", summary)
    disturbed_rows = current_rows(storage.mirror(root), summary_of(root))
    return found | {
        "shards": len(alone.checksums),
        "equal": alone.checksums == disturbed_rows.checksums,
        "nodes": disturbed_rows.details["nodes"],
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


PARTS = {"training": training, "sampling": sampling, "shrink": shrink}


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
