from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from data.contract.settings import UserError
from data.world import WorldSettings, resolve
from data.world.generation import begin, record
from data.world.population import day_start_ms
from data.world.state import WorldState, draw_intents

SMALL = WorldSettings(preset="tiny", num_users=80, num_items=200, refresh_days=4, drift_rate=0.05)


def test_a_replayed_day_is_the_state_that_was_simulated(tmp_path: Path) -> None:
    running = begin(resolve(SMALL), tmp_path, range(1, 8))
    for day in range(1, 8):
        record(tmp_path, day, running.run_day())
    replayed = WorldState.load(tmp_path, 7)
    for part in ("items", "users"):
        ours, theirs = (getattr(s.population, part) for s in (running, replayed))
        for f in fields(ours):
            np.testing.assert_array_equal(getattr(ours, f.name), getattr(theirs, f.name))
    np.testing.assert_array_equal(running.policy.popularity, replayed.policy.popularity)
    np.testing.assert_array_equal(running.policy.pools.items, replayed.policy.pools.items)
    assert len(running.acted_on) == len(replayed.acted_on)
    ahead, again = running.run_day(), replayed.run_day()
    for f in fields(ahead):
        np.testing.assert_array_equal(getattr(ahead, f.name), getattr(again, f.name))


def test_an_earlier_day_can_be_replayed_too(tmp_path: Path) -> None:
    state = begin(resolve(SMALL), tmp_path, range(1, 6))
    logs = [state.run_day() for _ in range(5)]
    for day, log in enumerate(logs, start=1):
        record(tmp_path, day, log)
    third = WorldState.load(tmp_path, 3)
    np.testing.assert_array_equal(third.run_day().items, logs[3].items)


def test_a_day_that_was_not_recorded_cannot_be_replayed(tiny_world: Path) -> None:
    with pytest.raises(UserError, match="day 61 is not recorded"):
        WorldState.load(tiny_world / "latents", 61)


def test_a_day_has_sessions_of_one_to_four_requests_within_its_hours() -> None:
    state = WorldState(resolve(SMALL))
    log = state.run_day()
    assert log.request.min() == 0
    assert np.unique(log.request).tolist() == list(range(log.request.max() + 1))
    assert (log.timestamp >= day_start_ms(1)).all()
    assert (log.timestamp < day_start_ms(2)).all()
    assert log.positions.max() < state.world.slate_size


def test_intents_are_drawn_by_weight() -> None:
    weights = np.tile(np.array([0.5, 0.3, 0.2, 0, 0, 0], np.float32), (20_000, 1))
    counts = np.bincount(draw_intents(weights, np.random.default_rng(0)), minlength=6)
    np.testing.assert_allclose(counts / 20_000, weights[0], atol=0.015)
    assert counts[3:].sum() == 0


def test_a_day_without_any_session_is_empty_but_valid() -> None:
    quiet = resolve(WorldSettings(preset="tiny", num_users=10, sessions_per_day=1e-9))
    log = WorldState(quiet).run_day()
    assert len(log.request) == 0
