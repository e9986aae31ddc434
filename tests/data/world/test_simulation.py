from pathlib import Path

import numpy as np
import pytest

from data.contract.schema import DAY_MS
from data.contract.settings import UserError
from data.world.population import IdKind, day_start_ms, external_ids
from data.world.settings import ACTIONS, POSITIVE_ACTIONS
from data.world.simulation import Response, Simulator
from data.world.state import WorldState

DAY = 40
NOON = day_start_ms(DAY + 1) + DAY_MS // 2


@pytest.fixture(scope="module")
def user_ids(tiny_world: Path) -> list[int]:
    world = WorldState.load(tiny_world / "latents", 0).world
    return external_ids(np.arange(200), world, IdKind.USER).tolist()


@pytest.fixture(scope="module")
def item_ids(tiny_world: Path) -> list[int]:
    world = WorldState.load(tiny_world / "latents", 0).world
    return external_ids(np.arange(600), world, IdKind.ITEM).tolist()


@pytest.fixture
def simulator(tiny_world: Path) -> Simulator:
    return Simulator(tiny_world / "latents", DAY)


def respond_all(simulator: Simulator, user_ids: list[int], item_ids: list[int]) -> list[Response]:
    rng = np.random.default_rng(0)
    return [
        simulator.respond(user, rng.choice(item_ids, 20, replace=False).tolist(), NOON)
        for user in user_ids
    ]


def test_equal_seeds_and_calls_give_equal_responses(
    tiny_world: Path, user_ids: list[int], item_ids: list[int]
) -> None:
    runs = [
        respond_all(Simulator(tiny_world / "latents", DAY, seed), user_ids, item_ids)
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_actions_are_on_items_of_the_slate_in_their_slots(
    simulator: Simulator, user_ids: list[int], item_ids: list[int]
) -> None:
    slate = item_ids[100:140]
    actions = [a for user in user_ids for a in simulator.respond(user, slate, NOON).actions]
    assert {a.action for a in actions} == set(ACTIONS)
    for action in actions:
        assert slate[action.position] == action.item_id
        assert action.timestamp > NOON
        assert (action.duration_s > 0) == (action.action in {"click", "closeup"})


def test_a_user_who_leaves_comes_back_later_and_one_who_stays_does_not(
    simulator: Simulator, user_ids: list[int], item_ids: list[int]
) -> None:
    responses = respond_all(simulator, user_ids, item_ids)
    assert {r.session_ended for r in responses} == {True, False}
    for response in responses:
        assert (response.returns_at is not None) == response.session_ended
        assert response.returns_at is None or response.returns_at > NOON


def test_an_item_acted_on_before_pleases_no_more(
    simulator: Simulator, user_ids: list[int], item_ids: list[int]
) -> None:
    def positives(slates: list[list[int]]) -> list[set[int]]:
        responses = [
            simulator.respond(user, slate, NOON)
            for user, slate in zip(user_ids, slates, strict=True)
        ]
        return [{a.item_id for a in r.actions if a.action in POSITIVE_ACTIONS} for r in responses]

    first = positives([item_ids[:60]] * len(user_ids))
    again = positives([item_ids[:60]] * len(user_ids))
    repeated = sum(len(a & b) for a, b in zip(first, again, strict=True))
    assert sum(map(len, first)) > 150
    assert repeated < 0.06 * sum(map(len, first))


def test_a_session_is_about_one_interest(tiny_world: Path, user_ids: list[int]) -> None:
    """Whoever likes items of one own interest in a session likes those of another less."""
    state = WorldState.load(tiny_world / "latents", DAY)
    users, items = state.population.users, state.population.items
    ids = external_ids(np.arange(len(items)), state.world, IdKind.ITEM)
    simulators = [Simulator(tiny_world / "latents", DAY, seed) for seed in range(5)]
    covariances = []
    for row, user in enumerate(user_ids):
        two = np.argsort(-users.weights[row])[:2]
        nearest = np.argsort(-(users.interests[row, two] @ items.vector.T), axis=1)[:, :8]
        slate = ids[nearest.T.ravel()].tolist()
        liked = [
            {action.position % 2 for action in simulator.respond(user, slate, NOON).actions}
            for simulator in simulators
        ]
        both = np.array([[side in sides for side in (0, 1)] for sides in liked], float)
        covariances.append(np.cov(both.T)[0, 1])
    error = np.std(covariances) / np.sqrt(len(covariances))
    assert np.mean(covariances) < -4 * error


def test_new_users_and_items_appear_as_days_pass(
    tiny_world: Path, simulator: Simulator, item_ids: list[int]
) -> None:
    state = WorldState.load(tiny_world / "latents", DAY)
    coming = external_ids(np.array([len(state.population.items)]), state.world, IdKind.ITEM)
    user = int(external_ids(np.array([0]), state.world, IdKind.USER)[0])
    with pytest.raises(UserError, match=str(coming[0])):
        simulator.respond(user, coming.tolist(), NOON)
    simulator.next_day()
    assert simulator.respond(user, coming.tolist(), NOON + DAY_MS).returns_at != NOON


def test_a_stranger_is_refused(simulator: Simulator, item_ids: list[int]) -> None:
    with pytest.raises(UserError, match=r"user \[17\] unknown"):
        simulator.respond(17, item_ids[:3], NOON)


def test_an_empty_slate_is_answered_by_nothing(simulator: Simulator, user_ids: list[int]) -> None:
    assert simulator.respond(user_ids[0], [], NOON).actions == ()
