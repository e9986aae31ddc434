"""Which pairs of nodes the graph encoder is trained on, by objective.

next_engagement  item -> the item that its user engaged with next
co_board         item -> another item of one of its boards
user_item        user -> an item they engaged with
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data.contract.schema import OBJECTIVES
from data.graph.walks import Neighborhoods, co_items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.contract.encode import Events, Ints
    from data.graph.store import Graph

NEXT_ENGAGEMENT, CO_BOARD, USER_ITEM = range(len(OBJECTIVES))


class Pairs(NamedTuple):
    """Queries and what goes with them, [B].

    Attributes:
        objective: codes.
        query: item rows, or user rows where the objective is user_item.
        positive: item rows.
    """

    objective: Ints
    query: Ints
    positive: Ints

    @classmethod
    def of(cls, objective: int, query: Ints, positive: Ints) -> Pairs:
        """Pairs of one objective."""
        codes = np.full(len(query), objective, np.int64)
        return cls(codes, query.astype(np.int64), positive.astype(np.int64))


def next_engagements(engaged: Events, pair_ms: int | None) -> Pairs:
    """Each engaged item and the user's next one, if that comes within `pair_ms`."""
    owners = np.repeat(np.arange(len(engaged.lengths)), engaged.lengths)
    follows = (owners[1:] == owners[:-1]) & (engaged.item[1:] != engaged.item[:-1])
    if pair_ms is not None:
        follows &= np.diff(engaged.timestamp) <= pair_ms
    at = np.flatnonzero(follows)
    return Pairs.of(NEXT_ENGAGEMENT, engaged.item[at], engaged.item[at + 1])


def co_board(graph: Graph, engaged: Events, rng: np.random.Generator) -> Pairs:
    """Each engaged item that is on a board, and another item of one of its boards."""
    other = co_items(graph, engaged.item.astype(np.int64), rng)
    there = other > 0
    return Pairs.of(CO_BOARD, engaged.item[there], other[there])


def user_items(users: Ints, engaged: Events) -> Pairs:
    """Users and each item they engaged with."""
    return Pairs.of(USER_ITEM, np.repeat(users, engaged.lengths), engaged.item)


def joined(found: Sequence[Pairs]) -> Pairs:
    """Pairs of several objectives, those of each in their order."""
    return Pairs(*(np.concatenate(column) for column in zip(*found, strict=True)))


def other_items(
    engaged: Events, width: int, ordered: bool, rng: np.random.Generator
) -> Neighborhoods:
    """A user as up to `width` of their other items, all alike: one record for each engagement.

    Where there is an order these are the items before, else a run of the others that begins
    anywhere.
    """
    owners = np.repeat(np.arange(len(engaged.lengths)), engaged.lengths)
    first, length = engaged.offsets[:-1][owners], engaged.lengths[owners]
    place = np.arange(len(owners)) - first
    others = place if ordered else length - 1
    start = 0 if ordered else rng.integers(0, 1 << 62, len(owners)) % np.maximum(others, 1)
    ahead = (start + np.arange(width)[:, None]) % np.maximum(others, 1)
    at = (first + (place - 1 - ahead) % np.maximum(length, 1)).T
    there = np.arange(width) < np.minimum(others, width)[:, None]
    weights = there / np.maximum(there.sum(1, keepdims=True), 1)
    neighbors = np.where(there, engaged.item[np.where(there, at, 0)], 0)
    return Neighborhoods(neighbors.astype(np.int32), weights.astype(np.float32))
