"""How stages grow with a log: `python -m tests.benchmarks.growth [folder=runs/growth]`.

A synthetic log of each size (`events=[1000000,10000000,25000000,100000000]`), with a hundred events
a user and two hundred an item, and with a category and a vector of each item, is prepared; graph
encoder, user model, retriever and ranker are trained for `steps` (2,000) steps at most; then
everything is exported and indexed. Each job is a process of its own, and what is finished is found
again. Each size, once it is done, joins `measured=` (a file in the folder), and sizes that the file
has of a named commit are not run again: it outlives the logs. Lines through the two sizes before
the largest are compared with the largest (`ray_jobs.plan`). The last line is one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract.artifact import write_atomically
from ray_jobs.engine.cluster import num_cores
from ray_jobs.plan import compared
from ray_jobs.planning.growth import Growth
from ray_jobs.planning.measured import Measured
from tests.benchmarks.bench_prepare import spread, write_log
from tests.benchmarks.claim import commit

MODELS = ("graph", "user", "two_tower", "ranker")
DAYS, DIM = 60, 32
SUMMARY = "summary.json"
NEAR = 0.01  # days hold whole numbers of events


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    folder = Path(words.get("folder", "runs/growth"))
    events = json.loads(words.get("events", "[1000000,10000000,25000000,100000000]"))
    if len(events) < 3:
        raise SystemExit("events= needs three sizes: two to draw lines through, and a larger one")
    steps, file = int(words.get("steps", "2000")), Path(words.get("measured", folder / "all.json"))
    runs = [measured(folder, size, steps, file) for size in sorted(events)]
    *_, one, other, large = runs
    stages = [stage for stage in large.seconds if all(stage in run.seconds for run in runs)]
    line = {
        "name": "growth",
        "steps": steps,
        "runs": [asdict(run) for run in runs],
        "peak_mib": max((large.peak_mib or large.made_mib).values()),
        "disk_mib": {run.sizes.events: sum(run.bytes.values()) >> 20 for run in runs},
        "seconds": {stage: [run.seconds[stage] for run in runs] for stage in stages},
        "memory_mib": {stage: [run.peak_mib[stage] for run in runs] for stage in stages},
        "predicted": compared(Growth.of([one, other]), large),
    }
    print(json.dumps(line))


def measured(folder: Path, events: int, steps: int, file: Path) -> Measured:
    """What a size has taken: as the file has it, else by running it; the file has it then."""
    known = [Measured.read(tree) for tree in json.loads(file.read_text())] if file.is_file() else []
    others = [run for run in known if abs(run.sizes.events / events - 1) > NEAR]
    for run in known:
        if run not in others and run.commit:
            return run
    found = replace(run_of(folder, events, steps), commit=commit())
    trees = [asdict(run) for run in sorted([*others, found], key=lambda run: run.sizes.events)]
    write_atomically(file, json.dumps(trees, indent=1) + "\n")
    return found


def run_of(folder: Path, events: int, steps: int) -> Measured:
    """All jobs of one size."""
    log, root = folder / f"log-{events}", folder / f"root-{events}"
    if not (log / "done").is_file():
        log.mkdir(parents=True, exist_ok=True)
        sizes = {"events": events, "users": events // 100, "items": events // 200, "days": DAYS}
        write_log(log, sizes)
        write_items(log / "items.parquet", sizes["items"])
        (log / "done").touch()
    source = [
        "source.kind=table",
        f"source.events={log}/day-*",
        f"source.items={log}/items.parquet",
    ]
    limit = [f"train.max_steps={steps}"]
    job_of(folder, root, "prepare", source)
    for model in MODELS:
        job_of(folder, root, "train", [f"model={model}", *limit])
    job_of(folder, root, "export", limit)
    job_of(folder, root, "index", limit)
    return Measured.of(root, num_cores())


def write_items(path: Path, count: int) -> None:
    """A category and a vector of each item, both by its rank."""
    rng = np.random.default_rng(1)
    category = rng.integers(200, size=count)
    centres = rng.normal(size=(200, DIM)).astype(np.float32)
    vectors = centres[category] + rng.normal(size=(count, DIM)).astype(np.float32)
    table = {
        "item_id": spread(np.arange(count)),
        "category": pa.array(category.astype(str)),
        "content": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
    }
    pq.write_table(pa.table(table), path)


def job_of(folder: Path, root: Path, name: str, words: list[str]) -> None:
    """Runs a job unless it was; its stages join the root's summary."""
    done = root / f"{'-'.join([name, *words[:1]]).replace('/', '_')[:60]}.json"
    if done.is_file():
        return
    file = root / SUMMARY
    before: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    command = [sys.executable, "-m", f"ray_jobs.{name}", f"root={root}", *words]
    print(" ".join(command[1:]), file=sys.stderr)
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    summary: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    for part in ("seconds", "peak_mib"):
        summary[part] = before.get(part, {}) | summary[part]
    summary["made"] = before.get("made", []) + summary["made"]
    write_atomically(file, json.dumps(summary))
    write_atomically(done, json.dumps(summary))


if __name__ == "__main__":
    main()
