"""Ray Train: the same `work` on several ranks, restarted from the last checkpoint on failure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ray_jobs.engine.worker import work

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_jobs.engine.assignment import Assignment
    from ray_jobs.engine.loop import Task


def run_workers(assignment: Assignment, task: Callable[[Assignment], Task]) -> None:
    """Trains on `train.num_workers` ranks. A killed worker restarts the group, which resumes."""
    settings = assignment.settings.train
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"assignment": assignment, "task": task},
        scaling_config=ScalingConfig(num_workers=settings.num_workers),
        run_config=RunConfig(
            name=assignment.folder.parent.name + "-" + assignment.phase,
            storage_path=str(assignment.root / "checkpoints" / "ray"),
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )
    trainer.fit()


def _loop(config: dict[str, Any]) -> None:
    assignment: Assignment = config["assignment"]
    workers = assignment.settings.train.num_workers
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    work(assignment, config["task"])
