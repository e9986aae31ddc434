from types import SimpleNamespace

import pytest

from ray_jobs.engine.loop import TrainSettings, TrainState
from ray_jobs.engine.schedule import Schedule
from ray_jobs.engine.worker import Recorder


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
