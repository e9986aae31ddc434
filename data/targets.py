"""What the states of a timeline are to predict: pairs of a state and a positive after it.

A state is what is known after some events of a user; a label is a positive that may be learnt from
(`TrainingLog`). Objectives differ in which states predict which labels (PinnerFormer, KDD'22,
§4.2):

- next_action: one state of each user, its next label;
- sasrec: every label from right before it;
- all_action: one state of each user, several labels within the horizon;
- dense_all_action: many states of each user, each one random label within its own horizon.

Shapes: B users with H events, L labels, T pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.contract.encode import Events, Ints, Mask, ragged_positions
from data.contract.schema import Calendar, UserObjective
from data.sequence_windows import Windows
from data.trends import days_of

SHARED = 0.75


@dataclass(frozen=True, slots=True)
class Horizon:
    """How far ahead a state predicts.

    Attributes:
        labels: most labels after a state, in a log without a clock.
        ms: time after the newest event of a state, in a log with one; labels end with their window,
            however near to it a state is.
    """

    labels: int
    ms: int | None = None


@dataclass(frozen=True, slots=True)
class Targets:
    """T pairs of a state and a label, in order of user and state.

    Attributes:
        user: index of the user in their block, [T].
        end: position one past the newest event that the state has read, [T].
        label: position of the event that is predicted, never below `end`, [T].
    """

    user: Ints
    end: Ints
    label: Ints


@dataclass(frozen=True, slots=True)
class TargetSampler:
    """Draws the pairs of one objective.

    Attributes:
        objective: see the head of this file.
        horizon: of all_action and dense_all_action.
        most_labels: of the one state of all_action.
        states: share of the states that predict in dense_all_action.
    """

    objective: UserObjective
    horizon: Horizon
    most_labels: int = 32
    states: float = 1.0

    def draw(self, events: Events, labels: Mask, rng: np.random.Generator) -> Targets:
        """Pairs of a block of users; other ones at each call, but for sasrec.

        Args:
            events: all that may be read.
            labels: which of them may be predicted, [H].
            rng: draws states and labels.
        """
        at = np.flatnonzero(labels).astype(np.int64)
        if self.objective == "sasrec":
            return Targets(_owners(events, at), at, at)
        if self.objective == "next_action":
            kept = _one_of_each(_owners(events, at), rng)
            return Targets(_owners(events, at[kept]), at[kept], at[kept])
        if self.objective == "all_action":
            return self._all(events, at, rng)
        return self._dense(events, at, rng)

    def _all(self, events: Events, at: Ints, rng: np.random.Generator) -> Targets:
        ends, first, last = self._ahead(events, at)
        users = _owners(events, ends - 1)
        kept = _one_of_each(users, rng)
        count = (last - first)[kept]
        which = np.repeat(np.arange(len(kept)), count)
        places = ragged_positions(first[kept], count)
        # The labels of each state in random order: the first of them stay.
        order = np.lexsort((rng.random(len(which)), which))
        rank = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        chosen = np.sort(order[rank < self.most_labels])
        which = which[chosen]
        return Targets(users[kept][which], ends[kept][which], at[places[chosen]])

    def _dense(self, events: Events, at: Ints, rng: np.random.Generator) -> Targets:
        ends, first, last = self._ahead(events, at)
        kept = rng.random(len(ends)) < self.states
        ends, first, last = ends[kept], first[kept], last[kept]
        chosen = first + (rng.random(len(ends)) * (last - first)).astype(np.int64)
        return Targets(_owners(events, ends - 1), ends, at[chosen])

    def _ahead(self, events: Events, at: Ints) -> tuple[Ints, Ints, Ints]:
        """States with a label ahead, and the first of their labels and the one after the last."""
        ends = np.arange(1, len(events.item) + 1)
        users = _owners(events, ends - 1)
        first = np.searchsorted(at, ends)
        if self.horizon.ms is None:
            last = np.searchsorted(at, events.offsets[users + 1])
            last = np.minimum(last, first + self.horizon.labels)
        else:
            until = events.timestamp[ends - 1] + self.horizon.ms + 1
            last = np.searchsorted(at, events.positions_before(users, until))
        some = np.flatnonzero(last > first)
        return ends[some], first[some], last[some]


def _owners(events: Events, positions: Ints) -> Ints:
    """User of each event."""
    return np.searchsorted(events.offsets, positions, side="right") - 1


def _one_of_each(users: Ints, rng: np.random.Generator) -> Ints:
    """Index of one random entry of each user, for ascending users [N]."""
    counts = np.unique(users, return_counts=True)[1]
    firsts = np.cumsum(counts) - counts
    chosen: Ints = firsts + (rng.random(len(counts)) * counts).astype(np.int64)
    return chosen


def ends_of_days(events: Events, calendar: Calendar, first_day: int) -> tuple[Targets, Ints]:
    """The states of a block of users at the end of their days from `first_day` on.

    What a user did before `first_day` counts as of the day before it.

    Returns:
        States (the label of each is its own newest event), and the day of each, [T].
    """
    owner = np.repeat(np.arange(len(events.lengths)), events.lengths)
    day = np.maximum(days_of(calendar, events.timestamp), first_day - 1)
    last = np.ones(len(day), bool)
    last[:-1] = (owner[1:] != owner[:-1]) | (day[1:] != day[:-1])
    at = np.flatnonzero(last)
    return Targets(owner[at], at + 1, at), day[at]


def windows_of(
    events: Events,
    targets: Targets,
    max_length: int,
    rng: np.random.Generator,
    shared: float = SHARED,
) -> Windows:
    """Cuts timelines so that each state has read as much as fits.

    The states of a share of `max_length` events have a window in common, which reads the newest
    `max_length` events before the last of them: a state has read at least the rest, a quarter of
    `max_length` by default, if there is as much. Where the windows of a longer timeline meet is
    drawn anew each time; a shorter one is one window.

    Args:
        events: timelines of a block.
        targets: pairs in order of user and state.
        max_length: most events that a window reads.
        rng: draws the offsets.
        shared: share of `max_length` whose states have a window in common.
    """
    stride = _stride(max_length, shared)
    shift = rng.integers(0, stride, len(events.lengths))
    shift[events.lengths <= max_length] = 0
    read = targets.end - events.offsets[targets.user]
    tile = np.where(
        events.lengths[targets.user] <= max_length, 0, (read + shift[targets.user]) // stride
    )
    key = targets.user * (int(tile.max(initial=0)) + 1) + tile
    _, first, window = np.unique(key, return_index=True, return_inverse=True)
    last = np.append(first[1:], len(key)) - 1 if len(first) else first
    user, end = targets.user[first], targets.end[last]
    starts = np.maximum(events.offsets[user], end - max_length)
    return Windows(
        user,
        events.cut(starts, end - starts),
        window,
        targets.end - starts[window],
        events.item[targets.label].astype(np.int64),
        events.timestamp[targets.label],
    )


def num_windows(events: Ints, max_length: int) -> Ints:
    """Windows that `windows_of` cuts on average for users of so many events, if all may predict."""
    long = np.rint(1 + (events - 1) / _stride(max_length)).astype(np.int64)
    counts: Ints = np.where(events > max_length, long, np.minimum(events, 1))
    return counts


def _stride(max_length: int, shared: float = SHARED) -> int:
    """Events whose states share a window."""
    return max(1, round(max_length * shared))
