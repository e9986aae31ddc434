"""Ray Train: the same `work` on several ranks, restarted from the last checkpoint on failure."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer, get_device

from data.contract import storage
from data.contract.storage import StorageError
from ray_jobs.engine import ranks
from ray_jobs.engine.cluster import keep_files_here, kept_handler, num_cores
from ray_jobs.engine.complaint import Complaint
from ray_jobs.engine.devices import backend, gives_gpus, of_worker
from ray_jobs.engine.interfaces import GroupConfig
from ray_jobs.engine.leases import machine
from ray_jobs.engine.worker import work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ray_jobs.engine.assignment import Assignment
    from ray_jobs.engine.loop import Task, TrainSettings

# A minute, Ray's own limit, is less than slow machines and clusters that add nodes need; a group
# that may shrink asks for all of its workers once more before it does.
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
FIXED_S, ELASTIC_S = "600", "120"


def run_workers(assignment: Assignment, task: Callable[[Assignment], Task]) -> None:
    """Trains on `train.num_workers` ranks. A killed worker restarts the group, which resumes.

    Raises:
        UserError: a rank has raised one; that is not tried again.
        StorageError: the root's storage has failed as often.
        TrainingFailedError: the group has failed more than `train.max_failures` times.
    """
    settings = assignment.settings.train
    os.environ.setdefault(START_TIMEOUT, ELASTIC_S if settings.min_workers else FIXED_S)
    complaint = Complaint(assignment.folder / "complaint.txt")
    home = machine() if storage.is_mirrored(assignment.folder) else ""

    # A closure, for the controller would import all that a configuration is made of.
    def loop() -> None:
        _work_on_rank(assignment, task, complaint)
        leave_nothing(assignment.folder, home)

    gpu = gives_gpus(settings)
    trainer = TorchTrainer(
        loop,
        torch_config=GroupConfig(backend(gpu)),
        scaling_config=_scaling(settings, gpu),
        run_config=_run_config(assignment, complaint),
    )
    try:
        with _interruptible():
            trainer.fit()
    except TrainingFailedError as failure:
        complaint.raise_again()
        _raise_storage_error(failure)
        raise


def _raise_storage_error(failure: TrainingFailedError) -> None:
    """Raises what the storage has said on a rank, if that was it."""
    for error in getattr(failure, "worker_failures", {}).values():
        if isinstance(error, StorageError):
            raise error from failure


def _scaling(settings: TrainSettings, gpu: bool) -> ScalingConfig:
    workers: Any = settings.num_workers
    if settings.min_workers:
        workers = (settings.min_workers, settings.num_workers)
    # Over all hosts: each has memory for its part of the tables.
    return ScalingConfig(num_workers=workers, use_gpu=gpu, placement_strategy="SPREAD")


def _run_config(assignment: Assignment, complaint: Complaint) -> RunConfig:
    # Groups that cannot be started count on their own, and by default without end.
    # Ray's type hints show the classes of Train's version 1.
    failures = assignment.settings.train.max_failures
    limits: dict[str, Any] = {"max_failures": failures, "controller_failure_limit": failures}
    callbacks: list[Any] = [complaint]
    filesystem, place = storage.place_of(assignment.folder)
    return RunConfig(
        name="ray",
        storage_path=place,
        storage_filesystem=filesystem,
        failure_config=FailureConfig(**limits),
        callbacks=callbacks,
    )


def _work_on_rank(
    assignment: Assignment, task: Callable[[Assignment], Task], complaint: Complaint
) -> None:
    assignment = assignment.here()
    keep_files_here(storage.is_mirrored(assignment.root))
    ranks_here = ray.train.get_context().get_local_world_size()
    torch.set_num_threads(max(1, num_cores() // ranks_here))
    with complaint.kept():
        work(assignment, task, of_worker(get_device()))


def leave_nothing(folder: Path, home: str) -> None:
    """Removes what this machine mirrors of a training that has ended; every rank calls it.

    All that counts is in the storage once the outcome is, which rank 0 writes last. The driver
    removes its own when what it makes of them is published.

    Args:
        folder: of the training.
        home: name of the driver's machine.
    """
    ranks.barrier()
    if storage.is_mirrored(folder) and machine() != home:
        shutil.rmtree(storage.here(folder), ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lets Ctrl-C be a KeyboardInterrupt again: Ray Train ends the process with code 0."""
    with kept_handler(signal.SIGINT):
        try:
            yield
        except SystemExit:
            raise KeyboardInterrupt from None
