"""Training on real Ray Train workers: rows counted once, losses of all ranks, kills, bad input."""

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

import data.timelines
from data.contract import storage
from data.contract.mirrors import PLACE
from data.contract.settings import UserError
from data.contract.storage import StorageError
from data.dataset import Dataset
from data.sources import world_tables
from ray_jobs.engine import ranks
from ray_jobs.engine.assignment import Assignment
from ray_jobs.engine.group import leave_nothing, run_workers
from ray_jobs.engine.job import Job, start
from ray_jobs.engine.leases import machine
from ray_jobs.engine.streams import Progress, portions, tickets
from ray_jobs.engine.worker import CURVE, OUTCOME, PLAN, alone, work
from ray_jobs.prepare import prepare
from ray_jobs.simulate import simulate
from ray_jobs.tasks.two_tower import TwoTowerTask
from ray_jobs.tasks.user import UserTask

EPOCHS = 2
CHECKPOINT, KILL = 4, 7
FIRST_STEPS = 40
WORDS = (
    "world.preset=tiny",
    "world.num_users=120",
    "world.num_items=300",
    "two_tower.batch_size=16",
    "two_tower.dim=16",
    "two_tower.id_dim=8",
    "user.batch_size=16",
    "user.dim=16",
    "user.id_dim=8",
    "user.sequence.max_length=20",
    "user.negatives.in_batch=64",
    "user.negatives.random=64",
    f"train.max_epochs={EPOCHS}",
    "train.max_steps=1000",
    "train.validate_every=1000",
    "train.log_every=1",
    f"train.checkpoint_every={CHECKPOINT}",
    "train.max_failures=1",
)


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")


@pytest.fixture(scope="module")
def root_of_blocks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Job]:
    """Prepared roots whose timelines lie in blocks of so many users."""

    def root_of_blocks(users: int) -> Job:
        job = start([f"root={tmp_path_factory.mktemp('roots') / 'root'}", *WORDS])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data.timelines, "ROW_GROUP_USERS", users)
            prepare(job, world_tables(simulate(job).path))
        return job

    return root_of_blocks


def assignment_of(
    job: Job, folder: Path, workers: int, model: str = "two_tower", **train: Any
) -> Assignment:
    of_loop = dataclasses.replace(job.settings.train, num_workers=workers, **train)
    folder.mkdir(parents=True, exist_ok=True)
    return Assignment(
        root=job.root.absolute(),
        model=model,
        settings=dataclasses.replace(job.settings, train=of_loop),
        dataset_version=Dataset.open(job.root).artifact.version,
        folder=folder,
        phase="choose",
    )


def outcome_of(assignment: Assignment) -> dict[str, Any]:
    outcome: dict[str, Any] = json.loads((assignment.folder / OUTCOME).read_text())
    return outcome


def losses_of(assignment: Assignment) -> list[float]:
    return [line["loss"] for line in outcome_of(assignment)["curve"]]


def note(assignment: Assignment, name: str) -> None:
    """Adds a character to a file, for the test to count."""
    with (assignment.folder / f"noted-{name}").open("a") as file:
        file.write(".")


def noted(assignment: Assignment, name: str) -> int:
    file = assignment.folder / f"noted-{name}"
    return len(file.read_text()) if file.is_file() else 0


class KilledTask(TwoTowerTask):
    """Its rank 1 dies in a step after the first checkpoint, once."""

    def build(self) -> Any:
        core, tables = super().build()
        note(self.assignment, f"start-{ranks.rank()}")
        core.register_forward_pre_hook(self._before_step)
        return core, tables

    def _before_step(self, *_: Any) -> None:
        start = noted(self.assignment, f"start-{ranks.rank()}")
        step = f"step-{ranks.rank()}-{start}"
        note(self.assignment, step)
        if ranks.rank() == 1 and start == 1 and noted(self.assignment, step) == KILL:
            os.kill(os.getpid(), signal.SIGKILL)


class RefusingTask(TwoTowerTask):
    """Its rank 1 finds something that the user can mend, while rank 0 waits for it."""

    def build(self) -> Any:
        note(self.assignment, f"start-{ranks.rank()}")
        if ranks.rank() == 1:
            raise UserError("the log has 3 events of tomorrow; set split.days")
        return super().build()


class UnansweredTask(TwoTowerTask):
    """The storage does not answer its rank 1 when it starts first."""

    def build(self) -> Any:
        note(self.assignment, f"start-{ranks.rank()}")
        if ranks.rank() == 1 and noted(self.assignment, "start-1") == 1:
            raise StorageError("s3://company/root cannot be read: connection reset")
        return super().build()


def epoch_rows(assignment: Assignment) -> int:
    """Windows of all epochs, cut without Ray."""
    task = TwoTowerTask(assignment)
    plan = task.plan()
    todo = tickets(plan, Progress(), EPOCHS, 0, 1)
    batches = portions(plan, todo, task.collate, lambda blocks: (b.read() for b in blocks))
    return sum(len(portion.batch.weight) for portion in batches)


def test_a_killed_worker_costs_no_row_and_counts_none_twice(
    ray_cluster: None, root_of_blocks: Callable[[int], Job], tmp_path: Path
) -> None:
    assignment = assignment_of(root_of_blocks(25), tmp_path / "run", workers=2)
    run_workers(assignment, KilledTask)
    outcome = outcome_of(assignment)
    assert [noted(assignment, f"start-{rank}") for rank in (0, 1)] == [2, 2]
    assert noted(assignment, "step-1-2") == outcome["steps"] - CHECKPOINT
    assert outcome["rows"] == epoch_rows(assignment)
    curve = (tmp_path / "run" / CURVE).read_text().splitlines()
    steps = [json.loads(line)["step"] for line in curve]
    assert steps == [line["step"] for line in outcome["curve"]] == [*range(1, len(steps) + 1)]
    assert outcome["plan"] == (tmp_path / "run" / PLAN).read_text()
    assert "user_id" in outcome["plan"]


def test_curves_of_two_workers_and_of_none_are_one_where_one_rank_has_all_rows(
    ray_cluster: None, root_of_blocks: Callable[[int], Job], tmp_path: Path
) -> None:
    job = root_of_blocks(512)
    driver = assignment_of(job, tmp_path / "driver", workers=0)
    alone(lambda: work(driver, TwoTowerTask))
    group = assignment_of(job, tmp_path / "group", workers=2)
    run_workers(group, TwoTowerTask)
    one, two = outcome_of(driver), outcome_of(group)
    assert one["rows"] == two["rows"] == epoch_rows(driver)
    assert one["best_step"] == two["best_step"] == two["steps"]
    for name in ("loss", "pool_top1"):
        curves = [torch.tensor([line[name] for line in run["curve"]]) for run in (one, two)]
        torch.testing.assert_close(*curves, rtol=0.02, atol=0.01)


def test_products_in_bfloat16_learn_as_much(
    ray_cluster: None, root_of_blocks: Callable[[int], Job], tmp_path: Path
) -> None:
    job, losses = root_of_blocks(512), []
    for precision in ("float32", "bfloat16"):
        run = assignment_of(job, tmp_path / precision, workers=0, precision=precision)
        alone(lambda run=run: work(run, TwoTowerTask))
        losses.append(losses_of(run))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_checkpoint_of_two_workers_goes_on_with_one_and_with_two(
    ray_cluster: None, root_of_blocks: Callable[[int], Job], tmp_path: Path
) -> None:
    job = root_of_blocks(25)
    steps = {"max_epochs": 1000, "checkpoint_every": FIRST_STEPS}
    first = assignment_of(job, tmp_path / "first", 2, "user", max_steps=FIRST_STEPS, **steps)
    run_workers(first, UserTask)
    before = losses_of(first)
    assert len(before) == FIRST_STEPS
    for workers in (1, 2):
        folder = tmp_path / f"by-{workers}"
        shutil.copytree(first.folder, folder)
        (folder / OUTCOME).unlink()
        more = assignment_of(job, folder, workers, "user", max_steps=FIRST_STEPS + 10, **steps)
        run_workers(more, UserTask)
        losses = losses_of(more)
        assert losses[:FIRST_STEPS] == before
        jump = mean(losses[FIRST_STEPS:]) - mean(before[-10:])
        assert jump < 0.25 * (before[0] - mean(before[-10:]))


def test_what_the_user_can_mend_is_said_once_and_not_tried_again(
    ray_cluster: None, root_of_blocks: Callable[[int], Job], tmp_path: Path
) -> None:
    assignment = assignment_of(root_of_blocks(512), tmp_path / "run", workers=2)
    with pytest.raises(UserError, match=r"^the log has 3 events of tomorrow; set split.days$"):
        run_workers(assignment, RefusingTask)
    assert noted(assignment, "start-1") == 1


def test_a_storage_that_does_not_answer_is_asked_again_as_often_as_workers_may_fail(
    ray_cluster: None, root_of_blocks: Callable[[int], Job], tmp_path: Path
) -> None:
    job = root_of_blocks(512)
    patient = assignment_of(job, tmp_path / "patient", workers=2)
    run_workers(patient, UnansweredTask)
    assert noted(patient, "start-1") == 2
    assert outcome_of(patient)["rows"] == epoch_rows(patient)
    impatient = assignment_of(job, tmp_path / "impatient", workers=2, max_failures=0)
    with pytest.raises(StorageError, match=r"^s3://company/root cannot be read: connection reset$"):
        run_workers(impatient, UnansweredTask)


def test_other_machines_keep_nothing_of_a_training_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "remote").mkdir()
    monkeypatch.setenv(PLACE, str(tmp_path / "driver"))
    folder, home = storage.mirror(f"file://{tmp_path}/remote") / "checkpoints" / "id-v1", machine()
    for name in ("driver", "node"):
        monkeypatch.setenv(PLACE, str(tmp_path / name))
        shard = storage.here(folder) / "step-000004" / f"__{name}_0.distcp"
        shard.parent.mkdir(parents=True)
        shard.write_text("rows")
        storage.put(shard)
        leave_nothing(folder, home)
        assert storage.here(folder).exists() == (name == "driver")
    assert storage.fetch(storage.here(folder))
    shards = (storage.here(folder) / "step-000004").iterdir()
    assert sorted(file.name for file in shards) == ["__driver_0.distcp", "__node_0.distcp"]


def test_a_root_on_a_shared_disk_keeps_a_training_until_it_is_published(tmp_path: Path) -> None:
    (tmp_path / "shard").touch()
    leave_nothing(tmp_path, "")
    assert (tmp_path / "shard").exists()
