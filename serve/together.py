"""Work that costs less done together: what is asked while one batch runs makes the next.

Nothing waits for company: who finds nobody at work goes alone and at once, and batches grow by
themselves as load does. (`ray.serve.batch` closes its batches before the one before has ended, so
there a batch larger than one takes a wait that every request pays.)
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Asked = TypeVar("Asked")
Given = TypeVar("Given")


class Waiting(Generic[Asked, Given]):
    """What one caller asks, and what came of it."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.given: Given | None = None
        self.error: Exception | None = None
        self.done = False


class Together(Generic[Asked, Given]):
    """Calls of one function from many threads, several in one.

    Args:
        run: gives one answer for each of what is asked. If it fails for several, each is tried
            alone: what is wrong with one request fails no other.
        most: of one batch.
    """

    def __init__(self, run: Callable[[Sequence[Asked]], Sequence[Given]], most: int) -> None:
        self._run, self._most = run, most
        self._waiting: deque[Waiting[Asked, Given]] = deque()
        self._turn = threading.Lock()

    def __call__(self, asked: Asked) -> Given:
        """The answer, or the error; whoever's turn it is works for all that wait."""
        own: Waiting[Asked, Given] = Waiting(asked)
        self._waiting.append(own)
        with self._turn:
            while not own.done:
                self._answer([self._waiting.popleft() for _ in range(self._size())])
        if own.error is not None:
            raise own.error
        return own.given  # type: ignore[return-value]  # Given may be None itself

    def _size(self) -> int:
        return min(self._most, len(self._waiting))

    def _answer(self, batch: Sequence[Waiting[Asked, Given]]) -> None:
        try:
            found = self._run([one.asked for one in batch])
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    self._answer([one])
                return
            batch[0].error, batch[0].done = error, True
            return
        for one, given in zip(batch, found, strict=True):
            one.given, one.done = given, True
