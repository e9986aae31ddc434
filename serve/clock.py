"""The time that requests and posted events are given."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from data.contract.schema import DAY_MS

if TYPE_CHECKING:
    from serve.bundle import Bundle

STALE_DAYS = 7

ClockKind = Literal["auto", "wall", "log"]


def wall_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Clock:
    """Wall time, or time that goes on where the log ends.

    The models have never seen events that are years old when a request comes, so over a log of the
    past (a public data set, the built-in world) the day of the request is the day after the log.
    """

    def __init__(self, bundle: Bundle, kind: ClockKind) -> None:
        self._offset_ms = _offset_ms(bundle, kind)

    def now_ms(self) -> int:
        """The present, ms since 1970."""
        return wall_ms() + self._offset_ms


def _offset_ms(bundle: Bundle, kind: ClockKind) -> int:
    calendar = bundle.calendar
    if kind == "wall" or calendar is None:
        return 0
    created = datetime.fromisoformat(bundle.artifact.manifest.created)
    offset = calendar.start_ms(calendar.num_days + 1) - int(created.timestamp() * 1000)
    return 0 if kind == "auto" and offset > -STALE_DAYS * DAY_MS else offset
