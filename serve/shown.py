"""Items that users were shown lately, in memory and bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serve.store import ExternalId

MAX_USERS = 100_000
MAX_FEEDS = 50
HOUR_MS = 3_600_000


class Shown:
    """Remembers feeds for some hours.

    Args:
        hours: how long; 0 remembers nothing.
    """

    def __init__(self, hours: float) -> None:
        self._span_ms = hours * HOUR_MS
        self._feeds: OrderedDict[ExternalId, deque[tuple[int, list[ExternalId]]]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, user_id: ExternalId, now_ms: int, item_ids: Sequence[ExternalId]) -> None:
        """Remembers a feed; of many users the one served longest ago is forgotten."""
        if not self._span_ms:
            return
        with self._lock:
            feeds = self._feeds.setdefault(user_id, deque(maxlen=MAX_FEEDS))
            feeds.append((now_ms, list(item_ids)))
            self._feeds.move_to_end(user_id)
            if len(self._feeds) > MAX_USERS:
                self._feeds.popitem(last=False)

    def items(self, user_id: ExternalId, now_ms: int) -> list[ExternalId]:
        """Items that a user was shown within the span."""
        with self._lock:
            feeds = list(self._feeds.get(user_id, ()))
        return [item for at, items in feeds if at > now_ms - self._span_ms for item in items]
