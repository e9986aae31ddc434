"""The logging policy: a small funnel of random sources whose propensities are known.

Each slot of a request draws a source, then an item from it: uniform over live items,
recent popularity, or a stale embedding (on search: popularity within the session's
topic). A slot stays empty when its item is in the slate already or the user has acted
on it before today, so that the propensity of an item that may be shown is exact.
Shapes: N draws, R requests, I items, U users, K topics.
"""

from typing import NamedTuple

import numpy as np

from data.contract.schema import DAY_MS
from data.world.pools import (
    PoolItems,
    Pools,
    PoolUsers,
    build_pools,
    draw_from_pools,
    pool_propensities,
)
from data.world.population import (
    Flags,
    Floats,
    Population,
    Rows,
    Stage,
    Users,
    day_start_ms,
    random_stream,
    scatter,
)
from data.world.settings import World

SOURCES = ("uniform", "popular", "embedding", "topic")
UNIFORM, POPULAR, EMBEDDING, TOPIC = range(4)
FLOOR = 0.02  # actions credited to every item, so that popularity reaches the whole catalogue


class Request(NamedTuple):
    """What the policy knows about requests.

    Attributes:
        users: User rows, [R].
        topics: Topic of the session's intent, used on search only, [R].
        search: Whether the request is on the search surface, [R].
    """

    users: Rows
    topics: Rows
    search: Flags


class Shares:
    """Probabilities of the sources that do not depend on the user, for one day.

    Attributes:
        popular: Probability of each item in the popular source, [I].
        within_topic: Probability of each item in the source of its own topic, [I].
        topic: Topic of each item, [I].
    """

    def __init__(self, weights: Floats, topic: Rows, num_topics: int) -> None:
        """Normalises weights over all items and within topics."""
        self.topic = topic
        self.popular = weights / weights.sum()
        totals = np.bincount(topic, weights, num_topics)
        self.within_topic = weights / totals[topic]
        self._by_topic, self._starts = rows_by_topic(topic, num_topics)
        self._cumulative = np.cumsum(self.popular)
        self._topic_cumulative = np.append(0.0, np.cumsum(self.popular[self._by_topic]))

    def draw_popular(self, uniforms: Floats) -> Rows:
        """Items of the popular source, one per uniform number, [N]."""
        drawn = np.searchsorted(self._cumulative, uniforms, side="right")
        return np.minimum(drawn, len(self.popular) - 1).astype(np.int32)

    def draw_within(self, topics: Rows, uniforms: Floats) -> Rows:
        """Items of a topic each, -1 where the topic is empty, [N]."""
        first, end = self._starts[topics], self._starts[topics + 1]
        low, high = self._topic_cumulative[first], self._topic_cumulative[end]
        point = low + uniforms * (high - low)
        position = np.searchsorted(self._topic_cumulative, point, side="right") - 1
        position = np.clip(position, first, np.maximum(end - 1, 0))
        return np.where(end > first, self._by_topic[position], -1).astype(np.int32)


class Policy:
    """State of the logging policy as of one day.

    Attributes:
        popularity: Positive actions per item with exponential decay, [I].
        pools: Pools of all users, each as refreshed last.
        shares: Item probabilities of today's other sources.
    """

    shares: Shares

    def __init__(self, world: World) -> None:
        self.world = world
        self.popularity: Floats = np.zeros(0)
        size = (0, world.pool_size)
        self.pools = Pools(np.zeros(size, np.int32), np.zeros(size, np.float32))

    def start_day(self, day: int, population: Population, *, refresh: bool = True) -> None:
        """Makes room for new items and users, and refreshes the pools that are due."""
        items, users = population.items, population.users
        self.popularity = np.pad(self.popularity, (0, len(items) - len(self.popularity)))
        missing = ((0, len(users) - len(self.pools.items)), (0, 0))
        self.pools.items = np.pad(self.pools.items, missing, constant_values=-1)
        self.pools.probabilities = np.pad(self.pools.probabilities, missing)
        self.shares = self.day_shares(day, population)
        if refresh:
            due = np.nonzero(refresh_due(users, day, self.world.refresh_days))[0]
            rng = random_stream(self.world, Stage.POOLS, day)
            fresh = self.draw_pools(due, day, population, rng)
            self.pools.items[due] = fresh.items
            self.pools.probabilities[due] = fresh.probabilities

    def record(self, positive_items: Rows) -> None:
        """Ends a day: popularity decays, then gains the day's positive actions."""
        self.popularity *= 0.5 ** (1 / self.world.popularity_half_life_days)
        self.popularity += np.bincount(positive_items, minlength=len(self.popularity))

    def day_shares(self, day: int, population: Population) -> Shares:
        """Probabilities by popularity: decayed actions plus a credit for fresh items."""
        fresh = self.world.popularity_prior * self._freshness(day, population)
        weights = self._known_popularity(population) + fresh + FLOOR
        return Shares(weights, population.items.topic, self.world.num_topics)

    def draw_pools(
        self, rows: Rows, day: int, population: Population, rng: np.random.Generator
    ) -> Pools:
        """New pools for some users, from a noisy estimate of their interests on a day."""
        world, users, items = self.world, population.users, population.items
        estimate = scatter(users.interests[rows], world.estimate_noise, rng)
        noise = rng.normal(0.0, world.estimate_noise, users.weights[rows].shape)
        log_weights = np.log(np.maximum(users.weights[rows], 1e-9)) + noise
        bias = world.freshness_weight * self._freshness(day, population)
        bias += world.popularity_weight * np.log1p(self._known_popularity(population))
        by_topic, starts = rows_by_topic(items.topic, world.num_topics)
        return build_pools(
            PoolUsers(
                estimate * np.float32(world.pool_sharpness),
                log_weights.astype(np.float32),
                users.topics[rows],
                users.language[rows],
            ),
            PoolItems(
                items.vector,
                bias.astype(np.float32),
                items.language,
                by_topic,
                starts,
                population.neighbours,
            ),
            world.pool_size,
        )

    def draw(self, request: Request, rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Draws a source and an item for every slot of today's requests.

        Returns:
            Sources and item rows (-1 where a source is empty), [R, slate_size] each.
        """
        world, shape = self.world, (len(request.users), self.world.slate_size)
        choice, uniforms = rng.random(shape), rng.random(shape)
        source = np.repeat(np.where(request.search, TOPIC, EMBEDDING)[:, None], shape[1], axis=1)
        source[choice < world.uniform_share + world.popular_share] = POPULAR
        source[choice < world.uniform_share] = UNIFORM
        items: Rows = draw_from_pools(
            self.pools.items, self.pools.probabilities, request.users, uniforms
        )
        uniform, popular, topic = (source == kind for kind in (UNIFORM, POPULAR, TOPIC))
        items[uniform] = (uniforms[uniform] * len(self.shares.popular)).astype(np.int32)
        items[popular] = self.shares.draw_popular(uniforms[popular])
        topics = np.broadcast_to(request.topics[:, None], shape)[topic]
        items[topic] = self.shares.draw_within(topics, uniforms[topic])
        return source.astype(np.int32), items

    def propensities(self, request: Request, items: Rows) -> Floats:
        """Probability that one slot of a request of today draws an item, [N].

        Args:
            request: One request per item, [N].
            items: Item rows, [N].
        """
        world, shares = self.world, self.shares
        same_topic = shares.topic[items] == request.topics
        within = np.where(same_topic, shares.within_topic[items], 0.0)
        pools = self.pools
        pooled = pool_propensities(pools.items, pools.probabilities, request.users, items)
        personal = np.where(request.search, within, pooled)
        uniform = world.uniform_share / len(shares.popular)
        popular = world.popular_share * shares.popular[items]
        total: Floats = uniform + popular + world.embedding_share * personal
        return total.astype(np.float32)

    def _freshness(self, day: int, population: Population) -> Floats:
        """Exponential decay with the items' age in days, [I]."""
        age = np.maximum(day_start_ms(day) - population.items.created_at, 0) / DAY_MS
        return np.exp(-age / self.world.freshness_days)

    def _known_popularity(self, population: Population) -> Floats:
        return np.pad(self.popularity, (0, len(population.items) - len(self.popularity)))


def refresh_due(users: Users, day: int, period: int) -> Flags:
    """Users whose pool is refreshed on a day: a fixed phase of each, and newcomers, [U]."""
    phase = np.arange(len(users)) * 7919 % period
    newcomers: Flags = users.born == day - 1
    due: Flags = newcomers | (phase == day % period)
    return due


def rows_by_topic(topic: Rows, num_topics: int) -> tuple[Rows, Rows]:
    """Item rows ordered by topic, [I], and where each topic starts, [K + 1]."""
    order = np.argsort(topic, kind="stable").astype(np.int32)
    return order, np.searchsorted(topic[order], np.arange(num_topics + 1))
