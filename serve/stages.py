"""What a request went through: times, drops, and what had to be done without."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Fallback = Literal["partial", "unranked", "popular"]
SEVERITY: tuple[Fallback, ...] = ("partial", "unranked", "popular")


@dataclass(slots=True)
class Trace:
    """Filled while a request is answered.

    Attributes:
        timings_ms: stage -> time.
        funnel: what each stage did, for `debug`.
        fallbacks: what had to be done without.
    """

    timings_ms: dict[str, float] = field(default_factory=dict)
    funnel: dict[str, Any] = field(default_factory=dict)
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
    def fallback(self) -> bool | str:
        """The worst of what happened, or False."""
        return next((kind for kind in reversed(SEVERITY) if kind in self.fallbacks), False)
