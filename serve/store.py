"""What the outside posts, kept before it is acknowledged: events, newest actions, items.

Everything posted gets the next number of one sequence; a bundle says up to which number it has
absorbed. `serve.store=local` keeps it under the root, for the processes of one machine
(serve.lmdb_store); `redis://host:port/database` in a Redis server, for several (serve.redis_store).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import orjson
import pyarrow as pa

from data.contract.schema import EVENT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

ExternalId = int | str
Document = dict[str, Any]
Kind = Literal["events", "items"]


class StoreError(Exception):
    """The store did not do what it was asked: it does not answer, or its disk refuses."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch of events."""

    accepted: int
    duplicates: int
    sequence: int


class Store(ABC):
    """Posted events and items of a root. Several processes may have it open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Lets go of files, threads and connections."""

    @property
    @abstractmethod
    def last_sequence(self) -> int:
        """Number of what was posted last; 0 when nothing was."""

    @abstractmethod
    def skip_to(self, sequence: int) -> None:
        """Gives out only higher numbers from now on.

        A bundle has absorbed those up to it; a store begun anew would give them out again.
        """

    @abstractmethod
    def append(self, events: Iterable[Document]) -> Appended:
        """Appends events, all or none; when it returns they are kept.

        Args:
            events: documents with contract columns and an `event_id`. One whose `event_id` is
                known already is left out.
        """

    @abstractmethod
    def actions(self, user_id: ExternalId, after: int, limit: int) -> list[Document]:
        """The newest events of a user in the order of their numbers.

        Args:
            user_id: external id.
            after: only events with a higher number (what the bundle does not know).
            limit: most events returned.
        """

    @abstractmethod
    def put_items(self, items: Iterable[Document]) -> int:
        """Keeps items, all or none, replacing those posted before. Gives the last number."""

    @abstractmethod
    def documents(
        self, kind: Kind, after: int, until: int | None = None
    ) -> Iterator[tuple[int, Document]]:
        """Numbers and documents in (after, until], in order."""

    def last_before(self, moment_ms: int, after: int) -> int:
        """A number up to which, from `after` on, no posted event is later than a moment."""
        passed = after
        for number, event in self.documents("events", after):
            if event["timestamp"] > moment_ms:
                break
            passed = number
        return passed

    def events_since(self, after: int, until: int | None = None) -> pa.Table:
        """Posted events in (after, until] with the contract's column names; event_id is string."""
        events = [event for _, event in self.documents("events", after, until)]
        columns = {name: [event.get(name) for event in events] for name in EVENT_COLUMNS}
        columns["event_id"] = [str(value) for value in columns["event_id"]]
        return pa.table({name: _column(name, values) for name, values in columns.items()})

    def items_since(self, after: int, until: int | None = None) -> pa.Table:
        """Posted items in (after, until]: one column for each key that was posted."""
        items = [item for _, item in self.documents("items", after, until)]
        names = dict.fromkeys(["item_id", "created_at", *(key for item in items for key in item)])
        return pa.table({n: _column(n, [item.get(n) for item in items]) for n in names})


_TYPES = {
    "timestamp": pa.int64(),
    "received_at": pa.int64(),
    "created_at": pa.int64(),
    "duration_s": pa.float64(),
    "event_id": pa.string(),
    "action": pa.string(),
    "surface": pa.string(),
}


def _column(name: str, values: list[Any]) -> pa.Array:
    """A column of posted values: integers or strings for ids, text where types are mixed."""
    try:
        column = pa.array(values, _TYPES.get(name))
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        column = pa.array([None if value is None else str(value) for value in values])
    return column.cast(pa.int64()) if pa.types.is_null(column.type) else column


def digest(value: ExternalId) -> bytes:
    """Key of an id: 16 bytes, integers and strings apart."""
    return hashlib.blake2b(f"{type(value).__name__}:{value}".encode(), digest_size=16).digest()


def event_key(event: Document) -> bytes:
    """Key of an event: an integer id is the same as its text."""
    return digest(str(event["event_id"]))


def packed(sequence: int, document: bytes = b"") -> bytes:
    """A number, which sorts as bytes, and what it numbers."""
    return sequence.to_bytes(8, "big") + document


def unpacked(text: bytes) -> tuple[int, Document]:
    """A number and its document."""
    return int.from_bytes(text[:8], "big"), orjson.loads(text[8:])
