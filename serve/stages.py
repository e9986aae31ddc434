"""What a request went through: times, drops, and what had to be done without."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from data.contract.encode import Ints

if TYPE_CHECKING:
    from collections.abc import Iterator


Fallback = Literal["partial", "unranked", "cached", "popular"]
SEVERITY: tuple[Fallback, ...] = ("partial", "unranked", "cached", "popular")


@dataclass(slots=True)
class Trace:
    """Filled while a request is answered.

    Attributes:
        ends_at: when the answer is due, by `time.perf_counter`.
        timings_ms: stage -> time.
        funnel: what each stage did, for `debug`.
        dropped: reason -> rows that a stage took out for it, in the order in which it happened.
        fallbacks: what had to be done without.
    """

    ends_at: float = math.inf
    timings_ms: dict[str, float] = field(default_factory=dict)
    funnel: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, list[Ints]] = field(default_factory=dict)
    fallbacks: set[Fallback] = field(default_factory=set)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage, also when it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings_ms[name] = round((time.perf_counter() - started) * 1000, 3)

    @property
    def left_s(self) -> float:
        """Seconds until the answer is due."""
        return max(self.ends_at - time.perf_counter(), 0.0)

    def drop(self, reason: str, rows: Ints) -> None:
        """Notes that rows are taken out, and why."""
        if len(rows):
            self.dropped.setdefault(reason, []).append(rows)

    @property
    def drops(self) -> dict[str, int]:
        """How many rows were taken out, by reason."""
        return {reason: sum(map(len, parts)) for reason, parts in self.dropped.items()}

    @property
    def fallback(self) -> bool | str:
        """The worst of what happened, or False."""
        return next((kind for kind in reversed(SEVERITY) if kind in self.fallbacks), False)
