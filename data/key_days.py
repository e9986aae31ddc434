"""On which days each of many keys was touched, and the number of each such line of a key and a day.

A line is found again by counting bits: those of a word stand for 64 days, a run. Only runs in which
any key was touched have words, so that an event of a wrong year costs no more than its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.contract.encode import Ints
from data.touches import LAST_DAY

if TYPE_CHECKING:
    from data.touches import Touches

Words = npt.NDArray[np.uint64]
Keys = npt.NDArray[np.integer]

RUN = 64  # days, the bits of a word
NO_RUN = LAST_DAY // RUN + 1


@dataclass(slots=True)
class DayMarks:
    """Days on which K keys have been seen so far; memory is a bit a key and day.

    Attributes:
        runs: those in which any key was, ascending, [G].
        words: whose bit d is day d of the run, uint64[G, K].
    """

    runs: Ints
    words: Words

    @classmethod
    def empty(cls, keys: int) -> DayMarks:
        """No key has been seen."""
        return cls(np.zeros(0, np.int64), np.zeros((0, keys), np.uint64))

    def add(self, touches: Touches, keys: Keys) -> None:
        """Marks the days of touches by their keys [H]; O(H)."""
        runs = touches.day // RUN
        self._extend(np.flatnonzero(np.bincount(runs)))
        cells = np.searchsorted(self.runs, runs) * self.words.shape[1] + keys
        np.bitwise_or.at(self.words.reshape(-1), cells, _bit(touches.day))

    def _extend(self, runs: Ints) -> None:
        known = np.union1d(self.runs, runs)
        if len(known) > len(self.runs):
            words = np.zeros((len(known), self.words.shape[1]), np.uint64)
            words[np.searchsorted(known, self.runs)] = self.words
            self.runs, self.words = known, words


@dataclass(frozen=True, slots=True)
class KeyDays:
    """Lines, one for each key and day on which it was touched, numbered by key, then day.

    Attributes:
        words: of each key, a word a run and an empty one at the end, uint64[K, G + 1].
        earlier: lines before each of them, [K, G + 1].
        slots: word of every day or, where it has none, the next, [LAST_DAY + 2].
        masks: bits of the days before it in that word, [LAST_DAY + 2].
    """

    words: Words
    earlier: Ints
    slots: Ints
    masks: Words

    @classmethod
    def of(cls, marks: DayMarks) -> KeyDays:
        """Numbers what was marked; 16 bytes a key and run."""
        words = np.zeros((marks.words.shape[1], len(marks.runs) + 1), np.uint64)
        words[:, :-1] = marks.words.T
        bits = np.bitwise_count(words)
        up_to = np.cumsum(bits, dtype=np.int64).reshape(words.shape)
        days, runs = np.arange(LAST_DAY + 2), np.append(marks.runs, NO_RUN)
        slots = np.searchsorted(runs, days // RUN)
        masks = np.where(runs[slots] == days // RUN, _bit(days) - np.uint64(1), np.uint64(0))
        return cls(words, up_to - bits, slots, masks)

    def __len__(self) -> int:
        """Number of lines."""
        return int(self.earlier[-1, -1])

    @property
    def firsts(self) -> Ints:
        """Number of the first line of each key, and one past the last line, [K + 1]."""
        return np.append(self.earlier[:, 0], len(self))

    def before(self, keys: Keys, days: Keys) -> Ints:
        """How many lines come before keys on days, one to one: their numbers where they are lines.

        Args:
            keys: below K, [N].
            days: at most `LAST_DAY` + 1, [N].
        """
        slots = self.slots[days]
        earlier: Ints = np.bitwise_count(self.words[keys, slots] & self.masks[days])
        return earlier + self.earlier[keys, slots]


def _bit(days: Keys) -> Words:
    """The bit of each day in the word of its run."""
    return np.uint64(1) << (days % RUN).astype(np.uint64)
