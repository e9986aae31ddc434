"""Speed of sequence training: `python -m tests.benchmarks.bench_sequence`.

The user model beside RecTools' SASRec at equal width, depth, length and batch (64, 2 blocks, 200,
128), on a synthetic log of the shape of MovieLens-1M, two threads, in one run. RecTools gets an
environment of its own (`build/rectools`, made if absent) and its default loss, a softmax over all
items, here the faster one: negatives of each position's own took twelve times as long. The last
line is one JSON object:

- `targets_per_s`: positives predicted a second by a transformer, in the loop of `ray_jobs.train`,
  data included; `pointwise_targets_per_s`: by the default block, HSTU's;
- `ratio_rectools`: the same over RecTools';
- `gemm_share`: products of matrices that a step needs, a second, over the rate of a large one;
- `data_wait`: share of the time in which the loop waits for batches.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import torch

from data.sources import locate
from ray_jobs.engine.cluster import connect
from ray_jobs.engine.job import Job, start
from ray_jobs.prepare import prepare
from ray_jobs.train import train

HERE = Path(__file__).parent
PEER = Path("build/rectools")
PEER_PINS = ("torch==2.13.0", "rectools[torch]==0.19.0")
USERS, ITEMS, MEAN_LENGTH = 6040, 3706, 165
SIZE = {"dim": 64, "blocks": 2, "heads": 2, "length": 200, "batch": 128, "negatives": 1024}
WARM_UP, STEPS = 20, 80


def synthetic_log(seed: int = 0) -> pa.Table:
    """Users of log-normal length, items by a power law."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(96), 1.0, USERS), 20, 2300).astype(np.int64)
    weights = (10 + np.arange(ITEMS)) ** -0.9
    item = rng.choice(ITEMS, int(lengths.sum()), p=weights / weights.sum()) + 1
    position = np.arange(len(item)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    user = np.repeat(np.arange(1, USERS + 1), lengths)
    return pa.table({"user_id": user, "item_id": item, "position": position})


def ours(folder: Path, events: Path, block: str) -> dict[str, float]:
    """Targets a second and data wait of the user model by a block, in its own loop."""
    job = start(
        [
            *(f"root={folder / 'root'}", "source.kind=table", f"source.events={events}"),
            *("source.columns.position=position", "split.kind=leave_one_out"),
            *("split.refit=false", f"user.dim={SIZE['dim']}"),
            *(f"user.id_dim={SIZE['dim']}", f"user.sequence.num_layers={SIZE['blocks']}"),
            *(f"user.sequence.num_heads={SIZE['heads']}", f"user.batch_size={SIZE['batch']}"),
            *(f"user.sequence.max_length={SIZE['length']}", "user.negatives.in_batch=0"),
            *(f"user.sequence.block={block}", "user.objective=sasrec"),
            *(f"user.negatives.random={SIZE['negatives']}", f"train.max_steps={WARM_UP + STEPS}"),
            *("train.validate_every=1000000", "train.log_every=10"),
        ]
    )
    prepare(job, locate(job.settings.source))
    connect(2)
    lines = _curve(job)
    seconds = sum(1 / line["steps_per_s"] for line in lines)
    return {
        "targets_per_s": sum(line["targets"] for line in lines) / seconds,
        "steps_per_s": len(lines) / seconds,
        "data_wait": float(np.mean([line["data_wait"] for line in lines])),
    }


def _curve(job: Job) -> list[dict[str, float]]:
    """Log lines after the warm-up."""
    made = train(job, "user", move_pointer=False, alone=True)
    curve = made.manifest.details["phases"]["choose"]["curve"]
    return [line for line in curve if line["step"] > WARM_UP]


def rectools(events: Path, threads: int) -> float:
    """Targets a second of the softmax over all items."""
    if not (PEER / "bin/python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
    pip = [str(PEER / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, *PEER_PINS], check=True)
    size = SIZE | {"loss": "softmax", "threads": threads, "epochs": 1}
    command = [str(PEER / "bin/python"), str(HERE / "rectools_peer.py"), str(events)]
    ran = subprocess.run([*command, json.dumps(size)], check=True, capture_output=True)
    return float(json.loads(ran.stdout.splitlines()[-1])["targets_per_s"])


def gemm_rate() -> float:
    """Floating-point operations a second of one large product."""
    a = torch.randn(2048, 2048)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2 * 2048**3 / best


def gemm_work(targets: float) -> float:
    """Operations of the products of matrices behind so many targets, forward and backward."""
    d, length = SIZE["dim"], SIZE["length"]
    block = 2 * 12 * d * d + 2 * 2 * (length / 2) * d
    event = 2 * 2 * d * d + SIZE["blocks"] * block
    return 3 * targets * (event + 2 * d * SIZE["negatives"])


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    folder = Path(words.get("root", "runs/bench_sequence")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    events = folder / "events.csv"
    csv.write_csv(synthetic_log(), events)
    threads = os.cpu_count() or 1
    mine, hstu = (ours(folder, events, block) for block in ("softmax", "pointwise"))
    peer = rectools(events, threads)
    line: dict[str, Any] = {
        "name": "sequence",
        "params": SIZE | {"users": USERS, "items": ITEMS, "threads": threads},
        "value": mine["targets_per_s"],
        "unit": "targets_per_s",
        **mine,
        "pointwise_targets_per_s": hstu["targets_per_s"],
        "rectools": peer,
        "ratio_rectools": mine["targets_per_s"] / peer,
        "gemm_share": gemm_work(mine["targets_per_s"]) / gemm_rate(),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
