"""Arms of a benchmark: changes of one thing each, one arm at a time on each core."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import track

from ray_jobs.engine.job import Job
from ray_jobs.tuning.space import with_choice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.queues import Queue

R = TypeVar("R")


def changed(job: Job, words: Mapping[str, Any], seed: int) -> Job:
    """A job with other settings and a seed."""
    return Job(with_choice(job.settings, words, seed), job.arguments, job.root)


def on_each_core(
    function: Callable[..., R], common: Sequence[Any], names: Sequence[str], seeds: int
) -> dict[str, list[R]]:
    """`function(*common, name, seed)` of all names and seeds, in processes kept to a core each."""
    context = multiprocessing.get_context("spawn")
    cores: Queue[int] = context.Queue()
    own = sorted(os.sched_getaffinity(0))
    for core in own:
        cores.put(core)
    with ProcessPoolExecutor(len(own), context, _on_a_core, (cores,)) as pool:
        runs = [
            pool.submit(function, *common, name, seed) for seed in range(seeds) for name in names
        ]
        done = [run.result() for run in track(runs, "arms", console=Console(stderr=True))]
    return {name: done[at :: len(names)] for at, name in enumerate(names)}


def _on_a_core(cores: Queue[int]) -> None:
    """Keeps a process to a core, so that it and the libraries in it work with one thread."""
    os.sched_setaffinity(0, {cores.get()})
