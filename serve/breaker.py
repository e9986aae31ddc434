"""Circuit breakers: what has failed several times in a row is left alone for a while.

A call that is bound to fail costs its deadline each time; an open breaker costs nothing. After the
pause one call tries again, and closes the breaker if it succeeds.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Breaker:
    """One thing that may fail, asked by any thread.

    Args:
        failures: in a row that open it.
        pause_s: until one call may try again.
        clock: seconds, monotonic.
    """

    def __init__(
        self, failures: int, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._pause_s, self._clock = failures, pause_s, clock
        self._failed = 0
        self._retry_at = 0.0
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Whether to call; of an open one, true for one call each pause."""
        with self._lock:
            if self._failed < self._limit:
                return True
            now = self._clock()
            if now < self._retry_at:
                return False
            self._retry_at = now + self._pause_s
            return True

    def note(self, succeeded: bool) -> None:
        """Tells how a call went."""
        with self._lock:
            self._failed = 0 if succeeded else self._failed + 1
            if self._failed == self._limit:
                self._retry_at = self._clock() + self._pause_s

    @property
    def is_open(self) -> bool:
        """Whether calls are left out."""
        return self._failed >= self._limit


class Breakers:
    """A breaker for each name, made when it is first asked for.

    Args:
        failures: see `Breaker`.
        pause_s: see `Breaker`.
    """

    def __init__(self, failures: int, pause_s: float) -> None:
        self._failures, self._pause_s = failures, pause_s
        self._known: dict[str, Breaker] = {}

    def __getitem__(self, name: str) -> Breaker:
        known = self._known.get(name)
        if known is not None:
            return known
        return self._known.setdefault(name, Breaker(self._failures, self._pause_s))

    @property
    def states(self) -> dict[str, bool]:
        """Whether each is open, of those asked for so far."""
        return {name: breaker.is_open for name, breaker in list(self._known.items())}
