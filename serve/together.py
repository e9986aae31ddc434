"""Work that costs less done together: what is asked while one batch runs makes the next.

Nothing waits for company: who finds nobody at work goes alone and at once, and batches grow by
themselves as load does. (`ray.serve.batch` closes its batches before the one before has ended, so
there a batch larger than one takes a wait that every request pays.)
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Asked = TypeVar("Asked")
Given = TypeVar("Given")
log = logging.getLogger(__name__)


class LateError(Exception):
    """There is no answer in the time that the caller has."""


class Waiting(Generic[Asked, Given]):
    """What one caller asks, and what came of it.

    Attributes:
        asked: by the caller.
        woken: set when there is an answer, or when it is the caller's turn to work.
        done: whether there is an answer.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.woken = threading.Event()
        self.done = False
        self.given: Given | None = None
        self.error: Exception | None = None

    def end(self, given: Given | None, error: Exception | None = None) -> None:
        """Gives the caller what it waits for."""
        self.given, self.error, self.done = given, error, True
        self.woken.set()

    def result(self) -> Given:
        """The answer, or the error."""
        if self.error is not None:
            raise self.error
        return self.given  # type: ignore[return-value]  # Given may be None itself


class Together(Generic[Asked, Given]):
    """Calls of one function from many threads, several in one.

    The caller that has waited longest works for all that wait, once; then the next does.

    Args:
        run: gives one answer for each of what is asked. If it fails for several, each is tried
            alone: what is wrong with one request fails no other.
        most: of one batch; halved when batches fail whose parts do not.

    Attributes:
        most: as it is by now.
    """

    def __init__(self, run: Callable[[Sequence[Asked]], Sequence[Given]], most: int) -> None:
        self._run, self.most = run, most
        self._waiting: deque[Waiting[Asked, Given]] = deque()
        self._lock = threading.Lock()
        self._led = False

    def __call__(self, asked: Asked, patience_s: float | None = None) -> Given:
        """The answer to what is asked.

        Raises:
            LateError: there was none within `patience_s`.
            Exception: what `run` raised for it alone.
        """
        own: Waiting[Asked, Given] = Waiting(asked)
        with self._lock:
            self._waiting.append(own)
            leads, self._led = not self._led, True
        if not leads:
            own.woken.wait(patience_s)
            leads = self._leads(own)
        if leads:
            self._lead()
        return own.result()

    def _leads(self, own: Waiting[Asked, Given]) -> bool:
        """Whether it is the turn of a caller that waits no more. Raises LateError."""
        with self._lock:
            if own.done or own.woken.is_set():
                return not own.done
            if own in self._waiting:
                self._waiting.remove(own)
            raise LateError

    def _lead(self) -> None:
        """Answers a batch, the first of which is the caller's, and hands over."""
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(self.most, len(self._waiting)))]
        try:
            self._answer(batch)
        finally:
            with self._lock:
                self._led = bool(self._waiting)
                if self._led:
                    self._waiting[0].woken.set()

    def _answer(self, batch: Sequence[Waiting[Asked, Given]]) -> None:
        try:
            found = self._run([one.asked for one in batch])
            pairs = [*zip(batch, found, strict=True)]
        except Exception as error:
            if len(batch) == 1:
                batch[0].end(None, error)
            else:
                self._one_by_one(batch, error)
            return
        for one, given in pairs:
            one.end(given)

    def _one_by_one(self, batch: Sequence[Waiting[Asked, Given]], error: Exception) -> None:
        for one in batch:
            self._answer([one])
        if all(one.error is None for one in batch):
            self.most = max(1, len(batch) // 2)
            log.warning(
                "%d together failed, each alone did not; %d at most from now on: %r",
                len(batch),
                self.most,
                error,
            )
