import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.settings import UserError
from data.off_policy import (
    Rounds,
    cross_fitted,
    doubly_robust,
    doubly_robust_rewards,
    inverse_propensity,
    self_normalised,
)

ITEMS = 4
numbers = st.lists(st.floats(0.05, 1), min_size=ITEMS, max_size=ITEMS)
rewards = st.lists(st.floats(-2, 2), min_size=ITEMS, max_size=ITEMS).map(np.array)
policies = numbers.map(lambda values: np.array(values) / np.sum(values))


def one_of_each(logging, target, reward):
    """A round for each item that the logging policy could choose."""
    chosen = np.arange(ITEMS)
    return Rounds(reward, chosen, logging, np.tile(target, (ITEMS, 1)))


def drawn(rng, logging, target, reward, count=4000):
    chosen = rng.choice(ITEMS, count, p=logging)
    noise = rng.normal(size=count) * 0.1
    return Rounds(reward[chosen] + noise, chosen, logging[chosen], np.tile(target, (count, 1)))


@given(policies, policies, rewards)
def test_weighted_rewards_are_unbiased_whatever_policy_logged(logging, target, reward):
    rounds = one_of_each(logging, target, reward)
    assert logging @ (rounds.weight * reward) == pytest.approx(target @ reward, abs=1e-9)
    assert logging @ rounds.weight == pytest.approx(1)


@given(policies, policies, rewards, rewards)
def test_doubly_robust_is_unbiased_whatever_is_predicted(logging, target, reward, predicted):
    rounds = one_of_each(logging, target, reward)
    each = doubly_robust_rewards(rounds, np.tile(predicted, (ITEMS, 1)))
    assert logging @ each == pytest.approx(target @ reward, abs=1e-9)


@given(policies, policies, rewards)
def test_right_predictions_need_no_propensities(logging, target, reward):
    rounds = one_of_each(logging, target, reward)
    wrong = Rounds(reward, rounds.chosen, np.roll(logging, 1), rounds.target)
    each = doubly_robust_rewards(wrong, np.tile(reward, (ITEMS, 1)))
    np.testing.assert_allclose(each, target @ reward, atol=1e-9)


@given(policies, policies, rewards, st.integers(0, 5))
def test_without_predictions_doubly_robust_is_inverse_propensity(logging, target, reward, seed):
    rounds = drawn(np.random.default_rng(seed), logging, target, reward, 50)
    assert doubly_robust(rounds, np.zeros((50, ITEMS))) == inverse_propensity(rounds)


@given(policies, policies, rewards, st.floats(0.1, 1), st.floats(-3, 3))
def test_self_normalised_ignores_the_scale_of_propensities(logging, target, reward, scale, shift):
    rounds = drawn(np.random.default_rng(0), logging, target, reward, 200)
    scaled = Rounds(rounds.reward, rounds.chosen, scale * rounds.propensity, rounds.target)
    value = self_normalised(rounds).value
    assert self_normalised(scaled).value == pytest.approx(value, abs=1e-9)
    moved = Rounds(rounds.reward + shift, rounds.chosen, rounds.propensity, rounds.target)
    assert self_normalised(moved).value == pytest.approx(value + shift, abs=1e-9)


LOGGING, TARGET = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
REWARD = np.array([0.1, 0.5, 0.9, 0.3])


def test_intervals_cover_the_value_as_often_as_they_say():
    rng, truth = np.random.default_rng(0), TARGET @ REWARD
    covered = np.zeros((40, 3), bool)
    for trial in range(40):
        rounds = drawn(rng, LOGGING, TARGET, REWARD, 200)
        predicted = np.tile(REWARD, (200, 1)) + 0.2
        for column, found in enumerate(
            (inverse_propensity(rounds), self_normalised(rounds), doubly_robust(rounds, predicted))
        ):
            covered[trial, column] = found.low <= truth <= found.high
            half = (found.high - found.low) / 2
            assert found.standard_error * 1.96 == pytest.approx(half, rel=0.25)
    assert (covered.mean(axis=0) > 0.8).all()


def test_good_predictions_make_the_error_smaller():
    rounds = drawn(np.random.default_rng(0), LOGGING, TARGET, REWARD)
    robust = doubly_robust(rounds, np.tile(REWARD, (4000, 1)))
    assert robust.standard_error < 0.4 * inverse_propensity(rounds).standard_error


def test_a_policy_that_logs_for_itself_loses_no_round():
    rounds = drawn(np.random.default_rng(0), LOGGING, LOGGING, REWARD, 500)
    assert rounds.effective_sample_size == pytest.approx(500)
    assert inverse_propensity(rounds).value == pytest.approx(rounds.reward.mean())
    other = drawn(np.random.default_rng(0), LOGGING, TARGET, REWARD, 500)
    assert other.effective_sample_size < 400


def test_a_round_is_foretold_by_a_model_that_has_not_seen_it():
    def fit(rounds):
        seen = np.isin(np.arange(23), rounds)
        return np.repeat(seen[:, None], ITEMS, axis=1).astype(float)

    assert not cross_fitted(23, fit, folds=4).any()


@pytest.mark.parametrize("value", [0.0, -0.1, 1.5, np.nan])
def test_a_propensity_that_is_none_is_told_with_its_row(value):
    propensity = np.array([0.5, value, 0.5])
    with pytest.raises(UserError, match=r"propensity of row 1 .*1 such rows of 3"):
        Rounds(np.zeros(3), np.zeros(3, int), propensity, np.full((3, 2), 0.5))


def test_targets_that_are_no_policy_are_told_with_their_row():
    target = np.array([[0.5, 0.5], [0.5, 0.4]])
    with pytest.raises(UserError, match=r"row 1 add up to 0\.9"):
        Rounds(np.zeros(2), np.zeros(2, int), np.full(2, 0.5), target)


def test_no_rounds_and_no_overlap_are_told():
    with pytest.raises(UserError, match="no rounds"):
        Rounds(np.zeros(0), np.zeros(0, int), np.zeros(0), np.zeros((0, 2)))
    never = Rounds(np.ones(3), np.zeros(3, int), np.full(3, 0.5), np.tile([0.0, 1.0], (3, 1)))
    with pytest.raises(UserError, match="ever logged"):
        self_normalised(never)
