"""Numbers of answered requests."""

from __future__ import annotations

import secrets
import threading

from serve.clock import wall_ms


class RequestIds:
    """Numbers below 2^53 (JSON's safe range): time, then salt that tells replicas apart."""

    SALTS = 1 << 12

    def __init__(self) -> None:
        self._salt = secrets.randbelow(self.SALTS)
        self._last = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        """A number that this process never gave before."""
        with self._lock:
            self._last = max(self._last + self.SALTS, wall_ms() * self.SALTS + self._salt)
            return self._last
