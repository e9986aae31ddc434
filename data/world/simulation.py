"""People who answer slates: an online experiment on one machine.

Notable:
    - A session is about one hidden interest; slates only see its owner's past.
    - It ends sooner without positive actions, and its mood decides when the user returns.
    - Positive actions on an item that the user has acted on before are rare.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.contract.schema import DAY_MS
from data.contract.settings import UserError
from data.world.population import Flags, Floats, IdIndex, IdKind, Rows, Stage, random_stream
from data.world.response import (
    POSITIVE,
    Exposure,
    action_probabilities,
    affinities,
    continue_probability,
    durations,
    return_rate,
)
from data.world.settings import ACTIONS
from data.world.state import SLOT_MS, WorldState, draw_intents

__all__ = ["Action", "Response", "Simulator"]


@dataclass(frozen=True, slots=True)
class Action:
    """One action on an item of a slate, timestamp in milliseconds and duration in seconds."""

    item_id: int
    action: str
    position: int
    timestamp: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Response:
    """A user's answer to a slate.

    Attributes:
        actions: From the top of the slate to its end.
        session_ended: Whether the user leaves; if not, another slate is asked for.
        returns_at: When the next session begins, milliseconds; None within a session.
    """

    actions: tuple[Action, ...]
    session_ended: bool
    returns_at: int | None


class Simulator:
    """Users of a world after a recorded day, who respond to whatever slate they are shown.

    Args:
        latents: Folder of the world's journal.
        day: Last recorded day that has happened.
        seed: Of the experiment; equal seeds and calls give equal responses.

    Raises:
        UserError: The day is not recorded.
    """

    def __init__(self, latents: Path, day: int, seed: int = 0) -> None:
        self._state = WorldState.load(latents, day)
        self._rng = random_stream(self._state.world, Stage.RESPONSES, day, seed)
        self._intents: dict[int, int] = {}
        self._number_ids()

    def respond(self, user_id: int, slate: Sequence[int], timestamp: int) -> Response:
        """Samples a user's answer to a slate.

        Args:
            user_id: External id of the user; begins a session unless one goes on.
            slate: External ids of the items, the first on top.
            timestamp: When the slate is shown, milliseconds.

        Raises:
            UserError: The user or an item does not exist by this day.
        """
        user, items = int(self._find(IdKind.USER, [user_id])[0]), self._find(IdKind.ITEM, slate)
        users = self._state.population.users.take(np.array([user]))
        if user not in self._intents:
            self._intents[user] = int(draw_intents(users.weights, self._rng)[0])
        labels, cosines = self._answer(user, items)
        positives, hides = int(labels[:, POSITIVE].sum()), int(labels[:, ~POSITIVE].sum())
        goes_on = self._rng.random() < continue_probability(np.array(positives), np.array(hides))
        actions = self._actions(np.asarray(slate), items, labels, cosines, timestamp)
        if goes_on:
            return Response(actions, session_ended=False, returns_at=None)
        del self._intents[user]
        away_days = self._rng.exponential(1 / return_rate(users.activity[0], positives, hides))
        returns_at = timestamp + len(slate) * SLOT_MS + int(away_days * DAY_MS)
        return Response(actions, session_ended=True, returns_at=returns_at)

    def next_day(self) -> None:
        """Lets a day pass: interests drift, and the world's new items and users appear."""
        state = self._state
        state.day += 1
        state.population.drift(state.day)
        state.population.grow(state.day)
        self._number_ids()

    def _number_ids(self) -> None:
        world, population = self._state.world, self._state.population
        self._index = {
            IdKind.USER: IdIndex(len(population.users), world, IdKind.USER),
            IdKind.ITEM: IdIndex(len(population.items), world, IdKind.ITEM),
        }

    def _answer(self, user: int, items: Rows) -> tuple[Flags, Floats]:
        """Labels, [S, A], and cosines with the session's intent, [S]; remembers the pairs."""
        state, positions = self._state, np.arange(len(items))
        shown = state.population.items.take(items)
        users = state.population.users.take(np.array([user]))
        zeros = np.zeros_like(positions)
        exposure = Exposure(zeros, zeros + self._intents[user], positions, positions)
        affinity = affinities(exposure, users, shown)
        probability = action_probabilities(state.world, exposure, affinity, shown)
        known = state.acted_on.contains(np.full_like(items, user), items)
        probability[known[:, None] & POSITIVE] *= state.world.repeat_factor
        labels = self._rng.random(probability.shape) < probability
        acted = items[labels.any(axis=1)]
        state.acted_on.add(np.full_like(acted, user), acted)
        return labels, affinity.intent

    def _actions(
        self, slate: Rows, items: Rows, labels: Flags, cosines: Floats, timestamp: int
    ) -> tuple[Action, ...]:
        position, action = np.nonzero(labels)
        formats = self._state.population.items.format[items[position]]
        seconds = durations(self._state.world, action, cosines[position], formats, self._rng)
        return tuple(
            Action(int(slate[p]), ACTIONS[a], int(p), timestamp + (int(p) + 1) * SLOT_MS, float(s))
            for p, a, s in zip(position, action, seconds, strict=True)
        )

    def _find(self, kind: IdKind, ids: Sequence[int]) -> Rows:
        rows = self._index[kind].rows(np.asarray(ids, np.int64))
        if (rows < 0).any():
            unknown = np.asarray(ids)[rows < 0][:3].tolist()
            raise UserError(
                f"{kind.name.lower()} {unknown} unknown to the world on day {self._state.day}: "
                "ask for those in its tables up to that day"
            )
        return rows
