"""The world in motion: sessions of a day under the logging policy, and answers to slates.

A simulation is replayed rather than stored: the population follows from the settings,
and all that depends on people's actions is the journal, one small file per day in the
latents folder. Shapes: S sessions, R requests, N impressions, E actions.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np

from data.contract.schema import DAY_MS
from data.world.journal import read_day, read_world
from data.world.policy import Policy, Request
from data.world.pools import PairSet
from data.world.population import (
    Flags,
    Floats,
    Population,
    Rows,
    Stage,
    day_start_ms,
    random_stream,
)
from data.world.response import (
    POSITIVE,
    Exposure,
    action_probabilities,
    affinities,
    continue_probability,
)
from data.world.settings import World

HOUR_SHARES = np.array([2, 1, 1, 1, 1, 2, 3, 4, 5, 5, 5, 5, 6, 6, 5, 5, 5, 6, 7, 8, 9, 9, 7, 4])
WEEKDAY_FACTORS = np.array([0.95, 0.95, 0.97, 1.0, 1.03, 1.1, 1.0])
MAX_SESSIONS = 20  # of one user on one day
GAP_MS = 45_000  # mean time between two requests of a session
SLOT_MS = 2_500  # time spent on one slot


@dataclass(slots=True)
class Sessions:
    """Sessions of a day.

    Attributes:
        users: User rows, [S].
        intents: Interest of the user that each session is about, [S].
        started: Milliseconds, [S].
    """

    users: Rows
    intents: Rows
    started: Rows


@dataclass(slots=True)
class DayLog:
    """Everything shown on a day, one row per impression in the order of requests.

    Attributes:
        request: Number of the request within the day, [N].
        users: User rows, [N].
        topics: Topic of the session's intent, [N].
        search: Whether on the search surface, [N].
        items: Item rows, [N].
        positions: Slots, [N].
        sources: Index into `SOURCES`, [N].
        affinity: Cosine of item and intent, [N].
        timestamp: When the slot was seen, milliseconds, [N].
        labels: Whether each action followed, [N, A].
    """

    request: Rows
    users: Rows
    topics: Rows
    search: Flags
    items: Rows
    positions: Rows
    sources: Rows
    affinity: Floats
    timestamp: Rows
    labels: Flags

    @property
    def acted(self) -> Flags:
        """Whether any action followed, [N]."""
        return np.asarray(self.labels.any(axis=1))

    @property
    def positive(self) -> Flags:
        """Whether a positive action followed, [N]."""
        return np.asarray(self.labels[:, POSITIVE].any(axis=1))

    @classmethod
    def concatenate(cls, logs: list[Self]) -> Self:
        """One log of several."""
        return cls(*(np.concatenate([getattr(log, f.name) for log in logs]) for f in fields(cls)))


class WorldState:
    """A world at the end of a day.

    Attributes:
        day: Last day that is over; 0 at the beginning.
        population: Items and users that exist by then.
        policy: The logging policy as it stands.
        acted_on: Pairs of user and item with any action.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.day = 0
        self.population = Population(world)
        self.policy = Policy(world)
        self.acted_on = PairSet()

    @classmethod
    def load(cls, latents: Path, day: int) -> Self:
        """Replays a recorded world up to the end of a day."""
        state = cls(read_world(latents))
        world = state.world
        for past in range(1, day + 1):
            state._open_day(refresh=past > day - world.refresh_days)
            state._close_day(*read_day(latents, past))
        return state

    def run_day(self) -> DayLog:
        """Simulates the next day."""
        self._open_day(refresh=True)
        rng = random_stream(self.world, Stage.SESSIONS, self.day + 1)
        log = self._serve(self._sessions(rng), rng)
        self._close_day(log.users[log.acted], log.items[log.acted], log.items[log.positive])
        return log

    def _open_day(self, *, refresh: bool) -> None:
        self.population.drift(self.day + 1)
        self.policy.start_day(self.day + 1, self.population, refresh=refresh)

    def _close_day(self, users: Rows, items: Rows, positive_items: Rows) -> None:
        self.acted_on.add(users, items)
        self.policy.record(positive_items)
        self.day += 1
        self.population.grow(self.day)

    def _sessions(self, rng: np.random.Generator) -> Sessions:
        users = self.population.users
        rate = users.activity * WEEKDAY_FACTORS[self.day % 7]
        counts = np.minimum(rng.poisson(rate), MAX_SESSIONS)
        rows = np.repeat(np.arange(len(users), dtype=np.int32), counts)
        hours = rng.choice(24, len(rows), p=HOUR_SHARES / HOUR_SHARES.sum())
        offset = (hours + rng.random(len(rows))) * (DAY_MS / 24)
        started = day_start_ms(self.day + 1) + offset.astype(np.int64)
        return Sessions(rows, draw_intents(users.weights[rows], rng), started)

    def _serve(self, sessions: Sessions, rng: np.random.Generator) -> DayLog:
        """Requests of all sessions, round by round, until the last session is over."""
        logs: list[DayLog] = []
        first_request = 0
        for _ in range(self.world.max_requests):
            log, goes_on = self._round(sessions, rng)
            log.request += first_request
            first_request += len(goes_on)
            logs.append(log)
            gaps = SLOT_MS * self.world.slate_size + rng.exponential(GAP_MS, len(goes_on))
            sessions = Sessions(
                sessions.users[goes_on],
                sessions.intents[goes_on],
                (sessions.started + gaps.astype(np.int64))[goes_on],
            )
        return DayLog.concatenate(logs)

    def _round(self, sessions: Sessions, rng: np.random.Generator) -> tuple[DayLog, Flags]:
        """One request of each session, and whether the session goes on after it."""
        topics = self.population.users.topics[sessions.users, sessions.intents]
        search = rng.random(len(sessions.users)) < self.world.search_share
        sources, slates = self.policy.draw(Request(sessions.users, topics, search), rng)
        request, position = np.nonzero(self._shown(sessions.users, slates))
        position = position.astype(np.int32)
        exposure = Exposure(
            sessions.users[request],
            sessions.intents[request],
            slates[request, position],
            position,
        )
        users, items = self.population.users, self.population.items
        affinity = affinities(exposure, users, items)
        probability = action_probabilities(self.world, exposure, affinity, items)
        log = DayLog(
            request=request,
            users=exposure.users,
            topics=topics[request],
            search=search[request],
            items=exposure.items,
            positions=position,
            sources=sources[request, position],
            affinity=affinity.intent,
            timestamp=np.minimum(
                sessions.started[request] + SLOT_MS * (position + 1).astype(np.int64),
                day_start_ms(self.day + 2) - 1,
            ),
            labels=rng.random(probability.shape, np.float32) < probability,
        )
        return log, self._goes_on(log, len(sessions.users), rng)

    def _shown(self, users: Rows, slates: Rows) -> Flags:
        """Slots with an item that is new to the slate and not acted on by the user, [R, S]."""
        order = np.argsort(slates, axis=1, kind="stable")
        ordered = np.take_along_axis(slates, order, axis=1)
        repeated = np.zeros(slates.shape, bool)
        np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
        known = self.acted_on.contains(np.broadcast_to(users[:, None], slates.shape), slates)
        return ~repeated & ~known & (slates >= 0)

    def _goes_on(self, log: DayLog, num_requests: int, rng: np.random.Generator) -> Flags:
        positives = np.bincount(log.request, log.labels[:, POSITIVE].sum(1), num_requests)
        hides = np.bincount(log.request, log.labels[:, ~POSITIVE].sum(1), num_requests)
        goes_on: Flags = rng.random(num_requests) < continue_probability(positives, hides)
        return goes_on


def draw_intents(weights: Floats, rng: np.random.Generator) -> Rows:
    """Draws one interest per row of weights, [S]."""
    cumulative = np.cumsum(weights, axis=1)
    cumulative[:, -1] = 1.0
    point = rng.random((len(weights), 1), dtype=np.float32)
    interest: Rows = (cumulative <= point).sum(axis=1)
    return interest.astype(np.int32)
