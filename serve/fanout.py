"""Runs sources side by side, each with a deadline, in a pool of fixed size.

A thread that is late cannot be stopped: it keeps its place until it ends, its answer is dropped,
and when too many wait for a place a source is shed at once. A source that was late or failed
several times in a row is not asked for a while.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import faiss

from serve.candidates import Found

if TYPE_CHECKING:
    from serve.breaker import Breakers

log = logging.getLogger(__name__)

Call = Callable[[], Found]


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back in time.

    Attributes:
        found: answers in the order asked.
        failures: source -> late, shed, open (its breaker), or the error.
    """

    found: list[Found]
    failures: dict[str, str]


class Fanout:
    """A pool shared by all requests of a process.

    Args:
        threads: sources that run at the same time.
        queue: sources that may wait for a thread.
    """

    def __init__(self, threads: int, queue: int) -> None:
        # A search by two threads beside others that search takes longer than by one.
        self._pool = ThreadPoolExecutor(
            threads, "source", initializer=partial(faiss.omp_set_num_threads, 1)
        )
        self._places = threading.BoundedSemaphore(threads + queue)

    def close(self) -> None:
        """Ends the threads once they are done."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def ask(
        self, calls: Mapping[str, Call], deadlines_s: Mapping[str, float], breakers: Breakers
    ) -> Answers:
        """Asks all sources and waits for each until its deadline.

        Args:
            calls: source -> call, in the order in which ties are won.
            deadlines_s: source -> seconds from now.
            breakers: of the sources.
        """
        started = time.perf_counter()
        answers = Answers([], {})
        asked = {name: call for name, call in calls.items() if breakers[name].allows()}
        answers.failures.update(dict.fromkeys(calls.keys() - asked.keys(), "open"))
        futures = {name: self._submit(call) for name, call in asked.items()}
        for name, future in futures.items():
            left = started + deadlines_s[name] - time.perf_counter()
            _collect(name, future, left, answers)
            if future is not None:
                breakers[name].note(name not in answers.failures)
        return answers

    def _submit(self, call: Call) -> Future[Found] | None:
        if not self._places.acquire(blocking=False):
            return None
        future = self._pool.submit(call)
        future.add_done_callback(lambda _: self._places.release())
        return future


def _collect(name: str, future: Future[Found] | None, left_s: float, answers: Answers) -> None:
    if future is None:
        answers.failures[name] = "shed"
        return
    try:
        answers.found.append(future.result(timeout=max(left_s, 0.0)))
    except TimeoutError:
        future.cancel()
        answers.failures[name] = "late"
    except Exception as error:
        log.exception("source %s failed", name)
        answers.failures[name] = repr(error)
