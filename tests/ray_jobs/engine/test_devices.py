import os
from dataclasses import replace

import pytest
import torch

from data.contract.settings import UserError, load
from models import embeddings
from ray_jobs.engine import devices
from ray_jobs.engine.devices import (
    CPU,
    backend,
    built_for_gpus,
    computes_in_bfloat16,
    gives_gpus,
    gpus_of_tasks,
    keep_to_gpu,
    of_driver,
    of_worker,
    shortage,
)
from ray_jobs.engine.loop import TrainSettings
from ray_jobs.settings import Settings

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those for GPUs are installed."""
    monkeypatch.setattr(devices, "built_for_gpus", lambda: True)


@pytest.mark.parametrize(
    ("gpus", "workers", "device", "given"),
    [(2, 2, "auto", True), (1, 2, "auto", False), (0, 2, "auto", False), (2, 2, "cpu", False)],
)
def test_workers_get_gpus_where_each_can_have_one(
    monkeypatch: pytest.MonkeyPatch, gpus: int, workers: int, device: str, given: bool
) -> None:
    monkeypatch.setattr(devices, "num_gpus", lambda: gpus)
    settings = replace(TrainSettings(), num_workers=workers, device=device)
    assert gives_gpus(settings) is given


def test_gpus_that_are_asked_for_are_waited_for_where_a_cluster_may_get_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = replace(TrainSettings(), num_workers=2, device="gpu")
    monkeypatch.setattr(devices, "num_gpus", lambda: 0)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert gives_gpus(asked)
    assert gpus_of_tasks(asked) == 2
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(UserError, match=r"train\.device=gpu, and there is no GPU here"):
        gives_gpus(asked)


def test_tasks_take_the_gpus_that_are_there_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "num_gpus", lambda: 3)
    assert gpus_of_tasks(TrainSettings()) == 3
    assert gpus_of_tasks(TrainSettings(device="cpu")) == 0


def test_too_few_gpus_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "num_gpus", lambda: 3)
    four = replace(TrainSettings(), num_workers=4)
    assert not gives_gpus(four)
    assert "3 GPUs now for train.num_workers=4" in str(shortage(four))
    assert shortage(replace(four, num_workers=3)) is None
    assert shortage(replace(four, device="cpu")) is None


def test_a_driver_takes_the_gpu_of_its_machine_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert of_driver(TrainSettings()) == GPU
    assert of_driver(TrainSettings(device="cpu")) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert of_driver(TrainSettings()) == CPU
    with pytest.raises(UserError, match="there is no GPU here"):
        of_driver(TrainSettings(device="gpu"))


def test_a_process_without_a_gpu_of_its_own_sees_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    keep_to_gpu(1.0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    keep_to_gpu(0.0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_who_shares_a_gpu_takes_its_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    for share in (1.0, 0.25):
        keep_to_gpu(share)
    assert limits == [0.25]


def test_builds_for_cpus_leave_the_gpus_of_their_machine_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "built_for_gpus", lambda: False)
    monkeypatch.setattr(devices, "num_gpus", lambda: 3)
    monkeypatch.setattr(devices, "num_gpus_here", lambda: 1)
    one, two, three = (replace(TrainSettings(), num_workers=n) for n in (0, 2, 3))
    assert of_driver(one) == CPU
    assert gives_gpus(two)
    assert not gives_gpus(three)
    assert gpus_of_tasks(one) == 2
    assert shortage(two) is None
    assert "1 GPUs here, and torch or fbgemm is the build for CPUs" in str(shortage(three))
    with pytest.raises(UserError, match="make setup GPU=1"):
        of_driver(TrainSettings(device="gpu"))


def test_who_trains_alone_is_told_of_a_gpu_that_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "num_gpus", lambda: 1)
    monkeypatch.setattr(devices, "num_gpus_here", lambda: 1)
    assert shortage(TrainSettings()) is None
    monkeypatch.setattr(devices, "built_for_gpus", lambda: False)
    assert "make setup GPU=1" in str(shortage(TrainSettings()))


def test_a_worker_on_a_gpu_that_its_builds_cannot_use_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (of_worker(GPU), of_worker(CPU)) == (GPU, CPU)
    monkeypatch.setattr(devices, "built_for_gpus", lambda: False)
    assert of_worker(CPU) == CPU
    with pytest.raises(UserError, match="was given a GPU, and fbgemm there is the build for CPUs"):
        of_worker(GPU)


@pytest.mark.parametrize(
    ("cuda", "variant", "torchrec", "built"),
    [
        (True, "cuda", True, True),
        (True, "cpu", True, False),
        (False, "cpu", True, False),
        (True, "cpu", False, True),
    ],
)
def test_a_gpu_asks_for_builds_of_torch_and_of_what_holds_the_tables(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, variant: str, torchrec: bool, built: bool
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: cuda)
    monkeypatch.setattr(embeddings.fbgemm_gpu, "__variant__", variant)
    if not torchrec:
        monkeypatch.setattr(embeddings, "EmbeddingBagCollection", None)
    assert built_for_gpus() is built


def test_products_are_in_bfloat16_on_a_gpu_or_where_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert computes_in_bfloat16(TrainSettings(), GPU)
    assert not computes_in_bfloat16(TrainSettings(), CPU)
    assert computes_in_bfloat16(TrainSettings(precision="bfloat16"), CPU)
    assert not computes_in_bfloat16(TrainSettings(precision="float32"), GPU)


def test_a_gpu_that_only_emulates_bfloat16_computes_in_single_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert not computes_in_bfloat16(TrainSettings(), GPU)
    assert computes_in_bfloat16(TrainSettings(precision="bfloat16"), GPU)


def test_collectives_of_the_loop_stay_on_the_cpu() -> None:
    assert "cpu:gloo" in backend(gpu=True)
    assert backend(gpu=False) == "gloo"


def test_a_group_cannot_shrink_to_more_than_it_has() -> None:
    with pytest.raises(UserError, match=r"train\.min_workers=3 is more than"):
        load(Settings, ["train.num_workers=2", "train.min_workers=3"])
