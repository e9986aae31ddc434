"""Where a ranker runs: `python -m tests.benchmarks.bench_placement [hidden=1024] [arms=cpu,mixed]`.

The ranker with fresh weights over the default world's columns, requests of 100 actions and 500
candidates each, 1, 8 and 32 of them at a time, from row numbers on the host to probabilities on
the host. It needs torch and numpy alone. Arms, those with a GPU where there is one:

- `cpu`: all on the CPU, by as many threads as torch takes (threads=);
- `gpu`: tables and features lie on the GPU, which gets one copy of each array of row numbers and
  does everything else, as many small kernels;
- `mixed`: the CPU looks rows up and makes one vector of a row's columns; one copy takes these and
  all else there, and the GPU does the rest (Pancha et al., RecSys'22);
- `gpu_graph`, `mixed_graph`: the GPU's part of either as one captured CUDA graph;
- `mixed_compiled`: the GPU's part by torch.compile; only when asked for, it takes minutes.

Arms take turns in each round. The last line is one JSON object: for each arm and batch `p50_ms`,
`p99_ms`, `requests_per_s` (one batch after the other), `peak_mib` of the GPU, and the largest
difference of a probability to the first arm's. precision=high lets products use TF32. Without a
GPU `gpu` and `mixed` may be asked for too: their steps, not their speed, can be seen.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import tests.benchmarks.torch_alone  # noqa: F401
from models.ranker import Ranker
from models.ranker_settings import RankerSettings
from tests.benchmarks.placement import DEVICE, Placement
from tests.benchmarks.ranker_columns import WORLD
from tests.benchmarks.ranker_size import parameters
from tests.benchmarks.ranker_store import CANDIDATES, HISTORY, Inputs, Store, requests

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS, SECONDS = 8, 0.25
ARMS = ("cpu", "gpu", "mixed", "gpu_graph", "mixed_graph")


class Clock:
    """Wall times of an arm, and the memory of the GPU that it took."""

    def __init__(self, arm: str, model: Ranker, store: Store, batch: list[Inputs]) -> None:
        before = allocated()
        self.placement, self.batch = Placement(arm, model, store, batch[0]), batch
        self.own = allocated() - before
        self.times: list[float] = []
        self.peak = self.own

    def turn(self) -> None:
        """Calls for a while, at least twice; the first is not counted."""
        before = allocated()
        self.placement(self.batch[0])
        until = time.perf_counter() + SECONDS
        while True:
            began = time.perf_counter()
            self.placement(self.batch[len(self.times) % len(self.batch)])
            self.times.append(1000 * (time.perf_counter() - began))
            if time.perf_counter() > until:
                break
        self.peak = max(self.peak, self.own + most_allocated() - before)

    def figures(self, count: int) -> dict[str, float]:
        """What the last line says of it."""
        p50, p99 = np.quantile(self.times, [0.5, 0.99])
        return {
            "p50_ms": round(float(p50), 3),
            "p99_ms": round(float(p99), 3),
            "requests_per_s": round(1000 * count / float(p50), 1),
            "peak_mib": round(self.peak / 2**20, 1),
            "calls": len(self.times),
        }


def allocated() -> int:
    """Bytes of the GPU in use, and from now on their most is noted anew."""
    if DEVICE == "cpu":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return int(torch.cuda.memory_allocated())


def most_allocated() -> int:
    """The most bytes in use since they were last asked for."""
    return int(torch.cuda.max_memory_allocated()) if DEVICE == "cuda" else 0


@torch.inference_mode()
def measure(arms: Sequence[str], model: Ranker, store: Store, count: int) -> dict[str, Any]:
    """Figures of each arm for batches of so many requests."""
    batch = [requests(count, seed) for seed in range(4)]
    clocks = {arm: Clock(arm, model, store, batch) for arm in arms}
    answers = [clock.placement(batch[1]).copy() for clock in clocks.values()]
    for _ in range(ROUNDS):
        for clock in clocks.values():
            clock.turn()
    return {
        arm: clock.figures(count) | {"difference": float(np.abs(answer - answers[0]).max())}
        for (arm, clock), answer in zip(clocks.items(), answers, strict=True)
    }


def settings_of(words: dict[str, str]) -> RankerSettings:
    """The ranker's settings with those whole numbers that are named."""
    known = {f.name for f in dataclasses.fields(RankerSettings)}
    given = {name: int(value) for name, value in words.items() if name in known}
    return dataclasses.replace(RankerSettings(), **given)


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    torch.manual_seed(0)
    torch.set_num_threads(int(words.get("threads", torch.get_num_threads())))
    torch.set_float32_matmul_precision(words.get("precision", "highest"))
    usual = ARMS if DEVICE == "cuda" else ARMS[:1]
    arms = words["arms"].split(",") if "arms" in words else usual
    settings = settings_of(words)
    model = Ranker(settings, WORLD).eval().requires_grad_(False)
    store = Store(settings.id_dim)
    batches = [int(count) for count in words.get("batches", "1,8,32").split(",")]
    line = {
        "name": "placement",
        "params": {"history": HISTORY, "candidates": CANDIDATES, **words},
        "parameters": parameters(model),
        "heads": settings.num_heads,
        "batches": {str(count): measure(arms, model, store, count) for count in batches},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
