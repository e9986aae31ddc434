"""Training examples of the encoder that reads the whole graph: users, what they engaged with.

No neighbourhood travels with them; a row is some 16 bytes and its share of the random negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from data.graph.examples import LogSource, items_there
from data.graph.neighborhoods import fixed_lists
from data.graph.pairs import user_items

if TYPE_CHECKING:
    from data.contract.encode import Arrays, Ints

EVENT_BYTES = 20


@dataclass(frozen=True, slots=True)
class InteractionStage:
    """Blocks of timelines -> columns `user` and `items`: what they engaged with, then negatives.

    Attributes:
        log: the labels.
        num_random: negatives an example brings.
        last_ms: items created from then on are no negatives; None: all are.
    """

    log: LogSource
    num_random: int
    last_ms: int | None

    @property
    def growth(self) -> float:
        """Bytes that come out for those of an event."""
        return (8 + 4 * (1 + self.num_random)) / EVENT_BYTES

    def __call__(self, table: pa.Table, epoch: int, rng: np.random.Generator) -> pa.Table:  # noqa: ARG002
        """The examples of a block of users."""
        log = self.log.open()
        lesson = log.lesson(table)
        pairs = user_items(lesson.users, lesson.engaged())
        live = items_there(log.log.dataset, self.last_ms)
        random = live[rng.integers(0, len(live), (len(pairs.query), self.num_random))]
        items = np.concatenate([pairs.positive[:, None], random], axis=1).astype(np.int32)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(items.ravel()), items.shape[1])
        return pa.table({"user": pairs.query, "items": lists})


class Interactions(NamedTuple):
    """Examples opened again.

    Attributes:
        user: rows, [B].
        items: rows of what each engaged with, and of R random negatives, [B, 1 + R].
    """

    user: Ints
    items: Ints

    @classmethod
    def of(cls, table: pa.Table) -> Interactions:
        """Reads what `InteractionStage` made."""
        return cls(table["user"].to_numpy(), fixed_lists(table["items"]).astype(np.int64))

    @property
    def positive(self) -> Ints:
        """What each user engaged with, [B]."""
        return self.items[:, 0]

    @property
    def drawn(self) -> Ints:
        """All random negatives, [B * R]."""
        return self.items[:, 1:].ravel()

    def take(self, at: Ints) -> Interactions:
        """Some of them, in the order asked for."""
        return Interactions(self.user[at], self.items[at])

    def arrays(self, pool: Ints) -> Arrays:
        """`query`, `positive` int64[B], `pool.item` int64[P]; `known.*`: where it holds one.

        Args:
            pool: distinct item rows, ascending, [P].
        """
        place = np.minimum(np.searchsorted(pool, self.positive), len(pool) - 1)
        there = np.flatnonzero(pool[place] == self.positive)
        return {
            "query": self.user,
            "positive": self.positive,
            "pool.item": pool,
            "known.query": there,
            "known.pool": place[there],
        }
