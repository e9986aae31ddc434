"""Times and memory of a ranker by where it runs; see `bench_torch_alone`.

The ranker with fresh weights over the default world's columns, requests of 100 actions and 500
candidates each, from row numbers on the host to probabilities on the host. Arms:

- `cpu`: all on the CPU, by as many threads as torch takes;
- `gpu`: tables and features lie on the GPU, which gets one copy of each array of row numbers and
  does everything else, as many small kernels;
- `mixed`: the CPU looks rows up and makes one vector of a row's columns; one copy takes these and
  all else there, and the GPU does the rest (Pancha et al., RecSys'22);
- `gpu_graph`, `mixed_graph`: the GPU's part of either as one captured CUDA graph;
- `mixed_compiled`: the GPU's part by torch.compile; only when asked for, it takes minutes.

Arms take turns in each round. Without a GPU `gpu` and `mixed` may be asked for too: their steps,
not their speed, can be seen.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.ranker import Ranker
from models.ranker_settings import RankerSettings
from tests.benchmarks.device_rate import operations
from tests.benchmarks.placement import DEVICE, Placement, rank
from tests.benchmarks.ranker_columns import WORLD
from tests.benchmarks.ranker_size import parameters
from tests.benchmarks.ranker_store import CANDIDATES, HISTORY, Inputs, Store, requests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROUNDS, SECONDS = 8, 0.25
ARMS = ("cpu", "gpu", "mixed", "gpu_graph", "mixed_graph")
OF_RANKER = "ranker."


class Clock:
    """Wall times of an arm, and the memory of the GPU that it took."""

    def __init__(self, arm: str, model: Ranker, store: Store, batch: list[Inputs]) -> None:
        before = allocated()
        self.placement, self.batch = Placement(arm, model, store, batch[0]), batch
        self.own = allocated() - before
        self.times: list[float] = []
        self.peak = self.own

    def turn(self, seconds: float) -> None:
        """Calls for a while, at least twice; the first is not counted."""
        before = allocated()
        self.placement(self.batch[0])
        until = time.perf_counter() + seconds
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
            "candidates_per_s": round(1000 * count * CANDIDATES / float(p50)),
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
def measure(
    arms: Sequence[str], model: Ranker, store: Store, count: int, seconds: float
) -> dict[str, Any]:
    """Figures of each arm for batches of so many requests, after turns of so many seconds."""
    batch = [requests(count, seed) for seed in range(4)]
    work = operations(lambda: rank(model, store.look_up(batch[0])))
    clocks = {arm: Clock(arm, model, store, batch) for arm in arms}
    answers = [clock.placement(batch[1]).copy() for clock in clocks.values()]
    for _ in range(ROUNDS):
        for clock in clocks.values():
            clock.turn(seconds)
    return {
        arm: clock.figures(count)
        | {"difference": float(np.abs(answer - answers[0]).max())}
        | {"flops_per_s": 1000 * work / float(np.median(clock.times))}
        for (arm, clock), answer in zip(clocks.items(), answers, strict=True)
    }


def settings_of(words: Mapping[str, str]) -> RankerSettings:
    """The ranker's settings with those whole numbers that are named, `ranker.hidden=1024`."""
    named = {OF_RANKER + field.name: field.name for field in dataclasses.fields(RankerSettings)}
    given = {named[word]: int(value) for word, value in words.items() if word in named}
    return dataclasses.replace(RankerSettings(), **given)


def placements(words: Mapping[str, str]) -> dict[str, Any]:
    """Figures of all arms by the requests of a batch."""
    usual = ARMS if DEVICE == "cuda" else ARMS[:1]
    arms = words["arms"].split(",") if "arms" in words else usual
    settings = settings_of(words)
    model = Ranker(settings, WORLD).eval().requires_grad_(False)
    store = Store(settings.id_dim)
    batches = [int(count) for count in words.get("batches", "1,8,32").split(",")]
    seconds = float(words.get("seconds", SECONDS))
    return {
        "history": HISTORY,
        "candidates": CANDIDATES,
        "parameters": parameters(model),
        "heads": settings.num_heads,
        "batches": {str(count): measure(arms, model, store, count, seconds) for count in batches},
    }
