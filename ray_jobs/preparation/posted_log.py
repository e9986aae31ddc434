"""All that was posted to a root, in order: what its archive has, and then what its store holds.

A store serves the newest actions of users, from memory where it is a Redis server, and must not
grow with all that was ever posted. What two data sets have taken moves to
`<root>/posted/archive/<first>-<last>.parquet`, where a data set that is made anew finds it. A file
counts once the index names it, and its events leave the store after that: what is interrupted is
finished by the next, and nothing is given twice.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import storage
from data.contract.artifact import appearing, write_atomically
from data.contract.schema import EVENT_COLUMNS
from ray_jobs.engine.locks import turn
from ray_jobs.preparation.posted_table import PostedTable
from serve.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from serve.settings import ServeSettings
    from serve.store import Document, ExternalId, Store

INDEX = "index.json"
FILE_EVENTS, DROPPED_AT_ONCE = 200_000, 1_000


class PostedLog:
    """Posted events and items of a root, as tables.

    Args:
        root: whose archive.
        store: its open store.
    """

    def __init__(self, root: Path, store: Store) -> None:
        self._root, self._store = root, store
        self._archive = storage.here(root) / "posted" / "archive"

    @classmethod
    @contextmanager
    def opened(cls, root: Path, settings: ServeSettings) -> Iterator[PostedLog]:
        """Of a root, with the store that `serve.store` names. Raises UserError."""
        with open_store(root, settings) as store:
            yield cls(root, store)

    @property
    def last_sequence(self) -> int:
        """Number of what was posted last; 0 when nothing was."""
        return self._store.last_sequence

    def last_before(self, moment_ms: int, after: int) -> int:
        """A number up to which, from `after` on, no posted event is later than a moment.

        None is later than when it was received: its own clock may be ahead.
        """
        passed = after
        for number, event in self._events(after, None):
            if min(event["timestamp"], event["received_at"]) > moment_ms:
                break
            passed = number
        return passed

    def newest_ms(self, after: int) -> int:
        """When the last event beyond a number was received, ms; 0 where there is none."""
        return max((event["received_at"] for _, event in self._events(after, None)), default=0)

    def events(self, after: int, until: int | None = None) -> PostedTable:
        """Posted events in (after, until] with the contract's column names; event_id is string.

        None is later than when it came: one of a client whose clock is ahead would open days that
        have not come, and close those of all others.
        """
        return PostedTable(
            lambda: (_as_it_came(*found) for found in self._events(after, until)), EVENT_COLUMNS
        )

    def items(self, after: int, until: int | None = None) -> PostedTable:
        """Posted items in (after, until]: one column for each key that was posted."""
        return PostedTable(
            lambda: (item for _, item in self._store.documents("items", after, until)),
            ("item_id", "created_at"),
        )

    def actions(self, user_id: ExternalId, after: int) -> list[Document]:
        """A user's events beyond a number, in order; of those in the store, as many as it lists.

        Reads what the archive has beyond the number.
        """
        files = self._files()
        found = (event for _, event in self._archived(files, after, None))
        archived = [event for event in found if event["user_id"] == user_id]
        return [*archived, *self._store.actions(user_id, max(after, _end(files)), sys.maxsize)]

    def archive(self, until: int) -> int:
        """Moves events up to a number from the store to the archive; how many leave the store.

        Raises:
            StorageError: the root's storage does not answer; they stay where they are.
        """
        with turn(self._root, "archive") as confirm:
            files = self._files()
            dropped = self._drop_left_over(files)
            done = _end(files)
            while events := list(islice(self._store.documents("events", done, until), FILE_EVENTS)):
                done = events[-1][0]
                files.append((events[0][0], done))
                self._write(self._path(*files[-1]), events)
                confirm()
                write_atomically(self._archive / INDEX, json.dumps(files))
                dropped += self._drop(events)
            return dropped

    def _drop_left_over(self, files: list[tuple[int, int]]) -> int:
        """Lets go of what the store still holds of the archive, because moving was interrupted.

        A file at a time, for a store that is brought back from a copy may hold all of it.
        """
        held = (number for number, _ in self._store.documents("events", 0, _end(files)))
        oldest = next(held, sys.maxsize)
        del held  # and its snapshot of the store
        spans = [(after, file) for (_, after), file in pairwise([(0, 0), *files])]
        return sum(self._drop(self._left_over(*span)) for span in spans if span[1][1] >= oldest)

    def _left_over(self, after: int, file: tuple[int, int]) -> list[tuple[int, Document]]:
        """What the store holds beyond a number and a file of the archive has."""
        archived = {(n, event["event_id"]) for n, event in self._read(self._path(*file))}
        held = self._store.documents("events", after, file[1])
        return [(n, event) for n, event in held if (n, event["event_id"]) in archived]

    def _drop(self, events: list[tuple[int, Document]]) -> int:
        for start in range(0, len(events), DROPPED_AT_ONCE):
            self._store.drop(events[start : start + DROPPED_AT_ONCE])
        return len(events)

    def _events(self, after: int, until: int | None) -> Iterator[tuple[int, Document]]:
        """Numbers and events in (after, until]."""
        files = self._files()
        yield from self._archived(files, after, until)
        yield from self._store.documents("events", max(after, _end(files)), until)

    def _archived(
        self, files: list[tuple[int, int]], after: int, until: int | None
    ) -> Iterator[tuple[int, Document]]:
        """Those of some files of the archive."""
        for first, last in files:
            if last > after and (until is None or first <= until):
                found = self._read(self._path(first, last))
                yield from ((n, e) for n, e in found if after < n and (until is None or n <= until))

    def _files(self) -> list[tuple[int, int]]:
        """First and last number of each file of the archive."""
        index = self._archive / INDEX
        if not storage.fetch(index, fresh=True):
            return []
        return [(first, last) for first, last in json.loads(index.read_text())]

    def _path(self, first: int, last: int) -> Path:
        return self._archive / f"{first}-{last}.parquet"

    def _write(self, path: Path, events: list[tuple[int, Document]]) -> None:
        numbers, documents = zip(*events, strict=True)
        table = {"number": numbers, "event": pa.array(map(orjson.dumps, documents), pa.binary())}
        with appearing(path) as part:
            pq.write_table(pa.table(table), part, compression="zstd")

    def _read(self, path: Path) -> Iterator[tuple[int, Document]]:
        storage.fetch(path)
        for batch in pq.ParquetFile(path).iter_batches():
            columns = (column.to_pylist() for column in batch.columns)
            yield from ((n, orjson.loads(text)) for n, text in zip(*columns, strict=True))


def _end(files: list[tuple[int, int]]) -> int:
    """The last number in some files of the archive."""
    return files[-1][1] if files else 0


def _came_ms(number: int, event: Document) -> int:
    """When an event came, or later: by the clock that numbers go by where the server's is behind.

    It may be that of a log of the past, or have gone back.
    """
    return max(int(event["received_at"]), number // 1000)


def _as_it_came(number: int, event: Document) -> Document:
    """An event with the contract's columns, not later than it came."""
    moment = min(event["timestamp"], _came_ms(number, event))
    known = {name: event.get(name) for name in EVENT_COLUMNS}
    return known | {"event_id": str(event["event_id"]), "timestamp": moment}
