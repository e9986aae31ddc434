"""What the outside posts, on disk before it is acknowledged: events, newest actions, items.

One LMDB environment under `<root>/store`, shared by the processes of a machine. Everything posted
gets the next number of one sequence; a bundle says up to which number it has absorbed. Appending
costs O(log n) page writes and one flush per batch; reading a user's actions O(actions).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lmdb
import numpy as np
import orjson
import pyarrow as pa

from data.contract.schema import EVENT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

FOLDER = "store"
GIB = 1 << 30
TABLES = ("events", "event_keys", "actions", "items", "item_keys", "marks")
FLOOR = b"floor"

ExternalId = int | str
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch of events."""

    accepted: int
    duplicates: int
    sequence: int


class Store:
    """Posted events and items of a root. Several processes may have it open.

    Args:
        folder: `<root>/store`, made if it is not there.
        max_actions: newest actions kept at hand for a user.
        max_gib: most disk space; the file is sparse.
    """

    def __init__(self, folder: Path, max_actions: int = 1000, max_gib: int = 16) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._max_actions = max_actions
        self._environment = lmdb.open(
            str(folder), map_size=max_gib * GIB, max_dbs=len(TABLES), max_readers=512
        )
        self._tables = {name: self._environment.open_db(name.encode()) for name in TABLES}

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Opens a store, to be used as a context."""
        return cls(folder)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the files."""
        self._environment.close()

    @property
    def last_sequence(self) -> int:
        """Number of what was posted last; 0 when nothing was."""
        with self._environment.begin() as transaction:
            return self._last(transaction)

    def skip_to(self, sequence: int) -> None:
        """Gives out only higher numbers from now on.

        A bundle has absorbed those up to it; a store begun anew would give them out again.
        """
        if self.last_sequence < sequence:
            with self._writing() as transaction:
                transaction.put(FLOOR, _bytes(sequence), db=self._tables["marks"])

    def _last(self, transaction: Any) -> int:
        ends = [_number(transaction.get(FLOOR, b"", db=self._tables["marks"]))]
        for name in ("events", "items"):
            cursor = transaction.cursor(self._tables[name])
            ends.append(_number(cursor.key()) if cursor.last() else 0)
        return max(ends)

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        with self._environment.begin(write=True) as transaction:
            yield transaction

    def append(self, events: Iterable[Document]) -> Appended:
        """Appends events in one transaction; when it returns they are on disk.

        Args:
            events: documents with contract columns and an `event_id`. One whose `event_id` is
                known already is left out.
        """
        accepted = duplicates = 0
        by_user: dict[bytes, list[int]] = defaultdict(list)
        with self._writing() as transaction:
            sequence = self._last(transaction)
            for event in events:
                key = _digest(str(event["event_id"]))
                if not transaction.put(
                    key, _bytes(sequence + 1), overwrite=False, db=self._tables["event_keys"]
                ):
                    duplicates += 1
                    continue
                accepted, sequence = accepted + 1, sequence + 1
                transaction.put(_bytes(sequence), orjson.dumps(event), db=self._tables["events"])
                by_user[_digest(event["user_id"])].append(sequence)
            self._extend_actions(transaction, by_user)
        return Appended(accepted, duplicates, sequence)

    def _extend_actions(self, transaction: Any, by_user: Mapping[bytes, list[int]]) -> None:
        table = self._tables["actions"]
        for key, added in by_user.items():
            known = transaction.get(key, b"", db=table)
            together = known + np.array(added, ">u8").tobytes()
            transaction.put(key, together[-8 * self._max_actions :], db=table)

    def actions(self, user_id: ExternalId, after: int, limit: int) -> list[Document]:
        """The newest events of a user, oldest first.

        Args:
            user_id: external id.
            after: only events with a higher sequence number (what the bundle does not know).
            limit: most events returned.
        """
        with self._environment.begin() as transaction:
            known = transaction.get(_digest(user_id), b"", db=self._tables["actions"])
            numbers = np.frombuffer(known, ">u8")
            numbers = numbers[numbers > after][-limit:]
            events = self._tables["events"]
            found = [transaction.get(_bytes(int(n)), db=events) for n in numbers]
            return [orjson.loads(text) for text in found if text is not None]

    def put_items(self, items: Iterable[Document]) -> int:
        """Writes items in one transaction, replacing those posted before. Gives the sequence."""
        items_table, keys = self._tables["items"], self._tables["item_keys"]
        with self._writing() as transaction:
            sequence = self._last(transaction)
            for item in items:
                sequence += 1
                key = _digest(item["item_id"])
                before = transaction.get(key, db=keys)
                if before is not None:
                    transaction.delete(before, db=items_table)
                transaction.put(key, _bytes(sequence), db=keys)
                transaction.put(_bytes(sequence), orjson.dumps(item), db=items_table)
        return sequence

    def documents(
        self, table: str, after: int, until: int | None = None
    ) -> Iterator[tuple[int, Document]]:
        """Sequence numbers and documents of `events` or `items` in (after, until]."""
        with self._environment.begin() as transaction:
            cursor = transaction.cursor(self._tables[table])
            found = cursor.set_range(_bytes(after + 1))
            for key, text in cursor.iternext() if found else ():
                if until is not None and _number(key) > until:
                    return
                yield _number(key), orjson.loads(text)

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


def _digest(value: ExternalId) -> bytes:
    """Key of an id: 16 bytes, integers and strings apart."""
    return hashlib.blake2b(f"{type(value).__name__}:{value}".encode(), digest_size=16).digest()


def _bytes(sequence: int) -> bytes:
    return sequence.to_bytes(8, "big")


def _number(key: bytes) -> int:
    return int.from_bytes(key, "big")
