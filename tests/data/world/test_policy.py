import numpy as np
import pytest

from data.world import WorldSettings, resolve
from data.world.policy import (
    EMBEDDING,
    POPULAR,
    TOPIC,
    UNIFORM,
    Policy,
    Request,
    Shares,
    refresh_due,
    rows_by_topic,
)
from data.world.population import Population

SETTINGS = WorldSettings(preset="tiny", num_users=40, num_items=150, num_topics=8, pool_size=20)


@pytest.fixture(scope="module")
def population() -> Population:
    return Population(resolve(SETTINGS))


@pytest.fixture(scope="module")
def policy(population: Population) -> Policy:
    policy = Policy(population.world)
    policy.start_day(1, population)
    policy.record(np.repeat(np.arange(20), np.arange(20)))
    policy.start_day(2, population)
    return policy


def requests(user: int, topic: int, *, search: bool, count: int) -> Request:
    return Request(np.full(count, user), np.full(count, topic), np.full(count, search))


@pytest.mark.parametrize("search", [False, True])
def test_propensities_are_the_frequencies_of_draws(
    policy: Policy, population: Population, search: bool
) -> None:
    request = requests(3, 5, search=search, count=20_000)
    _, drawn = policy.draw(request, np.random.default_rng(0))
    num_items, num_draws = len(population.items), drawn.size
    items = np.arange(num_items)
    propensity = policy.propensities(requests(3, 5, search=search, count=num_items), items)
    assert propensity.sum() == pytest.approx(1, rel=1e-5)
    counts = np.bincount(drawn.ravel(), minlength=num_items)
    deviation = (counts - num_draws * propensity) / np.sqrt(num_draws * propensity)
    assert np.abs(deviation).max() < 5
    assert np.mean(deviation**2) == pytest.approx(1, abs=0.4)


def test_sources_have_their_shares_of_the_slots(policy: Policy) -> None:
    world = policy.world
    shares = {}
    for search in (False, True):
        request = requests(0, 0, search=search, count=5_000)
        sources, _ = policy.draw(request, np.random.default_rng(1))
        shares[search] = np.bincount(sources.ravel(), minlength=4) / sources.size
    for found in shares.values():
        assert found[UNIFORM] == pytest.approx(world.uniform_share, abs=0.003)
        assert found[POPULAR] == pytest.approx(world.popular_share, abs=0.005)
    assert shares[False][EMBEDDING] == pytest.approx(world.embedding_share, abs=0.006)
    assert shares[True][TOPIC] == pytest.approx(world.embedding_share, abs=0.006)


def test_the_topic_source_stays_within_the_topic(policy: Policy, population: Population) -> None:
    sources, items = policy.draw(requests(0, 2, search=True, count=500), np.random.default_rng(2))
    assert (population.items.topic[items[sources == TOPIC]] == 2).all()


def test_an_empty_topic_yields_no_item() -> None:
    shares = Shares(np.ones(4), np.array([0, 0, 2, 2]), num_topics=4)
    drawn = shares.draw_within(np.array([0, 1, 2, 3]), np.full(4, 0.6))
    assert drawn.tolist() == [1, -1, 3, -1]


def test_popularity_decays_by_half_in_its_half_life() -> None:
    policy = Policy(resolve(WorldSettings(popularity_half_life_days=3)))
    policy.popularity = np.array([8.0, 0.0])
    for _ in range(3):
        policy.record(np.array([], int))
    np.testing.assert_allclose(policy.popularity, [4, 0])
    policy.record(np.array([1, 1]))
    assert policy.popularity[1] == 2


def test_every_user_is_refreshed_once_per_period_and_newcomers_at_once(
    population: Population,
) -> None:
    days = range(10, 40)
    due = np.stack([refresh_due(population.users, day, 30) for day in days])
    assert (due.sum(axis=0) == 1).all()
    assert refresh_due(population.users, 1, 30).all()


def test_pools_stay_until_they_are_refreshed(population: Population) -> None:
    policy = Policy(population.world)
    policy.start_day(1, population)
    before = policy.pools.items.copy()
    policy.start_day(2, population)
    changed = (policy.pools.items != before).any(axis=1)
    due = refresh_due(population.users, 2, population.world.refresh_days)
    assert due.any()
    np.testing.assert_array_equal(changed, due)


def test_pools_are_about_the_interests_of_their_user(
    policy: Policy, population: Population
) -> None:
    users, items = population.users, population.items
    cosines = np.einsum("umd,id->umi", users.interests, items.vector)
    cosines = np.where(users.weights[:, :, None] > 0, cosines, -1).max(axis=1)
    pooled = np.take_along_axis(cosines, policy.pools.items, axis=1)
    margin = pooled.mean(axis=1) - cosines.mean(axis=1)
    assert (margin > 0).all()
    assert np.median(margin) > 0.15


def test_fresh_items_are_favoured(policy: Policy, population: Population) -> None:
    fresh = population.items.created_at.argsort()[-15:]
    stale = population.items.created_at.argsort()[:15]
    unknown = Policy(population.world)
    unknown.start_day(1, population)
    popular = unknown.shares.popular
    assert popular[fresh].mean() > 2 * popular[stale].mean()


def test_rows_are_grouped_by_topic() -> None:
    order, starts = rows_by_topic(np.array([2, 0, 2, 0]), 4)
    assert order.tolist() == [1, 3, 0, 2]
    assert starts.tolist() == [0, 2, 2, 4, 4]
