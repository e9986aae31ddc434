"""Materialising neighbourhoods: `python -m tests.benchmarks.bench_sampling`.

A synthetic log of 200,000 items and 5 million edges (users stand for boards) is prepared and
sampled; once more in another root the job is killed when half of its shards are there, and run
again. Memory of the job is compared with the size of the graph. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract.artifact import checksum
from data.sources import locate
from ray_jobs.engine.job import start
from ray_jobs.prepare import prepare

ITEMS, USERS, EVENTS = 200_000, 100_000, 6_300_000
FOLDER = Path("runs/bench_sampling")
WORDS = (
    *("source.kind=table", "split.kind=column", "split.column=split"),
    "graph.objectives=[user_item]",
)


def write_log(path: Path) -> None:
    """Users and items by a power law; one row in ten is the reported part."""
    rng = np.random.default_rng(0)
    item = (ITEMS * rng.random(EVENTS) ** 2).astype(np.int64)
    item[:ITEMS] = np.arange(ITEMS)
    table = {
        "user_id": rng.integers(0, USERS, EVENTS),
        "item_id": item,
        "split": pa.array(np.where(rng.random(EVENTS) < 0.1, "test", "train")),
    }
    pq.write_table(pa.table(table), path)


def words(root: Path) -> list[str]:
    """Settings of both roots."""
    return [f"root={root}", f"source.events={FOLDER / 'events.parquet'}", *WORDS]


def sample(root: Path) -> dict[str, Any]:
    """Runs the job to its end; its summary."""
    command = [
        sys.executable,
        "-m",
        "ray_jobs.sample",
        *words(root),
        "graph.objectives=[user_item]",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def kill_half_way(root: Path) -> int:
    """Starts the job and kills it when half of the shards are there; gives how many."""
    command = [
        sys.executable,
        "-m",
        "ray_jobs.sample",
        *words(root),
        "graph.objectives=[user_item]",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as job:
        while job.poll() is None:
            there = len(list(root.glob("checkpoints/neighborhoods-*/*.arrow")))
            if there >= 2:
                os.kill(job.pid, signal.SIGKILL)
                return there
            time.sleep(0.01)
    raise RuntimeError("the job finished before it could be killed")


def records(root: Path) -> dict[str, str]:
    """Checksums of the records, by file."""
    files = sorted(root.glob("neighborhoods/*/*.arrow"))
    return {file.name: checksum(file) for file in files}


def graph_mib(root: Path) -> float:
    """Size of the graph's files."""
    files = root.glob("adjacency/*/*.npy")
    return sum(file.stat().st_size for file in files) / (1 << 20)


def main() -> None:
    """Runs and prints."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    write_log(FOLDER / "events.parquet")
    job = start(words(FOLDER / "whole"))
    prepare(job, locate(job.settings.source))
    shutil.copytree(FOLDER / "whole", FOLDER / "killed")
    summary = sample(FOLDER / "whole")
    shards = kill_half_way(FOLDER / "killed")
    sample(FOLDER / "killed")
    whole, resumed = records(FOLDER / "whole"), records(FOLDER / "killed")
    line = {
        "name": "sampling",
        "edges": summary["edges"],
        "nodes": ITEMS + USERS,
        "seconds": summary["seconds"]["sample"],
        "peak_mib": summary["peak_mib"]["sample"],
        "graph_mib": round(graph_mib(FOLDER / "whole")),
        "shards": len(whole),
        "killed_after": shards,
        "identical": whole == resumed and len(whole) > shards,
    }
    print(json.dumps(line))
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
