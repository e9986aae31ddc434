"""What was last known of users, or last shown to them: a bounded memory for bad times."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from serve.store import ExternalId

V = TypeVar("V")
MEAN_SIZE = 100


def _one(_: object) -> int:
    return 1


class Recent(Generic[V]):
    """The last value of each user, of so many users.

    Args:
        users: beyond them the one used longest ago is forgotten.
        size: of a value, as its memory grows; users are forgotten, too, where the values of all
            come to more than `MEAN_SIZE` times `users`.
    """

    def __init__(self, users: int, size: Callable[[V], int] = _one) -> None:
        self._users, self._size = users, size
        self._values: OrderedDict[ExternalId, V] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def put(self, user_id: ExternalId, value: V) -> None:
        """Keeps a value in place of the one before."""
        with self._lock:
            before = self._values.pop(user_id, None)
            self._held += self._size(value) - (0 if before is None else self._size(before))
            self._values[user_id] = value
            while len(self._values) > self._users or self._held > MEAN_SIZE * self._users:
                self._held -= self._size(self._values.popitem(last=False)[1])

    def get(self, user_id: ExternalId) -> V | None:
        """The last value, if it is remembered."""
        with self._lock:
            return self._values.get(user_id)
