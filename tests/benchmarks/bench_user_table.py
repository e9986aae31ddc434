"""Speed and memory of embedding users: `python -m tests.benchmarks.bench_user_table`.

Users of 256 events each, in tables of 10,000 and of 50,000, each embedded by `ray_jobs.embed` in a
process of its own with a model of two steps (what it knows does not change its speed). The smaller
table is made once more by a run that is killed after two blocks and started again. Sizes: `users=`,
`events=`; `folder=` is emptied first. The last line is one JSON object:

- `users_per_s`, `peak_mib`: of each size, starting the process not counted;
- `memory_growth`: peak of the largest size over that of the smallest;
- `hours_100m`: what a hundred million users would take on this machine, at the largest size's rate;
- `resumed`: whether the killed run's table is the other one, bit for bit.
"""

from __future__ import annotations

import json
import os
import platform
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

from data.contract.artifact import current
from ray_jobs.user_table import UserTable

SIZES = {"users": 10_000, "more_users": 50_000, "events": 256}
ITEMS = 20_000
FIRST_MS = 1_735_689_600_000
MINUTE_MS = 60_000
BLOCKS = 2


def write_log(path: Path, users: int, events: int) -> None:
    """Everybody did as much, over a year, on items by a power law."""
    rng = np.random.default_rng(users)
    size = users * events
    times = np.sort(rng.integers(0, 365 * 24 * 60, (users, events)), 1).ravel()
    table = {
        "user_id": np.repeat(np.arange(1, users + 1), events),
        "item_id": 1 + (ITEMS * rng.random(size) ** 2).astype(np.int64),
        "action": pa.array(["save"]).take(pa.array(np.zeros(size, np.int32))),
        "timestamp": FIRST_MS + MINUTE_MS * times,
    }
    pq.write_table(pa.table(table), path)


def words(folder: Path, root: Path) -> list[str]:
    """Settings of every job."""
    return [f"root={root}", "source.kind=table", f"source.events={folder / 'log.parquet'}"]


def run(job: str, *arguments: str) -> dict[str, Any]:
    """A job in a process of its own; its summary."""
    command = [sys.executable, "-m", f"ray_jobs.{job}", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def prepared(folder: Path, users: int, events: int) -> Path:
    """A root with a log and a model."""
    folder.mkdir(parents=True)
    write_log(folder / "log.parquet", users, events)
    root = folder / "root"
    run("prepare", *words(folder, root))
    run("train", "model=user", *words(folder, root), "train.max_steps=2")
    return root


def measured(folder: Path, root: Path, users: int) -> dict[str, float]:
    """Users a second and peak memory of embedding."""
    summary = run("embed", "model=user", *words(folder, root))
    assert summary["embedded"] == users
    peak = summary["peak_mib"]["embed"]
    return {"users_per_s": round(users / summary["seconds"]["embed"]), "peak_mib": round(peak)}


def killed(folder: Path, root: Path) -> None:
    """Embeds until `BLOCKS` blocks are there, and dies."""
    command = [sys.executable, "-m", "ray_jobs.embed", "model=user", *words(folder, root)]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        while len(list(root.glob("checkpoints/user_embeddings-*/block-*.npz"))) < BLOCKS:
            assert process.poll() is None, "it was done before it could be killed"
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def same(one: Path, other: Path) -> bool:
    """Whether both roots have one table."""
    tables = [UserTable.open(current(root, "user_embeddings")) for root in (one, other)]
    columns = [(table.vectors, table.events, table.as_of) for table in tables]
    return all(np.array_equal(*pair) for pair in zip(*columns, strict=True))


def main() -> None:
    """Runs and prints."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    folder = Path(given.pop("folder", "runs/bench_user_table")).absolute()
    sizes = SIZES | {name: int(value) for name, value in given.items()}
    shutil.rmtree(folder, ignore_errors=True)
    found: dict[int, dict[str, float]] = {}
    for users in (sizes["users"], sizes["more_users"]):
        place = folder / str(users)
        root = prepared(place, users, sizes["events"])
        shutil.copytree(root, place / "killed", symlinks=True)
        found[users] = measured(place, root, users)
    small, large = found.values()
    first = folder / str(sizes["users"])
    killed(first, first / "killed")
    measured(first, first / "killed", sizes["users"])
    line = {
        "name": "user_table",
        "params": sizes,
        "value": large["users_per_s"],
        "unit": "users_per_s",
        "sizes": found,
        "users_per_s": large["users_per_s"],
        "memory_growth": round(large["peak_mib"] / small["peak_mib"], 2),
        "hours_100m": round(1e8 / large["users_per_s"] / 3600, 1),
        "resumed": same(first / "root", first / "killed"),
        "machine": f"{os.cpu_count()} x {platform.processor() or platform.machine()}",
    }
    print(json.dumps(line))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
