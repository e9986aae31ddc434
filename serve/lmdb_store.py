"""The store of one machine: LMDB, shared by its processes, appended to in groups.

One environment under `<root>/store`. What threads of a process append at the same time shares a
transaction, so one flush to disk; processes wait for LMDB's lock. Appending costs O(log n) page
writes, reading a user's actions O(actions); readers wait for nothing.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import lmdb
import numpy as np
import orjson

from serve.group_commit import GroupCommit
from serve.machine_lock import MachineLock
from serve.store import (
    Appended,
    Document,
    ExternalId,
    Kind,
    Store,
    clock_us,
    digest,
    event_key,
    packed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

FOLDER = "store"
GIB = 1 << 30
TABLES = ("events", "event_keys", "actions", "items", "item_keys", "marks")
PAGES = ("branch", "leaf", "overflow")
FLOOR = b"floor"
RESERVE = 64 << 20  # bytes beyond what may be posted: to drop is to write first


class LmdbStore(Store):
    """Posted events and items in files.

    Args:
        folder: `<root>/store`, made if it is not there.
        max_actions: newest actions kept at hand for a user.
        max_gib: most disk space, beside `RESERVE`; the file is sparse.
        clock: least number to give out next, as of now.

    Raises:
        UserError: another machine has it open.
    """

    def __init__(
        self,
        folder: Path,
        max_actions: int = 1000,
        max_gib: float = 16,
        clock: Callable[[], int] = clock_us,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._machine = MachineLock(folder)
        self._max_actions, self._max_bytes, self._clock = max_actions, round(max_gib * GIB), clock
        self._environment = lmdb.open(
            str(folder),
            map_size=self._max_bytes + RESERVE,
            max_dbs=len(TABLES),
            max_readers=512,
        )
        self._environment.reader_check()  # places of readers that were killed
        self._tables = {name: self._environment.open_db(name.encode()) for name in TABLES}
        self._writer = GroupCommit(self._environment)

    def close(self) -> None:
        """Ends the writer and lets go of the files."""
        self._writer.close()
        self._environment.close()
        self._machine.close()

    @property
    def last_sequence(self) -> int:
        """Number of what was posted last; 0 when nothing was."""
        with self._environment.begin() as transaction:
            return self._last(transaction)

    def skip_to(self, sequence: int) -> None:
        """Gives out only higher numbers from now on."""
        if self.last_sequence < sequence:
            floor = self._tables["marks"]
            self._writer(lambda transaction: transaction.put(FLOOR, packed(sequence), db=floor))

    def _last(self, transaction: Any) -> int:
        ends = [_number(transaction.get(FLOOR, b"", db=self._tables["marks"]))]
        for name in ("events", "items"):
            cursor = transaction.cursor(self._tables[name])
            ends.append(_number(cursor.key()) if cursor.last() else 0)
        return max(ends)

    def _next(self, transaction: Any) -> int:
        return max(self._last(transaction) + 1, self._clock())

    def _refuse_when_full(self, transaction: Any) -> None:
        """Raises lmdb.MapFullError while there is still room for `drop`, which copies pages too."""
        stats = [transaction.stat(table) for table in self._tables.values()]
        pages = sum(stat[f"{kind}_pages"] for stat in stats for kind in PAGES)
        if pages * stats[0]["psize"] > self._max_bytes:
            raise lmdb.MapFullError(
                f"the store takes {self._max_bytes / GIB:g} GiB: raise serve.store_gib, or run the "
                "pipeline with day=next, after which what was taken leaves it"
            )

    def append(self, events: Iterable[Document]) -> Appended:
        """Appends events; when it returns they are on disk."""
        known = list(events)
        return self._writer(lambda transaction: self._append(transaction, known))

    def _append(self, transaction: Any, events: list[Document]) -> Appended:
        tables, sequence, duplicates = self._tables, self._next(transaction) - 1, 0
        self._refuse_when_full(transaction)
        by_user: dict[bytes, list[int]] = defaultdict(list)
        for event in events:
            key, number = event_key(event), packed(sequence + 1)
            if not transaction.put(key, number, overwrite=False, db=tables["event_keys"]):
                duplicates += 1
                continue
            sequence += 1
            transaction.put(number, orjson.dumps(event), db=tables["events"])
            by_user[digest(event["user_id"])].append(sequence)
        self._extend_actions(transaction, by_user)
        return Appended(len(events) - duplicates, duplicates, self._last(transaction))

    def _extend_actions(self, transaction: Any, by_user: Mapping[bytes, list[int]]) -> None:
        table = self._tables["actions"]
        for key, added in by_user.items():
            known = transaction.get(key, b"", db=table)
            together = known + np.array(added, ">u8").tobytes()
            transaction.put(key, together[-8 * self._max_actions :], db=table)

    def actions(self, user_id: ExternalId, after: int, limit: int) -> list[Document]:
        """The newest events of a user, oldest first."""
        with self._environment.begin() as transaction:
            known = transaction.get(digest(user_id), b"", db=self._tables["actions"])
            numbers = np.frombuffer(known, ">u8")
            numbers = numbers[numbers > after][-limit:]
            events = self._tables["events"]
            found = [transaction.get(packed(int(n)), db=events) for n in numbers]
            return [orjson.loads(text) for text in found if text is not None]

    def put_items(self, items: Iterable[Document]) -> int:
        """Writes items in one transaction, replacing those posted before. Gives the sequence."""
        known = list(items)
        return self._writer(lambda transaction: self._put_items(transaction, known))

    def _put_items(self, transaction: Any, items: list[Document]) -> int:
        table, keys = self._tables["items"], self._tables["item_keys"]
        sequence = self._next(transaction) - 1
        self._refuse_when_full(transaction)
        for item in items:
            sequence += 1
            key = digest(item["item_id"])
            before = transaction.get(key, db=keys)
            if before is not None:
                transaction.delete(before, db=table)
            transaction.put(key, packed(sequence), db=keys)
            transaction.put(packed(sequence), orjson.dumps(item), db=table)
        return sequence

    def documents(
        self, kind: Kind, after: int, until: int | None = None
    ) -> Iterator[tuple[int, Document]]:
        """Numbers and documents in (after, until], in order."""
        with self._environment.begin() as transaction:
            cursor = transaction.cursor(self._tables[kind])
            found = cursor.set_range(packed(after + 1))
            for key, text in cursor.iternext() if found else ():
                if until is not None and _number(key) > until:
                    return
                yield _number(key), orjson.loads(text)

    def drop(self, events: Sequence[tuple[int, Document]]) -> None:
        """Lets go of events in one transaction; their pages are written on again."""
        if events:
            self._writer(lambda transaction: self._drop(transaction, events))

    def _drop(self, transaction: Any, events: Sequence[tuple[int, Document]]) -> None:
        tables, numbers = self._tables, [number for number, _ in events]
        for number, event in events:
            transaction.delete(packed(number), db=tables["events"])
            key = event_key(event)
            if transaction.get(key, db=tables["event_keys"]) == packed(number):
                transaction.delete(key, db=tables["event_keys"])
        for key in {digest(event["user_id"]) for _, event in events}:
            known = np.frombuffer(transaction.get(key, b"", db=tables["actions"]), ">u8")
            left = known[~np.isin(known, np.array(numbers, ">u8"))]
            if len(left):
                transaction.put(key, left.tobytes(), db=tables["actions"])
            else:
                transaction.delete(key, db=tables["actions"])
        floor = _number(transaction.get(FLOOR, b"", db=tables["marks"]))
        transaction.put(FLOOR, packed(max(floor, *numbers)), db=tables["marks"])


def _number(key: bytes) -> int:
    return int.from_bytes(key, "big")
