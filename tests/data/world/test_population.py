import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.world import World, WorldSettings, resolve
from data.world.population import (
    DAY_MS,
    IdIndex,
    IdKind,
    Population,
    day_start_ms,
    external_ids,
)


@pytest.fixture
def world() -> World:
    return resolve(WorldSettings(preset="tiny"))


@given(st.sets(st.integers(0, 2**48 - 1), min_size=1, max_size=50), st.integers(0, 9))
def test_external_ids_are_distinct_and_exact_in_json_numbers(rows: set[int], seed: int) -> None:
    world = resolve(WorldSettings(seed=seed))
    ids = external_ids(np.array(sorted(rows)), world, IdKind.USER)
    assert len(set(ids.tolist())) == len(rows)
    assert ids.min() >= 0
    assert ids.max() < 2**52


def test_ids_of_users_and_items_do_not_coincide(world: World) -> None:
    users, items = (
        external_ids(np.arange(1000), world, kind) for kind in (IdKind.USER, IdKind.ITEM)
    )
    assert len(np.intersect1d(users, items)) == 0
    assert not np.array_equal(np.sort(users), users)


@given(st.integers(1, 300), st.lists(st.integers(0, 600), max_size=20))
def test_an_index_finds_the_rows_below_its_count_only(count: int, rows: list[int]) -> None:
    world = resolve(WorldSettings())
    ids = external_ids(np.array(rows, np.int64), world, IdKind.ITEM)
    found = IdIndex(count, world, IdKind.ITEM).rows(ids)
    assert found.tolist() == [row if row < count else -1 for row in rows]


def test_population_reaches_its_size_on_the_last_day_and_then_goes_on(world: World) -> None:
    population = Population(world)
    assert len(population.items) == world.established_items * world.num_items
    for day in range(1, world.days + 1):
        population.grow(day)
    assert (len(population.items), len(population.users)) == (world.num_items, world.num_users)
    for day in range(world.days + 1, world.days + 6):
        population.grow(day)
    assert len(population.items) > world.num_items
    assert len(population.users) > world.num_users


def test_creation_times_lie_within_their_day(world: World) -> None:
    population = Population(world)
    assert population.items.created_at.max() < day_start_ms(1)
    population.grow(1)
    newborn = population.items.created_at[population.first_item(1) :]
    assert ((newborn - day_start_ms(1)) // DAY_MS == 0).all()


def test_users_have_three_to_six_weighted_interests(world: World) -> None:
    users = Population(world).users
    counts = (users.weights > 0).sum(axis=1)
    assert (counts.min(), counts.max()) == (3, 6)
    np.testing.assert_allclose(users.weights.sum(axis=1), 1, rtol=1e-6)


def test_activity_is_log_normal_with_the_given_mean() -> None:
    world = resolve(WorldSettings(num_users=20_000, sessions_per_day=0.5, activity_sigma=1.0))
    activity = Population(world).users.activity
    assert activity.mean() == pytest.approx(0.5, rel=0.05)
    logs = np.log(activity)
    assert logs.std() == pytest.approx(1.0, rel=0.03)
    assert np.mean(((logs - logs.mean()) / logs.std()) ** 3) == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize(("preset", "rate"), [("drift0", 0.0), ("drift2", 0.04)])
def test_interests_drift_at_the_rate_of_the_preset(preset: str, rate: float) -> None:
    population = Population(resolve(WorldSettings(preset=preset, num_users=5000)))
    before = population.users.interests.copy()
    population.drift(1)
    changed = (population.users.interests != before).any(axis=2).mean()
    assert changed == pytest.approx(rate, rel=0.1)


def test_items_lie_near_their_topic_and_duplicates_near_their_original(world: World) -> None:
    population = Population(world)
    items = population.items
    to_topic = (items.vector * population.centres[items.topic]).sum(axis=1)
    assert to_topic.mean() == pytest.approx(1 / np.sqrt(1 + world.item_noise**2), rel=0.03)
    copies = np.nonzero(items.original != np.arange(len(items)))[0]
    assert len(copies) / len(items) == pytest.approx(world.duplicate_share, abs=0.03)
    to_original = (items.vector[copies] * items.vector[items.original[copies]]).sum(axis=1)
    assert to_original.min() > 0.97
