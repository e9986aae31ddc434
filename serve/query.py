"""What a request asks of the sources: for whom, where, about what, and what may not be shown."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from data.contract.encode import Ints, hash_values
from data.contract.settings import UserError
from serve.bulkhead import result_within
from serve.messages import Context
from serve.retrieval import Answers, UserTower
from serve.users import User

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serve.catalogue import Catalogue
    from serve.programs import Floats

RELATED = "related"


@dataclass(frozen=True)
class Query:
    """What the sources are asked.

    Attributes:
        user: the user at the time of the request.
        context: what the request said.
        surface: where the feed is shown.
        about: row of the context's item, [1], or [0].
        named: rows that the request excludes, or that were shown lately.
        exclude: sorted rows that may not be shown (`unwanted`).
        tower: gives the user's vectors.
        patience_ends: moment, by `time.perf_counter`, until which those wait for the tower who can
            do without.
        lock: held while it is begun to ask the tower.
        asked: its answer to come, or its failure, once it was asked.
    """

    user: User
    context: Context
    surface: str
    about: Ints
    named: Ints
    exclude: Ints
    tower: UserTower
    patience_ends: float = math.inf
    lock: Lock = field(default_factory=Lock, repr=False)
    asked: list[Future[Answers]] = field(default_factory=list, repr=False)

    def patient(self, seconds: float) -> Query:
        """The same query, which shares the tower's answer, of one who waits from now on."""
        return replace(self, patience_ends=time.perf_counter() + seconds)

    @property
    def conditions(self) -> Ints:
        """Hashes of the interests that the context names, ascending."""
        return np.sort(hash_interests(self.context.interests or []))

    @property
    def answers(self) -> Answers:
        """What the user tower says, computed once for all sources, which ask side by side."""
        return self.answers_within(math.inf)

    def answers_within(self, seconds: float) -> Answers:
        """The same, for who can do without.

        Raises:
            LateError: it does not say anything for so long.
            Exception: it failed; it is not asked again.
        """
        with self.lock:
            if not self.asked:
                self.asked.append(self.tower.start(self.user, self.conditions))
        return result_within(self.asked[0], seconds)

    @property
    def answers_soon(self) -> Answers:
        """The same, until patience ends."""
        return self.answers_within(max(self.patience_ends - time.perf_counter(), 0.0))

    @property
    def user_vector(self) -> Floats:
        """The user's vector, of all that they did."""
        return self.answers.vector


def state_of(query: Query) -> tuple[int, int]:
    """What random numbers depend on: until a user does something, they are answered alike."""
    return query.user.row, len(query.user.events.item)


def context_row(catalogue: Catalogue, context: Context, dim: int) -> Ints:
    """Row of the context's item, [1], or [0] where it names none.

    Raises:
        UserError: an item that is not there, or a vector of another width than `dim`.
    """
    row = catalogue.rows_of([] if context.item_id is None else [context.item_id])
    if not catalogue.is_known(row).all():
        raise UserError(f"context.item_id {context.item_id!r} is no item here")
    if context.query_vector is not None and len(context.query_vector) != dim:
        width = len(context.query_vector)
        raise UserError(f"context.query_vector has {width} numbers; the item space has {dim}")
    return row


def unwanted(catalogue: Catalogue, seen: Ints, named: Ints, about: Ints) -> Ints:
    """Sorted rows that may not be shown.

    Args:
        catalogue: of the items.
        seen: rows that the user acted on.
        named: rows that the request excludes, or that were shown lately.
        about: row of the item that the feed is about, which nobody wants beside itself.
    """
    return catalogue.with_copies(np.concatenate([seen, named, about]))


def hash_interests(interests: Sequence[int | str]) -> Ints:
    """Hashes of interests as the item table encodes them."""
    hashed = [np.asarray(hash_values(pa.array([value])), np.int64) for value in interests]
    return np.concatenate([np.zeros(0, np.int64), *hashed])
