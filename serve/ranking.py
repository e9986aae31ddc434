"""Ranking as far as the ranker works and there is time; whoever asks goes on without it.

It has two halves: a user is read while the sources search, and candidates are ranked once they are
found.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeVar

from serve.together import LateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from data.contract.encode import Ints
    from serve.breaker import Breaker
    from serve.programs import Floats
    from serve.query import Query
    from serve.ranker import Ranker, Reader
    from serve.stages import Trace

log = logging.getLogger(__name__)

SMOOTHING = 0.1
Half = TypeVar("Half")


class Ranking:
    """The ranker of a funnel, if it has one.

    Args:
        ranker: of the bundle.
        breaker: what fails several times in a row is not tried for a while.
    """

    def __init__(self, ranker: Ranker | None, breaker: Breaker) -> None:
        self.ranker = ranker
        self._breaker = breaker
        self._takes_s = 0.0

    def read(self, query: Query) -> Reader | None:
        """Reads the user; None without a ranker, or if it fails."""
        ranker = self.ranker
        if ranker is None or not self._breaker.allows():
            return None
        return self._tried(lambda: ranker.read(query.user, query.surface, query.about))

    def rank(self, reader: Reader | None, rows: Ints, trace: Trace) -> Floats | None:
        """Probabilities [N, T] of candidates [N]; None, and noted, where they cannot be had."""
        ranker = self.ranker
        if ranker is None or not len(rows):
            return None
        if reader is not None and self._in_time(trace):
            started = time.perf_counter()
            found = self._tried(lambda: ranker.rank(reader, rows, trace.left_s))
            if found is not None:
                self._breaker.note(True)
                self._takes_s += SMOOTHING * (time.perf_counter() - started - self._takes_s)
                return found
        trace.fallbacks.add("unranked")
        return None

    def _in_time(self, trace: Trace) -> bool:
        in_time = self._takes_s < trace.left_s
        if not in_time:
            self._takes_s *= 1 - SMOOTHING  # or what was slow once would never be tried again
        return in_time

    def _tried(self, half: Callable[[], Half]) -> Half | None:
        try:
            return half()
        except LateError:
            return None
        except Exception:
            log.exception("the ranker failed; the retrieval score ranks")
            self._breaker.note(False)
            return None
