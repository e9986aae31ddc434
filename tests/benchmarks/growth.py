"""How stages grow with a log: `python -m tests.benchmarks.growth [folder=runs/growth]`.

A synthetic log of each size (`events=[1000000,10000000,25000000,100000000]`), with a hundred events
a user and two hundred an item, and with a category and a vector of each item, is prepared; graph
encoder, ID rows, user model, retriever and ranker are trained for `steps` (2,000) steps at most;
then everything is exported and indexed. Each job is a process of its own, and may take `cap` (6)
GiB with all that it starts, files that are cached included (`memory_cap`); what is finished is
found again. Each size, once it is done, joins `measured=` (a file in the folder), and sizes that
the file has of this commit are not run again: it outlives the logs. Lines through the two sizes
before the largest are compared with the largest (`ray_jobs.plan`). The last line is one JSON
object.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

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
from tests.benchmarks.memory_cap import MemoryCap, memory_cap

MODELS = ("graph", "id", "user", "two_tower", "ranker")
DAYS, DIM = 60, 32
NEAR = 0.01  # days hold whole numbers of events


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    folder = Path(words.get("folder", "runs/growth"))
    events = json.loads(words.get("events", "[1000000,10000000,25000000,100000000]"))
    if len(events) < 3:
        raise SystemExit("events= needs three sizes: two to draw lines through, and a larger one")
    steps, file = int(words.get("steps", "2000")), Path(words.get("measured", folder / "all.json"))
    with memory_cap(float(words.get("cap", "6"))) as cap:
        runs = [measured(Run(folder, size, steps, cap), file) for size in sorted(events)]
    *_, one, other, large = runs
    kinds = [kind for kind in large.seconds if all(kind in run.seconds for run in runs)]
    line = {
        "name": "growth",
        "steps": steps,
        "cap_gib": cap.gib if cap else None,
        "runs": [asdict(run) for run in runs],
        "peak_mib": max(large.peak_mib.values()),
        "disk_mib": {run.sizes.events: sum(run.bytes.values()) >> 20 for run in runs},
        "seconds": {kind: [run.seconds[kind] for run in runs] for kind in kinds},
        "memory_mib": {kind: [run.peak_mib[kind] for run in runs] for kind in kinds},
        "predicted": compared(Growth.of([one, other]), large),
    }
    print(json.dumps(line))


@dataclass(frozen=True)
class Run:
    """One size: where it lies, how long models are trained, and what its jobs may take."""

    folder: Path
    events: int
    steps: int
    cap: MemoryCap | None

    @property
    def log(self) -> Path:
        """Folder of its events and items."""
        return self.folder / f"log-{self.events}"

    @property
    def root(self) -> Path:
        """Of its jobs."""
        return self.folder / f"root-{self.events}"


def measured(run: Run, file: Path) -> Measured:
    """What a size has taken: as the file has it, else by running it; the file has it then."""
    known = [Measured.read(tree) for tree in json.loads(file.read_text())] if file.is_file() else []
    others = [one for one in known if abs(one.sizes.events / run.events - 1) > NEAR]
    for one in known:
        if one not in others and one.commit == commit():
            return one
    found = replace(finished(run), commit=commit())
    trees = [asdict(one) for one in sorted([*others, found], key=lambda one: one.sizes.events)]
    write_atomically(file, json.dumps(trees, indent=1) + "\n")
    return found


def finished(run: Run) -> Measured:
    """All jobs of one size."""
    log, events = run.log, run.events
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
    limit = [f"train.max_steps={run.steps}"]
    job_of(run, "prepare", source)
    for model in MODELS:
        job_of(run, "train", [f"model={model}", *limit])
    job_of(run, "export", limit)
    job_of(run, "index", limit)
    return Measured.of(run.root, num_cores())


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


def job_of(run: Run, name: str, words: list[str]) -> None:
    """Runs a job unless it was."""
    done = run.root / f"{'-'.join([name, *words[:1]]).replace('/', '_')[:60]}.done"
    if done.is_file():
        return
    command = [sys.executable, "-m", f"ray_jobs.{name}", f"root={run.root}", *words]
    print(" ".join(command[1:]), file=sys.stderr)
    enter = run.cap.enter if run.cap else None
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, preexec_fn=enter)
    done.touch()


if __name__ == "__main__":
    main()
