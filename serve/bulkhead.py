"""Calls in threads of their own, which whoever asks need not wait for: bulkheads keep a hang there.

A thread that hangs cannot be stopped, but it can be left behind. The threads are so many and no
more, and so are the calls that wait for one, so what hangs takes neither the threads of requests
nor memory.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from serve.together import LateError

if TYPE_CHECKING:
    from collections.abc import Callable

Given = TypeVar("Given")


class FullError(LateError):
    """All threads are busy, and as many calls wait as may."""


class Bulkhead:
    """Threads for one kind of work.

    Args:
        name: of the work.
        threads: that do it, made as they are needed.
        waiting: calls that may wait for one.
    """

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._places = threading.Semaphore(threads + waiting)

    def start(self, call: Callable[[], Given]) -> Future[Given]:
        """Begins a call, now or when a thread is free. Raises FullError where none will be soon."""
        if not self._places.acquire(blocking=False):
            raise FullError
        future: Future[Given] = Future()
        self._pool.submit(self._run, call, future)
        return future

    def _run(self, call: Callable[[], Given], future: Future[Given]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(call())
        except Exception as error:
            future.set_exception(error)
        finally:
            self._places.release()


def result_within(future: Future[Given], seconds: float) -> Given:
    """What came of a call.

    Raises:
        LateError: nothing yet, after so many seconds.
        Exception: what it raised.
    """
    try:
        return future.result(min(seconds, threading.TIMEOUT_MAX))
    except TimeoutError:
        if future.done():
            raise
        raise LateError from None
