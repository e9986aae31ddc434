"""Speed and memory of prepare: `python -m tests.benchmarks.bench_prepare events=20000000`.

Writes a synthetic log (Parquet, a file a day) beside the root, prepares it, and prints one JSON
line. Sizes: events=, users=, items=, days=; folder= is emptied first.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract.schema import DAY_MS
from data.sources import locate
from ray_jobs.engine.job import start
from ray_jobs.prepare import prepare

SIZES = {"events": 20_000_000, "users": 500_000, "items": 200_000, "days": 60}
FIRST_MS = 1_735_689_600_000
ACTIONS = ("click", "closeup", "hide", "save")


def write_log(folder: Path, sizes: dict[str, int]) -> None:
    """One file a day, rows by time; users and items by Zipf-like laws, hashed 63-bit ids."""
    for day in range(sizes["days"]):
        rng = np.random.default_rng([0, day])
        size = sizes["events"] // sizes["days"]
        table = {
            "event_id": rng.integers(1 << 62, size=size),
            "user_id": _ids(rng, size, sizes["users"]),
            "item_id": _ids(rng, size, sizes["items"]),
            "action": pa.DictionaryArray.from_arrays(rng.integers(4, size=size), ACTIONS),
            "surface": pa.array(["home"] * size).dictionary_encode(),
            "timestamp": FIRST_MS + day * DAY_MS + np.sort(rng.integers(DAY_MS, size=size)),
            "duration_s": rng.exponential(10, size).astype(np.float32),
        }
        pq.write_table(pa.table(table), folder / f"day-{day:03d}.parquet")


def _ids(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    return spread((count * rng.random(size) ** 2).astype(np.int64))


def spread(ranks: np.ndarray) -> np.ndarray:
    """Ids of ranks, all over 62 bits."""
    return (ranks * 0x5851F42D4C957F2D) & ((1 << 62) - 1)


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    sizes = {name: int(words.pop(name, default)) for name, default in SIZES.items()}
    folder = Path(words.pop("folder", "runs/bench_prepare"))
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "log").mkdir(parents=True)
    write_log(folder / "log", sizes)
    source = ["source.kind=table", f"source.events={folder / 'log'}", f"root={folder / 'root'}"]
    job = start([*source, *(f"{key}={value}" for key, value in words.items())])
    with job.stage("prepare"):
        made = prepare(job, locate(job.settings.source))
    events = made.manifest.details["counts"]["events"]
    seconds = job.seconds["prepare"]
    line = {
        "name": "prepare",
        "params": sizes | words,
        "value": round(events / seconds),
        "unit": "events_per_s",
        "events_per_s": round(events / seconds),
        "seconds": seconds,
        "peak_mib": job.peak_mib["prepare"],
        "counts": made.manifest.details["counts"],
        "machine": f"{platform.processor() or platform.machine()}",
    }
    print(json.dumps(line))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
