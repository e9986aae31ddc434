"""A store whose calls are timed and counted, and whose failures have one name."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from serve.store import Appended, Document, ExternalId, Kind, Store, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from serve.metrics import Metrics


class WatchedStore(Store):
    """Hands every call on.

    Args:
        store: does the work.
        metrics: where times and failures are counted, by operation.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics

    @contextmanager
    def _watched(self, operation: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except Exception as error:
            self._metrics.store_failures.labels(operation).inc()
            raise StoreError(f"the store failed ({operation}): {error!r}") from error
        finally:
            self._metrics.store_seconds.labels(operation).observe(time.perf_counter() - started)

    def close(self) -> None:
        """Lets go of files, threads and connections."""
        self._store.close()

    @property
    def last_sequence(self) -> int:
        """Number of what was posted last. Raises StoreError, as all below."""
        with self._watched("last_sequence"):
            return self._store.last_sequence

    def skip_to(self, sequence: int) -> None:
        """Gives out only higher numbers from now on."""
        with self._watched("skip_to"):
            self._store.skip_to(sequence)

    def append(self, events: Iterable[Document]) -> Appended:
        """Appends events, all or none."""
        with self._watched("append"):
            return self._store.append(events)

    def actions(self, user_id: ExternalId, after: int, limit: int) -> list[Document]:
        """The newest events of a user."""
        with self._watched("actions"):
            return self._store.actions(user_id, after, limit)

    def put_items(self, items: Iterable[Document]) -> int:
        """Keeps items, all or none."""
        with self._watched("put_items"):
            return self._store.put_items(items)

    def documents(
        self, kind: Kind, after: int, until: int | None = None
    ) -> Iterator[tuple[int, Document]]:
        """Numbers and documents in (after, until], read at once."""
        with self._watched("documents"):
            found = list(self._store.documents(kind, after, until))
        yield from found

    def drop(self, events: Sequence[tuple[int, Document]]) -> None:
        """Lets go of the oldest events."""
        with self._watched("drop"):
            self._store.drop(events)
