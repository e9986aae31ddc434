"""Calibrators learn rates, and leave alone what nothing is known of."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.calibration import Calibrators, sigmoid

ACTIONS = ("save", "hide")
ROWS = 60_000


def drawn(seed: int, shift: float, slope: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits z, segments and labels whose rate is σ(slope z + shift), unknown items half as odd."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2, 1, (ROWS, len(ACTIONS))).astype(np.float32)
    segments = rng.random((ROWS, 2)) < 0.3
    true = slope * logits + shift - np.log(2) * segments[:, :1]
    return logits, segments, rng.random(true.shape) < sigmoid(true)


@pytest.mark.parametrize(("shift", "slope"), [(0.0, 1.0), (-1.0, 0.6), (0.7, 1.5)])
def test_what_was_bent_is_bent_back(shift, slope) -> None:
    logits, segments, labels = drawn(0, shift, slope)
    found = Calibrators.fit(ACTIONS, logits, segments, labels)
    assert np.allclose(found.weights[:, 0], slope, atol=0.06)
    assert np.allclose(found.weights[:, 1], shift, atol=0.12)
    assert np.allclose(found.weights[:, 2], -np.log(2), atol=0.1)
    fresh, of, actual = drawn(1, shift, slope)
    assert np.allclose(found(fresh, of).mean(0), actual.mean(0), rtol=0.05)


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_without_evidence_logits_stay_but_for_the_negatives_left_out(rate) -> None:
    nothing = np.zeros((0, 2))
    found = Calibrators.fit(
        ACTIONS, nothing.astype(np.float32), nothing > 0, nothing > 0, negative_rate=rate
    )
    logits = np.linspace(-4, 4, 10, dtype=np.float32).reshape(5, 2)
    q = sigmoid(logits)
    expected = q / (q + (1 - q) / rate)
    assert np.allclose(found(logits, np.zeros((5, 2), bool)), expected, atol=1e-6)


def test_an_action_that_never_happened_stays_rare_and_finite() -> None:
    logits, segments, labels = drawn(0, 0.0, 1.0)
    labels[:, 1] = False
    found = Calibrators.fit(ACTIONS, logits, segments, labels)
    assert np.isfinite(found.weights).all()
    assert found(logits, segments)[:, 1].mean() < 0.01


@given(st.integers(0, 5), st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=9))
def test_an_order_is_kept_within_a_segment(seed, values) -> None:
    logits, segments, labels = (part[:2000] for part in drawn(seed, 0.3, 0.8))
    found = Calibrators.fit(ACTIONS, logits, segments, labels)
    column = np.sort(np.array(values, np.float32))
    rows = np.stack([column, column], 1)
    probabilities = found(rows, np.zeros((len(rows), 2), bool))
    assert (np.diff(probabilities, axis=0) >= 0).all()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_saved_and_loaded_are_the_same(tmp_path: Path) -> None:
    found = Calibrators.fit(ACTIONS, *drawn(3, 0.2, 0.9))
    found.save(tmp_path)
    again = Calibrators.load(tmp_path)
    assert again.actions == ACTIONS
    assert np.array_equal(again.weights, found.weights)
