"""What the outside posts, kept before it is acknowledged: events, newest actions, items.

Everything posted gets the next number of one sequence, at least the microseconds since 1970: a
store that was lost and begun anew, or brought back from an older copy, gives no number out again. A
bundle says up to which number it has absorbed. `serve.store=local` keeps it under the root, for the
processes of one machine (serve.lmdb_store); `redis://host:port/database` in a Redis server, for
several (serve.redis_store). Events that two data sets have taken move to the root's archive
(ray_jobs.preparation.posted_log).
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
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

    @abstractmethod
    def drop(self, events: Sequence[tuple[int, Document]]) -> None:
        """Lets go of events as `documents` gives them, of their keys, and of users' oldest actions.

        Their numbers are not given out again; one that is posted again is taken for a new one.
        Another process may have dropped some already.
        """


def clock_us() -> int:
    """Microseconds since 1970: below these a store gives no number out."""
    return time.time_ns() // 1000


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
