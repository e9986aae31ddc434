"""Where a training computes: on a GPU a worker where there are as many, else on cores."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import torch

from data.contract.settings import UserError
from models.embeddings import tables_on_gpus
from ray_jobs.engine.cluster import is_private, num_gpus, num_gpus_here

if TYPE_CHECKING:
    from ray_jobs.engine.loop import TrainSettings

CPU = torch.device("cpu")


def built_for_gpus() -> bool:
    """Whether what is installed here computes on GPUs: torch and fbgemm have builds for CPUs."""
    return torch.backends.cuda.is_built() and tables_on_gpus()


def usable_gpus() -> int:
    """GPUs of the connected cluster, those of this machine only where its builds can use them.

    Ray counts a machine's GPUs by its driver, whatever is installed.
    """
    return num_gpus() if built_for_gpus() else num_gpus() - num_gpus_here()


def gives_gpus(settings: TrainSettings) -> bool:
    """Whether each Ray Train worker gets a GPU of the connected cluster.

    Raises:
        UserError: GPUs are asked for where there will be none.
    """
    if settings.num_workers == 0 or settings.device == "cpu":
        return False
    there = usable_gpus()
    if settings.device == "gpu":
        _refuse_without(bool(there) or not is_private())
        return True
    return there >= settings.num_workers


def shortage(settings: TrainSettings) -> str | None:
    """What to say where there are GPUs, but too few, or none that what is installed can use."""
    there = usable_gpus()
    if settings.device != "auto" or there >= max(1, settings.num_workers):
        return None
    if there < num_gpus():
        return (
            f"{num_gpus_here()} GPUs here, and torch or fbgemm is the build for CPUs: training on "
            "cores; make setup GPU=1 installs those for GPUs"
        )
    if not there:
        return None
    return (
        f"{there} GPUs now for train.num_workers={settings.num_workers}: training on cores; "
        "train.device=gpu waits for as many GPUs as workers"
    )


def of_driver(settings: TrainSettings) -> torch.device:
    """Where a training without workers computes: on the first GPU of this machine, if any.

    Raises:
        UserError: a GPU is asked for where there is none.
    """
    found = of_process(settings)
    _refuse_without(found != CPU or settings.device != "gpu")
    return found


def of_process(settings: TrainSettings) -> torch.device:
    """Where a process computes what is not worth a worker: on the first GPU of its node, if any."""
    gpu = settings.device != "cpu" and torch.cuda.is_available() and built_for_gpus()
    return torch.device("cuda", 0) if gpu else CPU


def gpus_of_tasks(settings: TrainSettings) -> int:
    """GPUs for tasks of which each takes one: those of the connected cluster, 0 for none."""
    if settings.device == "cpu":
        return 0
    asked = max(1, settings.num_workers) if settings.device == "gpu" else 0
    return max(asked, usable_gpus())


def of_worker(given: torch.device) -> torch.device:
    """Where a Ray Train worker computes: on what it was given.

    Raises:
        UserError: a GPU, on a machine whose builds cannot use it.
    """
    if given.type == "cuda" and not built_for_gpus():
        raise UserError(
            f"a worker on {platform.node()} was given a GPU, and fbgemm there is the build for "
            "CPUs; install the other (make setup GPU=1), or set train.device=cpu"
        )
    return given


def _refuse_without(gpus: bool) -> None:
    if not gpus:
        raise UserError(
            "train.device=gpu, and there is no GPU here that the installed builds can use (make "
            "setup GPU=1 installs those for GPUs); leave it at auto, or join a cluster that has "
            "some (RAY_ADDRESS, ray job submit)"
        )


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
    """Whether the dense part's products are autocast: on a GPU that has it, unless told otherwise.

    Older ones (V100, T4) emulate it, slower than single precision.
    """
    if settings.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return settings.precision == "bfloat16"
