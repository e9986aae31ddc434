from dataclasses import replace
from typing import Literal

import pytest
import torch

from ray_jobs.engine import devices, embedding_tasks
from ray_jobs.engine.embedding_tasks import embedding_tasks as tasks_of
from ray_jobs.settings import Settings


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two GPUs, seen from a process that has none."""
    monkeypatch.setattr(embedding_tasks, "connect", lambda _: None)
    monkeypatch.setattr(embedding_tasks, "has_own_gpu", lambda: False)
    monkeypatch.setattr(devices, "built_for_gpus", lambda: True)
    monkeypatch.setattr(devices, "num_gpus", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_task_takes_a_gpu_where_there_are_some() -> None:
    tasks, device = tasks_of(Settings(), few=False)
    assert (tasks.workers, tasks.actor_gpus, device) == (2, 1, "cuda")


def test_without_gpus_tasks_compute_on_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = replace(Settings(), train=replace(Settings().train, device="cpu"))
    found = [tasks_of(cores, few=False)]
    monkeypatch.setattr(devices, "num_gpus", lambda: 0)
    found.append(tasks_of(Settings(), few=False))
    workers = Settings().prepare.workers
    assert [(t.workers, t.actor_gpus, device) for t, device in found] == [(workers, 0, "cpu")] * 2


def test_a_trial_that_holds_a_gpu_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_tasks, "has_own_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    tasks, device = tasks_of(Settings(), few=False)
    assert (tasks.workers, device) == (0, "cuda")


@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_a_few_are_embedded_here_also_on_a_head_without_gpus(
    device: Literal["auto", "gpu"],
) -> None:
    train = replace(Settings().train, device=device, num_workers=4)
    tasks, found = tasks_of(replace(Settings(), train=train), few=True)
    assert (tasks.workers, found) == (0, "cpu")
