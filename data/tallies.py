"""How often each action had happened to a key before a moment: an item, a creator, a user.

With a clock, moments are days and counts are those of whole days before, an event counting half as
much when it is a half-life older. Without one nobody can say which of two users came first: a
moment is then a fold of users, and what the users of other folds did is counted, so that no label
is among its own counts, nor missing from them alone (as it would be if only the user's own events
were left out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from data.key_days import KeyDays, Keys
from data.touches import LAST_DAY, Days

if TYPE_CHECKING:
    from data.contract.encode import Ints
    from data.touches import Kinds, Touches

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.uint32]

FOLDS = 10
EVERYBODY = -1
# What others did is told as if there were as many of them as of everybody.
OF_OTHERS = np.array([FOLDS / (FOLDS - 1)] * FOLDS + [1], np.float32)
LINES_AT_ONCE = 1 << 18


class Counter(Protocol):
    """What touches are counted into, by key, a block of a log at a time."""

    def add(self, touches: Touches, keys: Keys) -> None:
        """Counts touches by their keys [H]."""


Count = TypeVar("Count", bound=Counter)


class Tallies(Protocol):
    """Counts of W kinds of touches by key."""

    def before(self, moments: Ints, keys: Ints) -> Floats:
        """Counts of keys as of moments, one to one: float32[N, W]."""


@dataclass(frozen=True, slots=True)
class DayCounts:
    """Counts of the touches of each key on each day, a block of a log at a time.

    Attributes:
        lines: the M keys and days.
        day: of each line, int16[M].
        counts: uint32[M, W].
    """

    lines: KeyDays
    day: Days
    counts: Counts

    @classmethod
    def empty(cls, lines: KeyDays, width: int) -> DayCounts:
        """Of no touch yet."""
        return cls(lines, np.zeros(len(lines), np.int16), np.zeros((len(lines), width), np.uint32))

    def add(self, touches: Touches, keys: Keys) -> None:
        """Counts touches by their keys [H], all of them on lines; O(H)."""
        at = self.lines.before(keys, touches.day)
        self.day[at] = touches.day
        _count(self.counts, at, touches.kind)


@dataclass(frozen=True, slots=True)
class DayTallies:
    """Counts as of any day; memory grows as the days on which each key was touched.

    Attributes:
        lines: the M keys and days on which they were touched.
        day: of each line, int16[M].
        counts: what had happened to the key at the end of that day, float32[M, W].
        half_life_days: age at which a touch counts half.
    """

    lines: KeyDays
    day: Days
    counts: Floats
    half_life_days: float

    @classmethod
    def of(cls, counted: DayCounts, half_life_days: float) -> DayTallies:
        """Carries counts on from day to day, in the memory of those of each day."""
        made = cls(counted.lines, counted.day, _floats(counted.counts), half_life_days)
        made._carry()
        return made

    def _carry(self) -> None:
        """Adds what is left of the line before to each line of a key, the earlier lines first."""
        firsts = self.lines.firsts
        first, lines = firsts[:-1], np.diff(firsts)
        for step in range(1, int(lines.max(initial=0))):
            at = first[lines > step] + step
            left = left_after(self.day[at] - self.day[at - 1], self.half_life_days)
            self.counts[at] += self.counts[at - 1] * left[:, None]

    def before(self, moments: Ints, keys: Ints) -> Floats:
        """Counts of keys as of the start of 1-based days, one to one: float32[N, W]."""
        ends = self.lines.before(keys, np.clip(moments, 0, LAST_DAY + 1))
        there = ends > self.lines.earlier[keys, 0]
        at = ends[there] - 1
        found = np.zeros((len(ends), self.counts.shape[1]), np.float32)
        left = left_after(moments[there] - self.day[at], self.half_life_days)
        found[there] = self.counts[at] * left[:, None]
        return found


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


@dataclass(frozen=True, slots=True)
class FoldTallies:
    """Counts of what all but one fold of the users did; memory is FOLDS + 2 lines a key.

    Attributes:
        own: of each fold, and of nobody at EVERYBODY, uint32[FOLDS + 1, keys, W].
        everybody: uint32[keys, W].
    """

    own: Counts
    everybody: Counts

    @classmethod
    def empty(cls, keys: int, width: int) -> FoldTallies:
        """Of no touch yet."""
        own = np.zeros((FOLDS + 1, keys, width), np.uint32)
        return cls(own, np.zeros((keys, width), np.uint32))

    def add(self, touches: Touches, keys: Keys) -> None:
        """Counts touches by their keys [H]; O(H)."""
        _count(self.own, fold_of(touches.user) * len(self.everybody) + keys, touches.kind)
        _count(self.everybody, keys, touches.kind)

    def before(self, moments: Ints, keys: Ints) -> Floats:
        """Counts of keys by the other folds, one to one: float32[N, W]."""
        others = self.everybody[keys] - self.own[moments, keys]
        found: Floats = others.astype(np.float32) * OF_OTHERS[moments, None]
        return found


def left_after(days: Keys, half_life_days: float) -> Floats:
    """What is left of a touch after so many days."""
    left: Floats = (0.5 ** (days / half_life_days)).astype(np.float32)
    return left


def _count(counts: Counts, at: Keys, kinds: Kinds) -> None:
    """Adds touches of kinds to the lines that they belong to."""
    cells = at.astype(np.int64) * counts.shape[-1] + kinds
    np.add.at(counts.reshape(-1), cells, np.uint32(1))


def _floats(counts: Counts) -> Floats:
    """The same numbers in the same memory."""
    floats: Floats = counts.view(np.float32)
    for start in range(0, len(counts), LINES_AT_ONCE):
        part = slice(start, start + LINES_AT_ONCE)
        floats[part] = counts[part].astype(np.float32)
    return floats


def fold_of(users: npt.NDArray[np.integer]) -> Ints:
    """Fold of user rows."""
    return users.astype(np.int64) % FOLDS
