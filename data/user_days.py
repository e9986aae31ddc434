"""Vectors of users as they stood at the end of each day on which they did something.

Who learns on a user's vector must read it as it was served: refreshed at midnight, from nothing
later. One causal pass over a timeline gives all of its days. Grows with active days of users: 8
bytes and a float16 vector each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.contract.encode import Floats, Ints
from data.contract.schema import Calendar
from data.trends import days_of

if TYPE_CHECKING:
    from pathlib import Path

Halves = npt.NDArray[np.float16]

KEYS, VECTORS = "keys.npy", "vectors.npy"
DAY_BITS = 20  # a million days; the user's row stands above them


@dataclass(frozen=True, slots=True)
class UserDays:
    """N vectors by user and day; memory-mapped.

    Attributes:
        keys: int64[N] ascending: user row and the day at whose end the vector was known.
        vectors: float16[N, D] unit vectors.
        calendar: of the log.
    """

    keys: Ints
    vectors: Halves
    calendar: Calendar

    @classmethod
    def open(cls, folder: Path, calendar: Calendar) -> UserDays:
        """Those of an artefact."""
        keys, vectors = (np.load(folder / name, mmap_mode="r") for name in (KEYS, VECTORS))
        return cls(keys, vectors, calendar)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.vectors.shape[1])

    def before(self, users: Ints, moments_ms: Ints) -> Floats:
        """Vectors of users as of the midnight before their moments.

        Args:
            users: rows, [Q].
            moments_ms: ms since 1970, [Q].

        Returns:
            float32[Q, D]; zeros for those who had done nothing by then.
        """
        days = np.clip(days_of(self.calendar, moments_ms) - 1, 0, (1 << DAY_BITS) - 1)
        vectors = np.zeros((len(users), self.dim), np.float32)
        if len(self.keys):
            at = np.searchsorted(self.keys, keys_of(users, days), side="right") - 1
            known = (at >= 0) & (self.keys[np.maximum(at, 0)] >> DAY_BITS == users)
            vectors[known] = self.vectors[at[known]]
        return vectors

    def newest(self, rows: int) -> Halves:
        """The last vector of each of so many user rows, float16[rows, D]; zeros without one."""
        vectors = np.zeros((rows, self.dim), np.float16)
        users = self.keys >> DAY_BITS
        last = np.flatnonzero(np.append(users[1:] != users[:-1], len(users) > 0))
        vectors[users[last]] = self.vectors[last]
        return vectors


def keys_of(users: Ints, days: Ints) -> Ints:
    """Keys of users and days, [N]."""
    keys: Ints = (users << DAY_BITS) | days
    return keys
