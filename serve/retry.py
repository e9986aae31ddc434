"""When what failed is tried again."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_S = 2.0
MOST_S = 300.0


class Retry:
    """Pauses between tries of one thing, each twice as long as the one before.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause_s = 0.0
        self._due_s = math.inf

    @property
    def is_due(self) -> bool:
        """Whether something failed, long enough ago."""
        return self._clock() >= self._due_s

    def note(self, settled: bool) -> None:
        """Tells how a try went; what succeeded, or failed for good, is not tried again."""
        self._pause_s = 0.0 if settled else min(max(2 * self._pause_s, FIRST_S), MOST_S)
        self._due_s = math.inf if settled else self._clock() + self._pause_s
