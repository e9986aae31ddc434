"""What was last known of users, or last shown to them: a bounded memory for bad times."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from serve.store import ExternalId

V = TypeVar("V")


class Recent(Generic[V]):
    """The last value of each user, of so many users.

    Args:
        users: beyond them the one used longest ago is forgotten.
    """

    def __init__(self, users: int) -> None:
        self._users = users
        self._values: OrderedDict[ExternalId, V] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, user_id: ExternalId, value: V) -> None:
        """Keeps a value in place of the one before."""
        with self._lock:
            self._values[user_id] = value
            self._values.move_to_end(user_id)
            if len(self._values) > self._users:
                self._values.popitem(last=False)

    def get(self, user_id: ExternalId) -> V | None:
        """The last value, if it is remembered."""
        with self._lock:
            return self._values.get(user_id)
