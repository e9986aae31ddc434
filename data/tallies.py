"""How often each action had happened to a key before a moment: an item, a creator, a user.

With a clock, moments are days and counts are those of whole days before, an event counting half as
much when it is a half-life older. Without one nobody can say which of two users came first: a
moment is then a fold of users, and what the users of other folds did is counted, so that no label
is among its own counts, nor missing from them alone (as it would be if only the user's own events
were left out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from data.contract.encode import Ints
from data.numbering import numbered
from data.touches import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from data.touches import Touches

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.integer]

FOLDS = 10
EVERYBODY = -1
PLACES_SHARE = 8  # 72 bytes a touch of a range for a moment


class Tallies(Protocol):
    """Counts of W kinds of touches by key."""

    def before(self, moments: Ints, keys: Ints) -> Floats:
        """Counts of keys as of moments, one to one: float32[N, W]."""


@dataclass(frozen=True, slots=True)
class DayTallies:
    """Counts as of any day; memory grows as the days on which each key was touched.

    Attributes:
        places: key and day of each line in one number, ascending, [M].
        counts: what had happened to the key at the end of that day, float32[M, W].
        span: one more than the last day.
        half_life_days: age at which a touch counts half.
    """

    places: Ints
    counts: Floats
    span: int
    half_life_days: float

    @classmethod
    def of(cls, touches: Touches, keys: Keys, width: int, half_life_days: float) -> DayTallies:
        """Counts touches by their keys [H]; O(H), where a key is seldom touched O(H log H).

        What is held beside the touches and the lines is bounded, whatever their number.
        """
        span = int(touches.day.max(initial=0)) + 1
        found = [_lines(touches, keys, at, width, span) for at in _ranges(keys)]
        places = np.concatenate([np.zeros(0, np.int64), *(places for places, _ in found)])
        counts = np.concatenate(
            [np.zeros((0, width), np.float32), *(counts for _, counts in found)]
        )
        made = cls(places, counts, span, half_life_days)
        made._carry()
        return made

    def _carry(self) -> None:
        """Adds what is left of the line before to each line of a key, the earlier lines first."""
        first = np.flatnonzero(np.diff(self.places // self.span, prepend=-1))
        lines = np.diff(first, append=len(self.places))
        for step in range(1, int(lines.max(initial=0))):
            at = first[lines > step] + step
            left = self._left(self.places[at] - self.places[at - 1])
            self.counts[at] += self.counts[at - 1] * left[:, None]

    def before(self, moments: Ints, keys: Ints) -> Floats:
        """Counts of keys as of the start of 1-based days, one to one: float32[N, W]."""
        wanted = np.clip(moments, 0, self.span)
        at = np.searchsorted(self.places, keys.astype(np.int64) * self.span + wanted) - 1
        found = np.zeros((len(at), self.counts.shape[1]), np.float32)
        there = at >= 0
        there[there] = self.places[at[there]] // self.span == keys[there]
        day = self.places[at[there]] % self.span
        found[there] = self.counts[at[there]] * self._left(moments[there] - day)[:, None]
        return found

    def _left(self, days: Ints) -> Floats:
        return left_after(days, self.half_life_days)


@dataclass(frozen=True, slots=True)
class LastTallies:
    """Counts as of one day, that after a log; memory is a line a key, however many touches.

    Attributes:
        counts: of each key, float64[keys, W].
        moment: the day.
        half_life_days: age at which a touch counts half.
    """

    counts: npt.NDArray[np.float64]
    moment: int
    half_life_days: float

    @classmethod
    def empty(cls, keys: int, width: int, moment: int, half_life_days: float) -> LastTallies:
        """Of no touch yet."""
        return cls(np.zeros((keys, width)), moment, half_life_days)

    def add(self, touches: Touches, keys: Keys) -> None:
        """Counts touches by their keys [H], those before the day; O(H)."""
        ages = self.moment - touches.day.astype(np.int64)
        counted = ages > 0
        left = left_after(ages[counted], self.half_life_days).astype(np.float64)
        cells = keys[counted].astype(np.int64) * self.counts.shape[1] + touches.kind[counted]
        np.add.at(self.counts.reshape(-1), cells, left)

    def before(self, moments: Ints, keys: Ints) -> Floats:
        """Counts of keys as of that day: float32[N, W]. Raises ValueError for another one."""
        if (moments != self.moment).any():
            raise ValueError(f"these counts are as of day {self.moment} alone")
        return self.counts[keys].astype(np.float32)


def left_after(days: Ints, half_life_days: float) -> Floats:
    """What is left of a touch after so many days."""
    left: Floats = (0.5 ** (days / half_life_days)).astype(np.float32)
    return left


def _ranges(keys: Keys) -> Iterator[Ints]:
    """Positions of the touches of ranges of keys [H], `AT_ONCE` of them or those of one key."""
    up_to = np.cumsum(np.bincount(keys))
    wanted = np.arange(AT_ONCE, len(keys), AT_ONCE)
    ends = np.unique([*np.searchsorted(up_to, wanted) + 1, len(up_to)])
    for low, high in zip([0, *ends[:-1]], ends, strict=True):
        at = np.flatnonzero((keys >= low) & (keys < high))
        if len(at):
            yield at


def _lines(touches: Touches, keys: Keys, at: Ints, width: int, span: int) -> tuple[Ints, Floats]:
    """Places of some touches, ascending, and the counts of each; so many touches at a time."""
    places, counts = np.zeros(0, np.int64), np.zeros((0, width))
    first = int(keys[at].min()) * span
    for start in range(0, len(at), AT_ONCE):
        part = at[start : start + AT_ONCE]
        own = keys[part].astype(np.int64) * span + touches.day[part] - first
        merged, place = numbered(np.concatenate([places, own]), PLACES_SHARE)
        cells = place[len(places) :] * width + touches.kind[part]
        more = np.bincount(cells, minlength=len(merged) * width).reshape(-1, width).astype(float)
        more[place[: len(places)]] += counts
        places, counts = merged, more
    return places + first, counts.astype(np.float32)


@dataclass(frozen=True, slots=True)
class FoldTallies:
    """Counts of what all but one fold of the users did; memory is FOLDS + 1 lines a key.

    Attributes:
        counts: of each fold, and of everybody at EVERYBODY, float32[FOLDS + 1, keys, W].
    """

    counts: Floats

    @classmethod
    def of(cls, touches: Touches, keys: Keys, width: int) -> FoldTallies:
        """Counts touches by their keys [H]; O(H)."""
        number = int(keys.max(initial=0)) + 1
        cells = (fold_of(touches.user) * number + keys) * width + touches.kind
        own = np.bincount(cells, minlength=FOLDS * number * width)
        own = own.reshape(FOLDS, number, width).astype(np.float32)
        everybody = own.sum(axis=0, keepdims=True)
        return cls(np.concatenate([(everybody - own) * (FOLDS / (FOLDS - 1)), everybody]))

    def before(self, moments: Ints, keys: Ints) -> Floats:
        """Counts of keys by the other folds, one to one: float32[N, W]; 0 for later keys."""
        known = keys < self.counts.shape[1]
        found: Floats = self.counts[moments, np.where(known, keys, 0)]
        found[~known] = 0
        return found


def fold_of(users: npt.NDArray[np.integer]) -> Ints:
    """Fold of user rows."""
    return users.astype(np.int64) % FOLDS
