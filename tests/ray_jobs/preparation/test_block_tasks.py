"""Pieces of work in actors, in a Ray of their own that says it has GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.engine.cluster import LOOPBACK

REPOSITORY = Path(__file__).resolve().parents[3]
PROGRAM = f"""
import json, os, psutil, ray, time
from data.contract.settings import UserError
from ray_jobs.preparation.block_tasks import BlockTasks

def who(said, number):
    if said == "refuse":
        raise UserError("mend the log")
    return number, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")

ray.init(num_cpus=3, num_gpus=2, _node_ip_address="{LOOPBACK}", include_dashboard=False,
         object_store_memory=2**27, log_to_driver=False)
tasks = BlockTasks(3, actor_gpus=1, anywhere=True)
found = {{"done": list(tasks.run(who, "work", 9, "work"))}}
try:
    list(tasks.run(who, "refuse", 2, "work"))
except UserError as error:
    found["said"] = str(error)
tasks = BlockTasks(3, actor_gpus=0, anywhere=True)
found["on cores"] = list(tasks.run(who, "work", 9, "work"))
processes = {{process for _, process, _ in found["on cores"]}}
deadline = time.monotonic() + 30
while any(map(psutil.pid_exists, processes)) and time.monotonic() < deadline:
    time.sleep(0.1)
found["left"] = [process for process in processes if psutil.pid_exists(process)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What three were to do where there are two GPUs."""
    given = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=REPOSITORY,
        env=given | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.ray
def test_work_on_gpus_comes_in_order_from_processes_that_stay(found: dict[str, Any]) -> None:
    numbers, processes, gpus = zip(*found["done"], strict=True)
    assert numbers == tuple(range(9))
    assert len(set(processes)) <= 2
    assert len({*zip(processes, gpus, strict=True)}) == len(set(processes))
    assert set(gpus) <= {"0", "1"}


@pytest.mark.ray
def test_what_the_user_can_mend_is_said_from_a_gpu_too(found: dict[str, Any]) -> None:
    assert found["said"] == "mend the log"


@pytest.mark.ray
def test_work_may_take_all_cores_and_leaves_no_process(found: dict[str, Any]) -> None:
    numbers, processes, _ = zip(*found["on cores"], strict=True)
    assert numbers == tuple(range(9))
    assert len(set(processes)) <= 3
    assert found["left"] == []
