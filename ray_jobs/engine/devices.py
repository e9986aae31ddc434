"""Where a training computes: on a GPU a worker where there are as many, else on cores."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from ray_jobs.engine.cluster import num_gpus

if TYPE_CHECKING:
    from ray_jobs.engine.loop import TrainSettings

CPU = torch.device("cpu")


def gives_gpus(settings: TrainSettings) -> bool:
    """Whether each Ray Train worker gets a GPU of the connected cluster."""
    return settings.device == "auto" and num_gpus() >= settings.num_workers > 0


def of_driver(settings: TrainSettings) -> torch.device:
    """Where a training without workers computes: on the first GPU of this machine, if any."""
    gpu = settings.device == "auto" and torch.cuda.is_available()
    return torch.device("cuda", 0) if gpu else CPU


def keep_to_gpu(share: float) -> None:
    """Lets this process take so much of the GPU that Ray has given it, or none: others do too.

    Ray shows all GPUs of a machine to a process that it has given none.
    """
    if not share:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def backend(gpu: bool) -> str:
    """What carries collectives; those of the loop and of checkpoints stay on the CPU."""
    return "cpu:gloo,cuda:nccl" if gpu else "gloo"


def computes_in_bfloat16(settings: TrainSettings, device: torch.device) -> bool:
    """Whether the dense part's products are autocast: on a GPU, unless told otherwise."""
    if settings.precision == "auto":
        return device.type == "cuda"
    return settings.precision == "bfloat16"
