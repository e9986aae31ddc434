"""One thread that writes: what waits for it at the same time shares a commit.

A commit flushes to disk, which takes milliseconds whatever is in it, so writes that arrive while
one is under way go together into the next. Each has a transaction of its own within the group's:
one that fails takes nothing of the others with it. A write returns after the commit that holds it.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    import lmdb

R = TypeVar("R")
MOST_TOGETHER = 256


class GroupCommit:
    """Writes to an LMDB environment from any thread.

    Args:
        environment: to which nothing else in this process writes.
    """

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment = environment
        self._waiting: SimpleQueue[tuple[Callable[[Any], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store writer", daemon=True)
        self._thread.start()

    def __call__(self, write: Callable[[Any], R]) -> R:
        """Runs `write(transaction)` in the next group; its result, or its error, once on disk."""
        done: Future[R] = Future()
        self._waiting.put((write, done))
        return done.result()

    def close(self) -> None:
        """Ends the thread when all that waits is written."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            group, ended = [first], False
            while len(group) < MOST_TOGETHER and not ended:
                try:
                    one = self._waiting.get_nowait()
                except Empty:
                    break
                ended = one is None
                group += [one] if one is not None else []
            self._commit(group)
            if ended:
                return

    def _commit(self, group: list[tuple[Callable[[Any], Any], Future[Any]]]) -> None:
        results: list[tuple[Future[Any], Any, Exception | None]] = []
        try:
            with self._environment.begin(write=True) as transaction:
                results = [(done, *self._one(transaction, write)) for write, done in group]
        except Exception as error:  # the disk refuses: nothing of the group is kept
            results = [(done, None, error) for _, done in group]
        for done, result, reason in results:
            if reason is None:
                done.set_result(result)
            else:
                done.set_exception(reason)

    def _one(self, transaction: Any, write: Callable[[Any], Any]) -> tuple[Any, Exception | None]:
        try:
            with self._environment.begin(write=True, parent=transaction) as own:
                return write(own), None
        except Exception as error:
            return None, error
