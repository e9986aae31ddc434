"""What is known of a user at the time of a request: bundle history, then posted events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.contract.encode import Events, Ints
from serve.ids import canonical, is_admitted, lookup
from serve.store import Document, ExternalId, Store

if TYPE_CHECKING:
    from data.contract.idspace import IdSpace
    from serve.bundle import Bundle
    from serve.catalogue import Catalogue


EXAMINED = 1 << 17


@dataclass(frozen=True, slots=True)
class User:
    """One user at one time.

    Attributes:
        user_id: external id.
        row: row of the user id space; a hash bucket for a user never seen.
        admitted: whether the row is the user's own.
        events: all past events, oldest first; items are rows of the catalogue.
        now_ms: time of the request.
        clocked: whether events have times; else all is as of the newest event.
    """

    user_id: ExternalId
    row: int
    admitted: bool
    events: Events
    now_ms: int
    clocked: bool

    @property
    def reference_ms(self) -> int:
        """The time from which the models measure the age of events; never before any of them."""
        newest = int(self.events.timestamp.max(initial=0))
        return max(self.now_ms, newest) if self.clocked else newest

    @property
    def is_new(self) -> bool:
        """Whether nothing is known of the user."""
        return not self.admitted and not len(self.events.item)

    @property
    def seen(self) -> Ints:
        """Sorted rows of all items the user ever acted on."""
        return np.unique(self.events.item)


def middling_users(bundle: Bundle, count: int) -> list[ExternalId]:
    """Users with histories of middling length, of the first `EXAMINED` rows."""
    rows = np.arange(bundle.user_ids.first_row, min(bundle.user_ids.rows, EXAMINED))
    lengths = np.diff(bundle.histories.offsets[bundle.user_ids.first_row : rows[-1] + 2])
    known = rows[lengths > 0]
    order = np.argsort(lengths[lengths > 0], kind="stable")
    found: list[ExternalId] = bundle.user_ids.external(
        known[order][len(known) // 2 :][:count]
    ).to_pylist()
    return found


class Users:
    """Reads users from a bundle and the store."""

    def __init__(self, bundle: Bundle, catalogue: Catalogue, max_actions: int) -> None:
        self._bundle = bundle
        self._catalogue = catalogue
        self._max_actions = max_actions
        vocabulary = bundle.vocabulary
        self._clocked = vocabulary.order == "clock"
        self._actions = {name: code for code, name in enumerate(vocabulary.actions, start=1)}
        self._surfaces = vocabulary.surface_codes

    def canonical_id(self, user_id: ExternalId) -> ExternalId:
        """The id in the root's type. Raises UserError."""
        return canonical(self._bundle.user_ids, [user_id])[0]

    def read(self, user_id: ExternalId, store: Store | None, now_ms: int) -> User:
        """A user with all that is known now; without a store, with what the bundle knows."""
        return self.with_posted(user_id, self.posted(user_id, store) if store else [], now_ms)

    def posted(self, user_id: ExternalId, store: Store) -> list[Document]:
        """What was posted of a user since the bundle was made, oldest first."""
        return store.actions(user_id, self._bundle.store_sequence, self._max_actions)

    def with_posted(self, user_id: ExternalId, posted: list[Document], now_ms: int) -> User:
        """A user with what the bundle knows and some posted events."""
        space: IdSpace = self._bundle.user_ids
        rows = lookup(space, [user_id])
        admitted = bool(is_admitted(space, rows)[0])
        row = int(rows[0])
        events = self._merge(self._history(row if admitted else 0), self._encoded(posted))
        return User(user_id, row, admitted, events, now_ms, self._clocked)

    def _history(self, row: int) -> Events:
        histories = self._bundle.histories
        if row == 0 or row + 1 >= len(histories.offsets):
            start = end = 0
        else:
            start, end = int(histories.offsets[row]), int(histories.offsets[row + 1])
        return histories.at(slice(start, end), np.array([0, end - start]))

    def _encoded(self, documents: list[Document]) -> Events:
        return Events(
            np.array([0, len(documents)]),
            self._catalogue.rows_of([event["item_id"] for event in documents]),
            self._codes(documents, "action"),
            self._codes(documents, "surface"),
            self._times(documents),
            np.array([event.get("duration_s") or 0 for event in documents], np.float32),
        )

    def _codes(self, documents: list[Document], name: str) -> Ints:
        codes = self._actions if name == "action" else self._surfaces
        return np.array([codes.get(event[name], 0) for event in documents], np.int64)

    def _times(self, documents: list[Document]) -> Ints:
        """Times of posted events, none later than it was received; 0 in a log without a clock.

        Ages count from a user's newest event: a clock a year ahead would make all others old.
        """
        if not self._clocked:
            return np.zeros(len(documents), np.int64)
        return np.array([min(e["timestamp"], e["received_at"]) for e in documents], np.int64)

    def _merge(self, history: Events, posted: Events) -> Events:
        both = Events.join([history, posted])
        whole = np.array([0, len(both.item)])
        late = self._clocked and len(posted.item)
        return both.at(np.argsort(both.timestamp, kind="stable") if late else slice(None), whole)
