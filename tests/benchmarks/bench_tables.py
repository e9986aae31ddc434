"""Speed of ID tables: `python -m tests.benchmarks.bench_tables`.

A step of tables of 64 numbers a row: look-up of one id a table and example, backward from ready
gradients, update. Ours (`models.embeddings.shard`: torchrec, row-wise Adagrad fused in backward)
beside `nn.EmbeddingBag(sparse=True)` with `torch.optim.Adagrad`, which holds a second table of
squares; ids by a power law, the arms taking turns, medians of alternated runs, two threads. The
last line is one JSON object; rows=1000000 tables=8 batch=4096 name other sizes.

A step costs what its distinct rows cost, whatever the number of rows; memory is rows x (dim + 1)
numbers, beside it twice the tables.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from models.batch import Batch, Jagged
from models.embeddings import Table, shard
from ray_jobs.engine.quiet import quiet_libraries
from ray_jobs.engine.worker import alone

if TYPE_CHECKING:
    from collections.abc import Callable

DIM, RUNS, STEPS, RATE = 64, 5, 30, 0.1


class Sum(nn.Module):
    """Stands for the dense part: its gradient is ready at once."""

    def __init__(self, gradient: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.gradient = gradient

    def forward(self, rows: dict[str, Tensor], batch: object) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the rows by fixed weights."""
        del batch
        total = torch.stack([(found * self.gradient).sum() for found in rows.values()]).sum()
        return total * self.scale, {}


def ours(tables: int, rows: int, gradient: Tensor) -> Callable[[list[Tensor]], None]:
    """A step by this project's tables."""
    named = [Table(f"t{at}", rows, DIM) for at in range(tables)]
    model = shard(Sum(gradient), named, RATE, seed=0)

    def step(columns: list[Tensor]) -> None:
        lengths = torch.ones_like(columns[0])
        ids = {f"t{at}": Jagged(column, lengths) for at, column in enumerate(columns)}
        loss, _ = model.module(model.ready(Batch(ids, {})))
        loss.backward()

    return step


def peer(tables: int, rows: int, gradient: Tensor) -> Callable[[list[Tensor]], None]:
    """A step by torch's own."""
    bags = nn.ModuleList(nn.EmbeddingBag(rows, DIM, mode="sum", sparse=True) for _ in range(tables))
    optimizer = torch.optim.Adagrad(bags.parameters(), lr=RATE)
    offsets = torch.arange(len(gradient))
    core = Sum(gradient)

    def step(columns: list[Tensor]) -> None:
        pairs = enumerate(zip(bags, columns, strict=True))
        found = {str(at): bag(column, offsets) for at, (bag, column) in pairs}
        loss, _ = core(found, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def batches(rng: np.random.Generator, tables: int, rows: int, size: int) -> list[list[Tensor]]:
    """Ids above 0 by a power law, in no order of frequency."""
    weights = (10 + np.arange(rows - 1)) ** -0.9
    cumulative = np.cumsum(weights / weights.sum())
    names = 1 + rng.permutation(rows - 1)

    def column() -> Tensor:
        drawn = np.searchsorted(cumulative, rng.random(size))
        return torch.from_numpy(names[np.minimum(drawn, rows - 2)])

    return [[column() for _ in range(tables)] for _ in range(STEPS)]


def measure(tables: int, rows: int, size: int) -> dict[str, list[float]]:
    """Milliseconds a step of each run, by arm."""
    rng, gradient = np.random.default_rng(0), torch.randn(size, DIM)
    arms = {"ours": ours(tables, rows, gradient), "peer": peer(tables, rows, gradient)}
    found: dict[str, list[float]] = {name: [] for name in arms}
    for run in range(RUNS + 1):
        ids = batches(rng, tables, rows, size)
        for name, step in arms.items():
            started = time.perf_counter()
            for columns in ids:
                step(columns)
            if run:
                found[name].append(1000 * (time.perf_counter() - started) / len(ids))
    return found


def main() -> None:
    """Runs and prints."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    tables, rows, size = (
        int(given.get(name, default))
        for name, default in (("tables", 8), ("rows", 1_000_000), ("batch", 4096))
    )
    quiet_libraries()
    results: list[dict[str, list[float]]] = []
    alone(lambda: results.append(measure(tables, rows, size)))
    found = results[0]
    medians = {name: statistics.median(values) for name, values in found.items()}
    line = {
        "name": "tables",
        "params": {"tables": tables, "rows": rows, "dim": DIM, "batch": size},
        "ratio_embedding_bag": round(medians["peer"] / medians["ours"], 2),
        "ms": {name: round(value, 2) for name, value in medians.items()},
        "runs_ms": {name: [round(v, 2) for v in values] for name, values in found.items()},
        "load": os.getloadavg()[0],
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
