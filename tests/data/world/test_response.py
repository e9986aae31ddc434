import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.world import WorldSettings, resolve
from data.world.population import Population
from data.world.response import (
    POSITIVE,
    Affinity,
    Exposure,
    action_probabilities,
    action_probability,
    affinities,
    continue_probability,
    durations,
    examination,
    item_logit,
    return_rate,
    row_products,
)
from data.world.settings import ACTIONS

WORLD = resolve(WorldSettings(preset="tiny", num_users=50, num_items=200))
COSINES = st.floats(-1, 1, width=32)


def affinity(intent: float, interests: float, foreign: bool = False) -> Affinity:
    return Affinity(
        np.array([intent], np.float32), np.array([interests], np.float32), np.array([foreign])
    )


@given(COSINES, COSINES, st.booleans())
def test_affinity_raises_positive_actions_and_lowers_hides(
    intent: float, interests: float, foreign: bool
) -> None:
    for action, positive in zip(WORLD.actions, POSITIVE, strict=True):
        base = np.float32(action.bias)
        now = action_probability(action, base, affinity(intent, interests, foreign))[0]
        closer = action_probability(action, base, affinity(intent + 0.1, interests + 0.1, foreign))
        assert (closer[0] > now) == positive
        assert 0 < now < 1


def test_a_foreign_language_costs_positive_actions() -> None:
    for action, positive in zip(WORLD.actions, POSITIVE, strict=True):
        known, foreign = (
            action_probability(action, np.float32(action.bias), affinity(0.5, 0.3, f))[0]
            for f in (False, True)
        )
        assert (foreign < known) == positive


def test_actions_differ_in_what_moves_them() -> None:
    items = Population(WORLD).items
    correlation = {
        name: np.corrcoef([item_logit(action, items), items.quality, items.clickbait])[0, 1:]
        for name, action in zip(ACTIONS, WORLD.actions, strict=True)
    }
    assert correlation["save"][0] > 0.9
    assert correlation["click"][1] > 0.9
    assert correlation["hide"][0] < 0 < correlation["hide"][1]


def test_lower_slots_are_looked_at_less() -> None:
    seen = examination(np.arange(20), 0.05)
    assert seen[0] == 1
    assert (np.diff(seen) < 0).all()
    assert (examination(np.arange(20), 0.0) == 1).all()


def test_probabilities_of_impressions_follow_from_latents_and_slot() -> None:
    population = Population(WORLD)
    users, items = population.users, population.items
    rng = np.random.default_rng(0)
    exposure = Exposure(
        rng.integers(len(users), size=30),
        np.zeros(30, int),
        rng.integers(len(items), size=30),
        np.arange(30) % 20,
    )
    cosines = affinities(exposure, users, items)
    found = action_probabilities(WORLD, exposure, cosines, items)
    for n in range(30):
        user, item = exposure.users[n], exposure.items[n]
        intent = users.interests[user, 0] @ items.vector[item]
        interests = users.weights[user] @ (users.interests[user] @ items.vector[item])
        for a, action in enumerate(WORLD.actions):
            logit = (
                action.bias
                + action.intent * intent
                + action.interests * interests
                + action.quality * items.quality[item]
                + action.clickbait * items.clickbait[item]
                + action.foreign * (users.language[user] != items.language[item])
            )
            expected = 1 / (1 + np.exp(-logit)) / (1 + 0.05 * exposure.positions[n])
            assert found[n, a] == pytest.approx(expected, rel=1e-4)


def test_durations_are_log_normal_and_grow_with_affinity_and_format() -> None:
    def logs(cosine: float, item_format: int) -> np.ndarray:
        closeups, formats = np.full(4000, ACTIONS.index("closeup")), np.full(4000, item_format)
        rng = np.random.default_rng(0)
        return np.log(durations(WORLD, closeups, np.full(4000, cosine), formats, rng))

    assert logs(0.0, 0).mean() == pytest.approx(np.log(WORLD.closeup.median_s), abs=0.05)
    assert logs(0.0, 0).std() == pytest.approx(0.7, rel=0.05)
    assert logs(0.9, 0).mean() > logs(0.0, 0).mean() + 0.5
    assert logs(0.0, 1).mean() > logs(0.0, 0).mean() + 0.5


def test_pleasure_prolongs_sessions_and_shortens_absence() -> None:
    goes_on = continue_probability(np.array([0, 2, 0]), np.array([0, 0, 2]))
    assert goes_on[2] < goes_on[0] < goes_on[1]
    assert return_rate(0.3, 0, 3) < return_rate(0.3, 0, 0) < return_rate(0.3, 3, 0)


def test_row_products_are_dot_products_of_the_chosen_rows() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.random((5, 7), np.float32), rng.random((9, 7), np.float32)
    rows, columns = rng.integers(5, size=40), rng.integers(9, size=40)
    found = row_products(left, rows, right, columns)
    np.testing.assert_allclose(found, (left @ right.T)[rows, columns], rtol=1e-5)
