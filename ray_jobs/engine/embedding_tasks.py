"""Who embeds many things, and on what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_jobs.engine.cluster import connect, has_own_gpu
from ray_jobs.engine.devices import gpus_of_tasks, of_process
from ray_jobs.preparation.block_tasks import BlockTasks

if TYPE_CHECKING:
    from ray_jobs.settings import Settings


def embedding_tasks(settings: Settings, few: bool) -> tuple[BlockTasks, str]:
    """Actors, and the device that each computes on: a GPU of its own where the cluster has any.

    A process with a GPU of its own, a sweep's trial, would wait for others that do the same: it
    embeds by itself, as everybody does with `few`.
    """
    train, prepare = settings.train, settings.prepare
    if few:
        return BlockTasks(0), of_process(train).type
    connect(train.num_workers + 2)
    if has_own_gpu():
        return BlockTasks(0), of_process(train).type
    gpus = gpus_of_tasks(train)
    cpus = train.num_workers + 2
    tasks = BlockTasks(gpus or prepare.workers, cpus, actor_gpus=min(gpus, 1), anywhere=True)
    return tasks, "cuda" if gpus else "cpu"
