"""Items that users were shown lately, in memory and bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serve.store import ExternalId

    Feeds = deque[tuple[int, tuple[ExternalId, ...]]]

MAX_USERS = 100_000
MAX_FEEDS = 50
MAX_ITEMS = 5_000_000  # of all users
HOUR_MS = 3_600_000


class Shown:
    """Remembers feeds for some hours.

    Args:
        hours: how long; 0 remembers nothing.
        most_items: of all users; beyond them the user served longest ago is forgotten.
    """

    def __init__(self, hours: float, most_items: int = MAX_ITEMS) -> None:
        self._span_ms = hours * HOUR_MS
        self._most_items = most_items
        self._feeds: OrderedDict[ExternalId, Feeds] = OrderedDict()
        self._items = 0
        self._lock = threading.Lock()

    def add(self, user_id: ExternalId, now_ms: int, item_ids: Sequence[ExternalId]) -> None:
        """Remembers a feed, and forgets those whose time is over."""
        if not self._span_ms:
            return
        with self._lock:
            feeds = self._feeds.setdefault(user_id, deque())
            feeds.append((now_ms, tuple(item_ids)))
            self._feeds.move_to_end(user_id)
            self._items += len(item_ids)
            while len(feeds) > MAX_FEEDS or self._is_over(feeds[0][0], now_ms):
                self._items -= len(feeds.popleft()[1])
            while self._is_full or self._is_over(self._oldest[-1][0], now_ms):
                _, gone = self._feeds.popitem(last=False)
                self._items -= sum(len(items) for _, items in gone)

    def _is_over(self, at_ms: int, now_ms: int) -> bool:
        return at_ms <= now_ms - self._span_ms

    @property
    def _is_full(self) -> bool:
        return len(self._feeds) > MAX_USERS or (
            self._items > self._most_items and len(self._feeds) > 1
        )

    @property
    def _oldest(self) -> Feeds:
        """Feeds of the user served longest ago."""
        return next(iter(self._feeds.values()))

    def items(self, user_id: ExternalId, now_ms: int) -> list[ExternalId]:
        """Items that a user was shown within the span."""
        with self._lock:
            feeds = list(self._feeds.get(user_id, ()))
        return [item for at, items in feeds if not self._is_over(at, now_ms) for item in items]
