"""Speed of steps that overlap: `python -m tests.benchmarks.bench_step_pipeline`.

Two ranks of one thread each train tables of 64 numbers a row and a perceptron; ids of the next
batch travel while this one is computed (`models.step_pipeline`), beside the same steps one after
the other. Arms take turns, medians of alternated runs; both have learnt the same. The last line is
one JSON object; rows=500000 tables=4 batch=2048 name other sizes.

A step sends 8 bytes an id and takes 4 a number of each row back, however many ranks there are.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.batch import Batch, Jagged
from models.embeddings import Table, shard
from models.step_pipeline import StepPipeline
from models.table_shards import full_tables
from ray_jobs.engine.quiet import quiet_libraries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.embeddings import ShardedModel

DIM, WIDTH, RANKS, RUNS, STEPS = 64, 256, 2, 5, 30
SIZES = {"tables": 4, "rows": 500_000, "batch": 2048}
CPU = torch.device("cpu")
ARMS = ("overlapping", "in_turns")


class Perceptron(nn.Module):
    """Stands for the dense part."""

    def __init__(self, tables: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            *(nn.Linear(tables * DIM, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()),
            nn.Linear(WIDTH, 1),
        )

    def forward(self, rows: dict[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean square of what comes out."""
        del batch
        return self.layers(torch.cat(list(rows.values()), 1)).square().mean(), {}


class Sgd:
    """A step by plain gradient descent."""

    def __init__(self, model: ShardedModel) -> None:
        self.model, self.dense = model, torch.optim.SGD(model.core.parameters(), lr=0.01)

    def zero_grad(self) -> None:
        """Forgets gradients."""
        self.dense.zero_grad()

    def forward(self, batch: Batch) -> tuple[Tensor, None]:
        """The loss."""
        loss, _ = self.model.module(batch)
        return loss, None

    def step(self) -> None:
        """Updates."""
        self.dense.step()


def batches(sizes: dict[str, int], rank: int, run: int) -> Iterator[Batch]:
    """Ids at random."""
    draw = torch.Generator().manual_seed(100 * run + rank)
    once = torch.ones(sizes["batch"], dtype=torch.long)
    for _ in range(STEPS):
        shape = (sizes["tables"], sizes["batch"])
        ids = torch.randint(1, sizes["rows"], shape, generator=draw)
        yield Batch({f"t{at}": Jagged(column, once) for at, column in enumerate(ids)}, {})


def take(model: ShardedModel, given: Iterator[Batch], overlap: bool) -> None:
    """Steps on all batches."""
    step = Sgd(model)
    if overlap:
        for _ in StepPipeline(model, step, CPU).over(map(model.ready, given)):
            pass
        return
    for batch in given:
        step.zero_grad()
        loss, _ = step.forward(model.ready(batch))
        loss.backward()
        step.step()


def work(rank: int, sizes: dict[str, int], folder: str) -> None:
    """One rank; the first leaves milliseconds a step of each run, by arm."""
    quiet_libraries()
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    tables = [Table(f"t{at}", sizes["rows"], DIM) for at in range(sizes["tables"])]
    models = {name: shard(Perceptron(len(tables)), tables, 0.1, seed=0) for name in ARMS}
    found: dict[str, Any] = {name: [] for name in ARMS}
    for run in range(RUNS + 1):
        for name in ARMS if run % 2 else reversed(ARMS):
            given = list(batches(sizes, rank, run))
            dist.barrier()
            started = time.perf_counter()
            take(models[name], iter(given), name == "overlapping")
            if run:
                found[name].append(1000 * (time.perf_counter() - started) / STEPS)
    learnt = [full_tables(models[name].module) for name in ARMS]
    if rank == 0:
        found["equal"] = all(torch.equal(learnt[0][name], learnt[1][name]) for name in learnt[0])
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # torchrec's threads may abort an interpreter that is taken down


def main() -> None:
    """Runs and prints."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    sizes = {name: int(given.get(name, default)) for name, default in SIZES.items()}
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, args=(sizes, folder), nprocs=RANKS)
        found = json.loads(Path(folder, "found.json").read_text())
    medians = {name: statistics.median(found[name]) for name in ARMS}
    line = {
        "name": "step_pipeline",
        "params": {"ranks": RANKS, "dim": DIM, **sizes},
        "ratio_in_turns": round(medians["in_turns"] / medians["overlapping"], 2),
        "equal": found["equal"],
        "ms": {name: round(value, 2) for name, value in medians.items()},
        "runs_ms": {name: [round(v, 2) for v in found[name]] for name in ARMS},
        "load": os.getloadavg()[0],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
