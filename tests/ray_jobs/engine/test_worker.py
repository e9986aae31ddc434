import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from data.contract.artifact import publish
from data.contract.settings import UserError
from data.dataset import Dataset
from ray_jobs.engine import checkpoint, worker
from ray_jobs.engine.assignment import Assignment
from ray_jobs.engine.job import start
from ray_jobs.engine.loop import TrainSettings, TrainState
from ray_jobs.engine.schedule import Schedule
from ray_jobs.engine.worker import OUTCOME, Recorder, alone, are_numbers, work
from ray_jobs.tasks.two_tower import TwoTowerTask

TINY = ("two_tower.batch_size=16", "two_tower.dim=16", "two_tower.id_dim=8", "train.max_steps=8")


@pytest.fixture
def stops_at(tmp_path):
    """Which of some validations, counted from 1, ends a run that has bars; None if none does."""

    def stops_at(scores, bars, patience=9):
        settings = TrainSettings(validate_every=1, patience=patience)
        task = SimpleNamespace(score=lambda metrics: metrics["score"])
        assignment = SimpleNamespace(folder=tmp_path, bars=bars)
        recorder = Recorder(task, assignment, settings, Schedule(1, 9, 1.0))
        state = TrainState()
        for state.step, score in enumerate(scores, start=1):
            if recorder._judge({"score": score}, {}, state):
                return state.step
        return None

    return stops_at


def test_a_run_below_its_bar_is_cut_short(stops_at):
    assert stops_at([0.1, 0.2, 0.3], (None, 0.25, None)) == 2


def test_a_run_is_judged_by_the_best_it_has_reached(stops_at):
    assert stops_at([0.3, 0.2, 0.3], (None, 0.25)) is None
    assert stops_at([0.25], (0.25,)) is None


def test_without_bars_patience_alone_ends_a_run(stops_at):
    assert stops_at([0.3, 0.2, 0.1], ()) is None
    assert stops_at([0.3, 0.2, 0.1], (), patience=2) == 3


def test_only_finite_weights_are_numbers(tmp_path):
    weights = {"core.w": torch.tensor([[1.0, -3e38]]), "core.none": torch.zeros(0, 2)}
    weights |= {"core.count": torch.tensor(3), "core.mask": torch.tensor([True])}
    for place, number in enumerate(("1", "nan", "inf", "-inf")):
        file = tmp_path / f"{place}.safetensors"
        save_file(weights | {"tables.t": torch.tensor([0.0, float(number), 2.0])}, file)
        assert are_numbers(file) is (place == 0)


@pytest.mark.parametrize("weight", [1.0, float("nan")])
def test_a_training_that_has_diverged_leaves_no_outcome(tmp_path, monkeypatch, weight):
    monkeypatch.setattr(worker, "snapshot", lambda *_: {"core.w": torch.tensor([0.0, weight])})
    task = SimpleNamespace(name="two_tower", validate=lambda _: {})
    assignment = SimpleNamespace(folder=tmp_path, bars=(), phase="refit")
    recorder = Recorder(task, assignment, TrainSettings(), Schedule(1, 9, 1.0))
    learner = SimpleNamespace(model=SimpleNamespace(plan=""))
    state = TrainState(step=7, rows=3)
    if weight == 1:
        recorder.finish(learner, state)
    else:
        said = r"two_tower has diverged: .* step 7 .*lower two_tower\.learning_rate"
        with pytest.raises(UserError, match=said):
            recorder.finish(learner, state)
    assert (tmp_path / OUTCOME).exists() is (weight == 1)


def test_a_day_that_cannot_go_on_from_yesterdays_weights_says_what_can_be_done(tmp_path):
    with publish(tmp_path, "ranker", "v1") as draft:
        before = {f"core.{name}": w for name, w in nn.Linear(2, 4).state_dict().items()}
        save_file(before, draft.path / "model.safetensors")
    assignment = SimpleNamespace(root=tmp_path, model="ranker", start_from="v1")
    with pytest.raises(UserError, match=r"ranker/v1 .* Run the pipeline once without day=next"):
        worker._start_from(assignment, nn.Linear(2, 3), nn.Module())


class KilledError(Exception):
    """What a test does in place of a kill."""


@dataclass
class Kills:
    """When attempts at one training end, and what they had done until then.

    Attributes:
        in_validation: steps of an attempt after which a validation ends it, once.
        in_step: step of an attempt that ends it, once.
        validated: steps of their attempts after which validations began.
        saved: whether there was a checkpoint when they did.
    """

    in_validation: int | None = None
    in_step: int | None = None
    validated: list[int] = field(default_factory=list)
    saved: list[bool] = field(default_factory=list)


@pytest.fixture
def attempt(shared_root, tmp_path):
    """Trains until killed, or to the end: `attempt(kills, validate_every, checkpoint_every)`."""

    def attempt(kills, validate_every, checkpoint_every):
        every = (
            f"train.validate_every={validate_every}",
            f"train.checkpoint_every={checkpoint_every}",
        )
        job = start(shared_root("kills", *TINY, *every, "train.log_every=1"))
        (tmp_path / "run").mkdir(exist_ok=True)
        version = Dataset.open(job.root).artifact.version
        assignment = Assignment(
            job.root.absolute(), "two_tower", job.settings, version, tmp_path / "run", "choose"
        )

        class Task(TwoTowerTask):
            def build(self):
                core, tables = super().build()
                core.register_forward_pre_hook(self.before_step)
                self.steps = 0
                return core, tables

            def before_step(self, *_):
                self.steps += 1
                if kills.in_step == self.steps:
                    kills.in_step = None
                    raise KilledError

            def validate(self, snapshot):
                kills.validated.append(self.steps)
                kills.saved.append((self.assignment.folder / checkpoint.POINTER).exists())
                if kills.in_validation == self.steps:
                    kills.in_validation = None
                    raise KilledError
                return super().validate(snapshot)

        alone(lambda: work(assignment, Task))
        return json.loads((tmp_path / "run" / OUTCOME).read_text())

    return attempt


def steps_of(lines):
    return [line["step"] for line in lines]


@pytest.mark.parametrize("checkpoint_every", [4, 100])
def test_who_is_killed_in_the_first_validation_takes_no_step_again(
    ray_cluster, attempt, checkpoint_every
):
    kills = Kills(in_validation=4)
    with pytest.raises(KilledError):
        attempt(kills, 4, checkpoint_every)
    outcome = attempt(kills, 4, checkpoint_every)
    assert kills.validated == [4, 0, 4]
    assert all(kills.saved)
    assert steps_of(outcome["validations"]) == [4, 8]
    assert steps_of(outcome["curve"]) == [*range(1, 9)]


def test_who_is_killed_after_a_validation_does_not_validate_again(ray_cluster, attempt):
    kills = Kills(in_step=5)
    with pytest.raises(KilledError):
        attempt(kills, 4, 4)
    outcome = attempt(kills, 4, 4)
    assert kills.validated == [4, 4]
    assert steps_of(outcome["validations"]) == [4, 8]
    assert outcome["best_step"] in (4, 8)
