"""Ranking as far as the ranker works and there is time; whoever asks goes on without it.

It has two halves: a user is read while the sources search, and candidates are ranked once they are
found. Both run in threads of the ranker's own, and a request waits for them while it has time.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from serve.bulkhead import FullError, result_within
from serve.together import LateError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from data.contract.encode import Ints
    from serve.breaker import Breaker
    from serve.bulkhead import Bulkhead
    from serve.programs import Floats
    from serve.query import Query
    from serve.ranker import Ranker, Reader
    from serve.stages import Trace

log = logging.getLogger(__name__)

SMOOTHING = 0.1


class Ranking:
    """The ranker of a funnel, if it has one.

    Args:
        ranker: of the bundle.
        breaker: what fails or is late several times in a row is not tried for a while.
        bulkhead: where it runs.
        fair_s: seconds that a request must have for it, for the ranker to be blamed for being late.
    """

    def __init__(
        self, ranker: Ranker | None, breaker: Breaker, bulkhead: Bulkhead, fair_s: float
    ) -> None:
        self.ranker = ranker
        self._breaker = breaker
        self._bulkhead = bulkhead
        self._fair_s = fair_s
        self._takes_s = 0.0

    def read(self, query: Query) -> Future[Reader] | None:
        """Begins to read the user; None without a ranker, or where it is left alone or too busy."""
        ranker = self.ranker
        if ranker is None or not self._breaker.allows():
            return None
        try:
            return self._bulkhead.start(
                partial(ranker.read, query.user, query.surface, query.about)
            )
        except FullError:
            return None

    def rank(self, reading: Future[Reader] | None, rows: Ints, trace: Trace) -> Floats | None:
        """Probabilities [N, T] of candidates [N]; None, and noted, where they cannot be had."""
        ranker = self.ranker
        if ranker is None or not len(rows):
            return None
        if reading is not None and self._in_time(trace):
            found = self._tried(ranker, reading, rows, trace)
            if found is not None:
                return found
        trace.fallbacks.add("unranked")
        return None

    def _in_time(self, trace: Trace) -> bool:
        in_time = self._takes_s < trace.left_s
        if not in_time:
            self._takes_s *= 1 - SMOOTHING  # or what was slow once would never be tried again
        return in_time

    def _tried(
        self, ranker: Ranker, reading: Future[Reader], rows: Ints, trace: Trace
    ) -> Floats | None:
        """What the ranker says; the breaker is told how it went, but where there was no time."""
        fair = trace.left_s >= self._fair_s
        try:
            found = self._ranked(ranker, reading, rows, trace)
        except FullError:
            return None
        except LateError:
            if fair:
                self._breaker.note(False)
            return None
        except Exception:
            log.exception("the ranker failed; the retrieval score ranks")
            self._breaker.note(False)
            return None
        self._breaker.note(True)
        return found

    def _ranked(self, ranker: Ranker, reading: Future[Reader], rows: Ints, trace: Trace) -> Floats:
        reader = result_within(reading, trace.left_s)
        started = time.perf_counter()
        ranking = self._bulkhead.start(partial(ranker.rank, reader, rows, trace.left_s))
        try:
            found = result_within(ranking, trace.left_s)
        finally:
            ranking.cancel()  # what has not begun need not
        self._takes_s += SMOOTHING * (time.perf_counter() - started - self._takes_s)
        return found
