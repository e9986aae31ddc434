"""Which items each user engaged with before a part: sets laid end to end, 4 bytes a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np
import numpy.typing as npt

from data.contract.schema import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from data.queries import SplitLog

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]
Lists = tuple[Ints, Rows]


@dataclass(frozen=True, slots=True)
class Interactions:
    """Positive events before a part: who, what, and how long before it.

    Attributes:
        user: user rows, [H].
        item: item rows, [H].
        age_days: days before the part begins, [H]; all 0 where there is no clock.
    """

    user: Ints
    item: Ints
    age_days: npt.NDArray[np.float64]


def interactions_before(log: SplitLog, part: int) -> Iterator[Interactions]:
    """Positive events that queries about `part` may know, a block of users at a time."""
    start = log.start_ms(part)
    for block in log.blocks():
        chosen = block.known_before(part, log.split.kind)
        chosen &= np.isin(block.events.action, log.positive_codes)
        times = block.events.timestamp[chosen]
        ages = np.zeros(len(times)) if start is None else (start - times) / DAY_MS
        items = block.events.item[chosen].astype(np.int64)
        yield Interactions(block.users[block.owners[chosen]], items, ages)


@dataclass(frozen=True, slots=True)
class Incidence:
    """The items of U users, R pairs in all.

    Attributes:
        users: int64[U] rows of the users with an item, each once.
        offsets: int64[U + 1] where the items of each begin.
        items: int32[R] item rows, each once and ascending within a user.
    """

    users: Ints
    offsets: Ints
    items: Rows

    @classmethod
    def before(cls, log: SplitLog, part: int) -> Incidence:
        """What precedes `part`, users in the order of the log."""
        blocks = [_sets(block) for block in interactions_before(log, part)]
        none = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32)
        users, sizes, items = (np.concatenate(c) for c in zip(none, *blocks, strict=True))
        return cls(users, _offsets(sizes), items)

    @property
    def lists(self) -> Lists:
        """Offsets and item rows of each user."""
        return self.offsets, self.items

    @property
    def sizes(self) -> Ints:
        """Items of each user, [U]."""
        return np.diff(self.offsets)

    def by_item(self, rows: int) -> Lists:
        """Offsets [rows + 1] and users [R] of each item: places among these users, ascending."""
        offsets = _offsets(np.bincount(self.items, minlength=rows))
        return offsets, _transposed(*self.lists, offsets[:-1].copy())

    def by_user(self) -> Incidence:
        """The same with user rows ascending."""
        order = np.argsort(self.users)
        offsets = _offsets(self.sizes[order])
        return Incidence(self.users[order], offsets, _gathered(*self.lists, order))


def _sets(block: Interactions) -> tuple[Ints, Ints, Rows]:
    """Users of a block, the number of their items, and these items."""
    pairs = np.unique((block.user << 32) | block.item)
    users, sizes = np.unique(pairs >> 32, return_counts=True)
    return users, sizes, (pairs & 0xFFFFFFFF).astype(np.int32)


def _offsets(sizes: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)])


@numba.njit(cache=True, nogil=True)
def _transposed(offsets: Ints, members: Rows, places: Ints) -> Rows:
    """Lists of each member, which begin at its place; `places` move to their ends."""
    found = np.empty(len(members), np.int32)
    for line in range(len(offsets) - 1):
        for member in members[offsets[line] : offsets[line + 1]]:
            found[places[member]] = line
            places[member] += 1
    return found


@numba.njit(cache=True, nogil=True)
def _gathered(offsets: Ints, members: Rows, order: Ints) -> Rows:
    """Lists laid end to end in another order."""
    found = np.empty(len(members), np.int32)
    size = 0
    for line in order:
        for member in members[offsets[line] : offsets[line + 1]]:
            found[size] = member
            size += 1
    return found
