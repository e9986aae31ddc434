"""Speed of finding the best of many scores: `python -m tests.benchmarks.bench_selection`.

The k best of each line of 500,000 scores, in order, as a validation asks for them
(`data.selection`), beside `numpy.argpartition` with a sort of what it leaves, and `torch.topk`, all
on one thread; the arms take turns, medians of runs with other scores. A bound: the largest score of
each line (`numpy.max`), which reads every score once. The last line is one JSON object; rows=20000
lines=200 name other sizes.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data.selection import best_columns

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 5
SIZES = {"rows": 500_000, "lines": 16}


def partitioned(scores: Any, k: int) -> Any:
    """By numpy."""
    found = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k :]
    order = np.argsort(-np.take_along_axis(scores, found, 1), axis=1)
    return np.take_along_axis(found, order, 1)


def of_torch(scores: Any, k: int) -> Any:
    """By torch."""
    return torch.topk(torch.from_numpy(scores), k, dim=1).indices.numpy()


def largest(scores: Any, k: int) -> Any:
    """Reads every score."""
    del k
    return scores.max(axis=1)


ARMS: dict[str, Callable[[Any, int], Any]] = {
    "ours": best_columns,
    "argpartition": partitioned,
    "topk": of_torch,
    "bound": largest,
}


def measure(rows: int, lines: int, k: int) -> dict[str, float]:
    """Milliseconds a line, by arm."""
    found: dict[str, list[float]] = {name: [] for name in ARMS}
    for run in range(RUNS + 1):
        scores = np.random.default_rng(run).normal(size=(lines, rows)).astype(np.float32)
        for name, arm in ARMS.items():
            started = time.perf_counter()
            arm(scores, k)
            if run:
                found[name].append(1000 * (time.perf_counter() - started) / lines)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    """Runs and prints."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    sizes = {name: int(given.get(name, default)) for name, default in SIZES.items()}
    torch.set_num_threads(1)
    found = {k: measure(sizes["rows"], sizes["lines"], k) for k in (50, 500)}
    line = {
        "name": "selection",
        "params": sizes,
        "ms": {k: {name: round(ms, 3) for name, ms in arms.items()} for k, arms in found.items()},
        "ratio_argpartition": {
            k: round(arms["argpartition"] / arms["ours"], 1) for k, arms in found.items()
        },
        "ratio_topk": {k: round(arms["topk"] / arms["ours"], 1) for k, arms in found.items()},
        "load": os.getloadavg()[0],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
