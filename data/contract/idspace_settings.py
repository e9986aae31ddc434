"""Settings of the id spaces."""

from __future__ import annotations

from dataclasses import dataclass

from data.contract.settings import Count, NonNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class IdSettings:
    """Which ids get a row of their own.

    Attributes:
        min_count: events after which an id is admitted; ids of the item and user tables always are.
        buckets: rows that all ids not admitted share by hash.
    """

    min_count: Count = 1
    buckets: NonNegative = 16
