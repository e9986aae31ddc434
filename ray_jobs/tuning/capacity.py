"""How many trials run at once: what the cluster has over what a trial takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from data.contract.settings import UserError
from ray_jobs.engine.job import console

if TYPE_CHECKING:
    from ray_jobs.settings import Settings

DRIVER = 0.1  # of a CPU: a trial with workers of its own only waits for them
DATA = 1.0  # CPUs that stay free for tasks that read blocks
EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Room:
    """What there is for trials.

    Attributes:
        cpus: logical CPUs of the cluster.
        gpus: its GPUs.
        cores: of this machine where the cluster is private to it, which has more logical CPUs.
    """

    cpus: float
    gpus: int = 0
    cores: int | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """What one trial takes.

    Attributes:
        driver: CPUs of the trial's own process.
        workers: its Ray Train workers, of a CPU each.
        gpus: of each worker, or a share of one of the trial's own process where it has none.
    """

    driver: float
    workers: int
    gpus: float = 0.0

    @classmethod
    def of(cls, settings: Settings, gpus: int) -> Need:
        """By `train.num_workers`, `tune.cores` and, with GPUs in the cluster, `tune.gpu_share`."""
        workers, tune = settings.train.num_workers, settings.tune
        on_gpus = settings.train.device != "cpu" and gpus >= max(1, workers)
        if workers:
            return cls(DRIVER, workers, float(on_gpus))
        return cls(float(tune.cores), 0, tune.gpu_share * on_gpus)

    @property
    def cpus(self) -> float:
        """CPUs in all."""
        return self.driver + self.workers

    @property
    def own_gpus(self) -> float:
        """GPUs of the trial's own process."""
        return 0.0 if self.workers else self.gpus

    def at_once(self, room: Room) -> int:
        """Trials that can be placed; a share lies on one GPU."""
        by_cpus = int((room.cpus - DATA) / self.cpus + EXACT)
        if not self.gpus:
            return by_cpus
        of_gpus = room.gpus // self.workers if self.workers else room.gpus * self.per_gpu
        return min(by_cpus, of_gpus)

    @property
    def per_gpu(self) -> int:
        """Trials on a GPU that each take a share of."""
        return int(1 / self.gpus + EXACT)

    def __str__(self) -> str:
        """The sum, spelt out."""
        own = f"{self.driver:g} of its own"
        cpus = f"{self.cpus:g} CPUs ({own} + {self.workers} workers)" if self.workers else own
        gpus = self.gpus * max(1, self.workers)
        return f"{cpus} and {gpus:g} GPU{'s' * (gpus > 1)}" if gpus else cpus


def concurrency(need: Need, room: Room, asked: int | None) -> int:
    """Trials to run at once.

    Args:
        need: of a trial.
        room: what there is.
        asked: what the user wants, if anything.

    Raises:
        UserError: not even one trial can be placed, or not so many as were asked for.
    """
    most = need.at_once(room)
    sums = _sums(need, room, most)
    if most < 1:
        raise UserError(f"{sums}; lower train.num_workers or tune.cores, or add nodes")
    if asked is not None and asked > most:
        raise UserError(f"concurrency={asked} cannot be placed: {sums}; set concurrency={most}")
    if asked is not None:
        return asked
    cores = math.inf if room.cores is None else room.cores
    return max(1, int(min(most, cores / max(1.0, need.cpus - DRIVER))))


def _sums(need: Need, room: Room, most: int) -> str:
    free = room.cpus - DATA
    cpus = (
        f"a trial takes {need}, the cluster has {room.cpus:g} CPUs of which {DATA:g} stays with "
        f"the tasks that read data: {free:g} / {need.cpus:g} = {int(free / need.cpus + EXACT)}"
    )
    if not need.gpus:
        return f"{cpus} at once"
    share = f"{need.workers} a trial" if need.workers else f"{need.per_gpu} trials on each"
    return f"{cpus}, and {room.gpus} GPUs, {share}: {most} at once"


def on_devices_of_a_kind(settings: Settings, gpus: int) -> Settings:
    """Settings under which all trials compute on GPUs, or all on cores.

    Where the cluster has some GPUs and fewer than a trial has workers, that is said: GPUs that come
    later would be for some trials, whose results would differ.

    Raises:
        UserError: train.device=gpu, and there are fewer than a trial takes.
    """
    train = settings.train
    if train.device == "gpu" and gpus < max(1, train.num_workers):
        raise UserError(
            f"train.device=gpu, and the cluster has {gpus} GPUs, where a trial takes "
            f"{max(1, train.num_workers)}: start them before the sweep, which is laid out for what "
            "is there"
        )
    if train.device == "cpu" or not 0 < gpus < train.num_workers:
        return settings
    console.print(
        f"a trial has {train.num_workers} workers (train.num_workers) and the cluster {gpus} GPUs: "
        "all trials compute on cores (train.device=cpu)"
    )
    return replace(settings, train=replace(train, device="cpu"))
