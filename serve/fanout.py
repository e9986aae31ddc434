"""Runs sources side by side, each with a deadline, in a pool of fixed size.

A thread that is late cannot be stopped: it keeps its place until it ends, and its answer is
dropped. So a source has at most half of the threads and half of the places to wait: one that hangs
leaves the other half to the rest. Where there is no place a source is shed at once, and one that
was late or failed several times in a row is not asked for a while.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import faiss

from serve.breaker import Breakers
from serve.candidates import Found

log = logging.getLogger(__name__)

Call = Callable[[], Found]
Observe = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back in time.

    Attributes:
        found: answers in the order asked.
        failures: source -> late, shed, open (its breaker), or the error.
    """

    found: list[Found]
    failures: dict[str, str]


@dataclass(eq=False, slots=True)
class Asked:
    """A call to a source that waits, runs or is done, and how long it is waited for."""

    source: str
    call: Call
    deadline_s: float
    future: Future[Found] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class Round:
    """Sources that a request has asked.

    Attributes:
        asked: calls under way; None where there was no place.
        failures: of those that were not asked.
        breakers: of the sources.
        started: when, by `time.perf_counter`.
        left_s: seconds that the request had for them.
    """

    asked: dict[str, Asked | None]
    failures: dict[str, str]
    breakers: Breakers
    started: float
    left_s: float


class Fanout:
    """A pool shared by all requests of a process.

    Args:
        threads: sources that run at the same time; with one alone a source that hangs holds it.
        queue: sources that may wait for a thread.
        observe: told how many seconds a source took, when it ended.
    """

    def __init__(self, threads: int, queue: int, observe: Observe | None = None) -> None:
        # A search by two threads beside others that search takes longer than by one.
        self._pool = ThreadPoolExecutor(
            threads, "source", initializer=partial(faiss.omp_set_num_threads, 1)
        )
        self._threads, self._queue = threads, queue
        self._own_threads, self._own_queue = max(threads // 2, 1), (queue + 1) // 2
        self._observe = observe
        self._waiting: list[Asked] = []
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Ends the threads once they are done."""
        with self._lock:
            self._waiting.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def ask(
        self,
        calls: Mapping[str, Call],
        deadlines_s: Mapping[str, float],
        breakers: Breakers,
        left_s: float = math.inf,
    ) -> Round:
        """Asks all sources; `answers` waits for them.

        Args:
            calls: source -> call, in the order in which ties are won.
            deadlines_s: source -> seconds from now.
            breakers: of the sources.
            left_s: seconds that the request has for them.
        """
        allowed = [name for name in calls if breakers[name].allows()]
        failures = dict.fromkeys(calls.keys() - set(allowed), "open")
        started = time.perf_counter()
        every = [Asked(name, calls[name], deadlines_s[name]) for name in allowed]
        asked = {one.source: self._submit(one) for one in every}
        return Round(asked, failures, breakers, started, left_s)

    def answers(self, sent: Round) -> Answers:
        """Waits for each source until its deadline; what came meanwhile is in time.

        A source that had less than half of its deadline is not blamed for being late.
        """
        answers = Answers([], dict(sent.failures))
        for name, one in sent.asked.items():
            failure = "shed" if one is None else self._collect(one, sent, answers.found)
            if failure is not None:
                answers.failures[name] = failure
            hurried = one and failure == "late" and sent.left_s < one.deadline_s / 2
            if failure != "shed" and not hurried:  # these say nothing about the source
                sent.breakers[name].note(failure is None)
        return answers

    def _collect(self, one: Asked, sent: Round, found: list[Found]) -> str | None:
        """Waits for an answer; what was wrong with it, if anything."""
        wait_s = sent.started + min(one.deadline_s, sent.left_s) - time.perf_counter()
        try:
            found.append(one.future.result(timeout=max(wait_s, 0.0)))
        except TimeoutError:
            return "shed" if self._given_up(one) else "late"
        except Exception as error:
            log.exception("source %s failed", one.source)
            return repr(error)
        return None

    def _given_up(self, one: Asked) -> bool:
        """Gives up a call; whether it never began because of other sources than its own."""
        with self._lock:
            if one not in self._waiting:
                return False
            self._waiting.remove(one)
            return self._running[one.source] < self._own_threads

    def _submit(self, one: Asked) -> Asked | None:
        """Lets a call run, now or later; None where there is no place for it."""
        with self._lock:
            if not self._may_run(one.source):
                own = sum(other.source == one.source for other in self._waiting)
                if own >= self._own_queue or len(self._waiting) >= self._queue:
                    return None
                self._waiting.append(one)
                return one
            self._run_soon(one)
        return one

    def _may_run(self, source: str) -> bool:
        free = self._running.total() < self._threads
        return free and self._running[source] < self._own_threads

    def _run_soon(self, one: Asked) -> None:
        self._running[one.source] += 1
        self._pool.submit(self._run, one)

    def _run(self, one: Asked) -> None:
        started = time.perf_counter()
        try:
            one.future.set_result(one.call())
        except Exception as error:
            one.future.set_exception(error)
        finally:
            self._make_room(one.source)
            if self._observe is not None:
                self._observe(one.source, time.perf_counter() - started)

    def _make_room(self, source: str) -> None:
        with self._lock:
            self._running[source] -= 1
            following = next((one for one in self._waiting if self._may_run(one.source)), None)
            if following is not None:
                self._waiting.remove(following)
                self._run_soon(following)
