"""How many trials run at once: what the cluster has over what a trial takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.contract.settings import UserError

if TYPE_CHECKING:
    from ray_jobs.settings import Settings

DRIVER = 0.1  # of a CPU: a trial with workers of its own only waits for them
DATA = 1.0  # CPUs that stay free for tasks that read blocks


@dataclass(frozen=True, slots=True)
class Need:
    """What one trial takes.

    Attributes:
        driver: CPUs of the trial's own process.
        workers: its Ray Train workers, of a CPU each.
    """

    driver: float
    workers: int

    @classmethod
    def of(cls, settings: Settings) -> Need:
        """By `train.num_workers` and `tune.cores`."""
        workers = settings.train.num_workers
        return cls(DRIVER if workers else float(settings.tune.cores), workers)

    @property
    def cpus(self) -> float:
        """CPUs in all."""
        return self.driver + self.workers

    def __str__(self) -> str:
        """The sum, spelt out."""
        own = f"{self.driver:g} of its own"
        return f"{self.cpus:g} CPUs ({own} + {self.workers} workers)" if self.workers else own


def concurrency(need: Need, cluster: float, cores: int | None, asked: int | None) -> int:
    """Trials to run at once.

    Args:
        need: of a trial.
        cluster: logical CPUs of the cluster.
        cores: of this machine where the cluster is private to it, which has more logical CPUs.
        asked: what the user wants, if anything.

    Raises:
        UserError: not even one trial can be placed, or not so many as were asked for.
    """
    room = cluster - DATA
    most = int(room / need.cpus + 1e-9)
    sums = (
        f"a trial takes {need}, the cluster has {cluster:g} CPUs of which {DATA:g} stays with the "
        f"tasks that read data: {room:g} / {need.cpus:g} = {most} at once"
    )
    if most < 1:
        raise UserError(f"{sums}; lower train.num_workers or tune.cores, or add nodes")
    if asked is not None and asked > most:
        raise UserError(f"concurrency={asked} cannot be placed: {sums}; set concurrency={most}")
    if asked is not None:
        return asked
    return most if cores is None else max(1, min(most, int(cores / max(1.0, need.cpus - DRIVER))))
