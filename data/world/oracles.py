"""Two ceilings that read the latents: of logged recall, and of what people answer.

Both score the full catalogue, chunk by chunk of users; the cost grows as users x items
x interests. Shapes: N users, I items, M interests, P pool size.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.contract.settings import UserError
from data.world.policy import refresh_due
from data.world.pools import Pools
from data.world.population import Floats, IdIndex, IdKind, Rows, Stage, random_stream
from data.world.response import POSITIVE, Affinity, action_probability, item_logit
from data.world.state import WorldState

POOL_SAMPLES = 8
CHUNK = 64
NEVER = np.float32(-1e9)


def oracle_log(
    latents: Path, user_ids: Rows, item_ids: Rows, day: int, *, horizon_days: int = 14
) -> Iterator[Floats]:
    """Scores items by P(shown) x P(positive action | state at the end of a day).

    Both are means over the days of the horizon: pools in force are known until they are
    refreshed, later ones are expected from the interests of now, and so are future items.

    Args:
        latents: Folder of the journal.
        user_ids: External ids of users created by then, [N].
        item_ids: External ids of items, [I]; one not created within the horizon scores 0.
        day: The day whose end is asked about.
        horizon_days: Days that count.

    Yields:
        Scores of one user after another in chunks, [up to 64, I].

    Raises:
        UserError: The day is not recorded, or a user was not created by then.
    """
    state = WorldState.load(latents, day)
    users = known_users(state, user_ids)
    outlook = Outlook(state, users, horizon_days)
    items = IdIndex(len(state.population.items), state.world, IdKind.ITEM).rows(item_ids)
    for start in range(0, len(users), CHUNK):
        scores = outlook.expected_positives(slice(start, start + CHUNK))
        yield np.where(items >= 0, scores[:, items], np.float32(0))


def oracle_truth(latents: Path, user_ids: Rows, item_ids: Rows, day: int) -> Iterator[Floats]:
    """Scores items by their expected utility in a user's next session, whatever was logged.

    Holds for items that the user has not acted on; one not created by the end of the day
    scores below all others. Arguments, chunks and errors as for `oracle_log`.
    """
    state = WorldState.load(latents, day)
    users = known_users(state, user_ids)
    items = IdIndex(len(state.population.items), state.world, IdKind.ITEM).rows(item_ids)
    for start in range(0, len(users), CHUNK):
        scores = expected_utility(state, users[start : start + CHUNK])
        yield np.where(items >= 0, scores[:, items], NEVER)


def known_users(state: WorldState, user_ids: Rows) -> Rows:
    """Rows of users by external ids. Raises UserError for one that does not exist."""
    rows = IdIndex(len(state.population.users), state.world, IdKind.USER).rows(user_ids)
    if (rows < 0).any():
        unknown = user_ids[rows < 0][:3].tolist()
        raise UserError(f"users {unknown} do not exist by day {state.day}: ask for a later day")
    return rows


def affinity_by_interest(state: WorldState, users: Rows) -> Iterator[Affinity]:
    """Affinity of users to all items in sessions about each of their interests, [N, I]."""
    all_users, items = state.population.users, state.population.items
    interests = all_users.long_term()[users] @ items.vector.T
    foreign = all_users.language[users][:, None] != items.language
    for slot in range(all_users.topics.shape[1]):
        intent = all_users.interests[users, slot] @ items.vector.T
        yield Affinity(intent, interests, foreign)


def expected_utility(state: WorldState, users: Rows) -> Floats:
    """Expected utility of every item on top of a slate, [N, I]."""
    worth = np.array([action.utility for action in state.world.actions], np.float32)
    utility: Floats = np.tensordot(worth, expected_actions(state, users), 1)
    return utility


def expected_actions(state: WorldState, users: Rows) -> Floats:
    """Probability of each of `ACTIONS` on every item on top of a slate, [A, N, I]."""
    items, weights = state.population.items, state.population.users.weights[users]
    expected = np.zeros((len(state.world.actions), len(users), len(items)), np.float32)
    for slot, affinity in enumerate(affinity_by_interest(state, users)):
        for place, action in enumerate(state.world.actions):
            probability = action_probability(action, item_logit(action, items), affinity)
            expected[place] += weights[:, slot, None] * probability
    return expected


class Outlook:
    """What the policy is expected to show and people to do, per slot, over a horizon.

    Attributes:
        state: The world at the end of the day asked about, with the items of the horizon.
        users: Rows of the users asked about, [N].
    """

    def __init__(self, state: WorldState, users: Rows, horizon_days: int) -> None:
        """Looks ahead from a state; adds the items created within the horizon to it."""
        self.state, self.users = state, users
        days = range(state.day + 1, state.day + 1 + horizon_days)
        num_items = state.population.first_item(days.stop)
        self._anyone = np.zeros(num_items)
        self._within_topic = np.zeros(num_items)
        self._pools = self._pools_in_force(days)
        for day in days:
            self._expect_shares(day, 1 / horizon_days)
            self._expect_refresh(day, (days.stop - day) / horizon_days)
            state.population.grow(day)

    def expected_positives(self, part: slice) -> Floats:
        """Expected positive actions per slot on every item by some of the users, [part, I]."""
        population, users = self.state.population, self.users[part]
        weights, topics = population.users.weights[users], population.users.topics[users]
        expected = np.zeros((len(users), len(population.items)), np.float32)
        usual = self.shown_by_pools(part)
        for slot, affinity in enumerate(affinity_by_interest(self.state, users)):
            shown = usual + self.shown_by_topic(topics[:, slot])
            expected += weights[:, slot, None] * shown * self._positive(affinity)
        return expected

    def shown_by_topic(self, topics: Rows) -> Floats:
        """Probability of every item by the topic source of a session's topic, [N, I]."""
        in_topic = topics[:, None] == self.state.population.items.topic
        return np.asarray(in_topic * self._within_topic.astype(np.float32))

    def _positive(self, affinity: Affinity) -> Floats:
        """Probability of any positive action on an item that is looked at."""
        none: Floats = np.ones((), np.float32)
        for action, positive in zip(self.state.world.actions, POSITIVE, strict=True):
            if positive:
                base = item_logit(action, self.state.population.items)
                none = none * (1 - action_probability(action, base, affinity))
        return 1 - none

    def shown_by_pools(self, part: slice) -> Floats:
        """Probability of every item by all sources but that by topic, [part, I]."""
        world, pools = self.state.world, self._pools
        items, probabilities = pools.items[part], pools.probabilities[part]
        shown = np.tile(self._anyone.astype(np.float32), (len(items), 1))
        row, column = np.nonzero(items >= 0)
        share = world.embedding_share * (1 - world.search_share)
        np.add.at(shown, (row, items[row, column]), share * probabilities[row, column])
        return shown

    def _pools_in_force(self, days: range) -> Pools:
        """Pools of today, weighed by the part of the horizon until they are refreshed."""
        world, users, pools = self.state.world, self.state.population.users, self.state.policy.pools
        phases = [refresh_due(users, day, world.refresh_days)[self.users] for day in days]
        never = np.ones((1, len(self.users)), bool)
        share = np.argmax(np.concatenate([np.array(phases), never]), axis=0) / len(days)
        shape = (len(self.users), (1 + POOL_SAMPLES) * world.pool_size)
        items, probabilities = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
        known = self.users < len(pools.items)
        items[known, : world.pool_size] = pools.items[self.users[known]]
        probabilities[known, : world.pool_size] = pools.probabilities[self.users[known]]
        return Pools(items, probabilities * share[:, None].astype(np.float32))

    def _expect_shares(self, day: int, share: float) -> None:
        """Adds one day of the sources that know no user."""
        world, population = self.state.world, self.state.population
        shares = self.state.policy.day_shares(day, population)
        count = len(population.items)
        uniform = world.uniform_share / count
        self._anyone[:count] += share * (uniform + world.popular_share * shares.popular)
        searched = share * world.embedding_share * world.search_share
        self._within_topic[:count] += searched * shares.within_topic

    def _expect_refresh(self, day: int, share: float) -> None:
        """Samples the pools of users that are refreshed on a day."""
        state, size = self.state, self.state.world.pool_size
        is_due = refresh_due(state.population.users, day, state.world.refresh_days)
        due = np.nonzero(is_due[self.users])[0]
        rng = random_stream(state.world, Stage.ORACLE, day)
        for sample in range(1, 1 + POOL_SAMPLES):
            pools = state.policy.draw_pools(self.users[due], day, state.population, rng)
            columns = slice(sample * size, (sample + 1) * size)
            self._pools.items[due, columns] = pools.items
            self._pools.probabilities[due, columns] = pools.probabilities * share / POOL_SAMPLES
