import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.tuning.table import best, t_interval, table
from ray_jobs.tuning.trial import Trial


def trial(value, seed, recall=0.0, validation=0.0, **fields):
    metrics = {"recall@10": recall}
    judged = {"ndcg@50": validation}
    return Trial(
        choice={"two_tower.dim": value}, seed=seed, metrics=metrics, validation=judged, **fields
    )


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8))
def test_interval_is_students(values):
    mean, half_width = t_interval(values, 0.95)
    quantiles = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 5: 2.57058, 6: 2.44691, 7: 2.36462}
    spread = math.sqrt(
        sum((v - sum(values) / len(values)) ** 2 for v in values) / (len(values) - 1)
    )
    expected = quantiles[len(values) - 1] * spread / math.sqrt(len(values))
    assert mean == pytest.approx(np.mean(values))
    assert half_width == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_one_seed_has_no_interval():
    assert t_interval([0.3], 0.95) == (0.3, None)


def test_table_has_one_row_a_setting_and_leaves_failures_out_of_the_means():
    trials = [trial(8, 0, 0.1), trial(64, 0, 0.3), trial(8, 1, 0.2), trial(64, 1, error="broke")]
    rows = table(trials, 0.95)
    assert [row["settings"]["two_tower.dim"] for row in rows] == [8, 64]
    assert [(row["seeds"], row["failed"]) for row in rows] == [(2, 0), (1, 1)]
    assert rows[0]["metrics"]["recall@10"]["mean"] == pytest.approx(0.15)
    assert rows[1]["metrics"]["recall@10"] == {"mean": 0.3, "half_width": None}


def test_best_is_chosen_by_validation_and_not_by_what_is_reported():
    rows = table([trial(8, 0, 0.9, validation=0.1), trial(64, 0, 0.1, validation=0.2)], 0.95)
    assert best(rows, "ndcg@50")["settings"] == {"two_tower.dim": 64}


def test_smaller_log_loss_is_better():
    losses = {8: 0.4, 64: 0.3}
    trials = [Trial(choice={"a": k}, seed=0, validation={"log_loss": v}) for k, v in losses.items()]
    assert best(table(trials, 0.95), "ndcg@50")["settings"] == {"a": 64}


def test_without_validation_there_is_no_best():
    assert (
        best(table([Trial(choice={}, seed=0, metrics={"recall@10": 1.0})], 0.95), "ndcg@50") is None
    )


def test_differences_are_paired_by_seed():
    shift = {0: 0.1, 1: 0.2, 2: 0.7}
    trials = [trial(8, s, v) for s, v in shift.items()]
    trials += [trial(64, s, v + 0.01) for s, v in shift.items() if s < 2]
    difference = table([*trials, trial(64, 2, error="broke")], 0.95)[1]["difference"]["recall@10"]
    assert difference["mean"] == pytest.approx(0.01)
    assert difference["half_width"] == pytest.approx(0, abs=1e-9)
