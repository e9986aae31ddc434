"""Failures that come with every request are told once with a traceback, then counted.

A tower or a disk that fails does so some hundred times a second, and a traceback of each would hide
all else and fill the disk.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from traceback import walk_tb
from typing import TYPE_CHECKING

from data.contract.passwords import concealed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

PAUSE_S = 60.0
PACKAGE = "serve."


@dataclass(slots=True)
class Repeated:
    """A failure that has been told.

    Attributes:
        told: when last, by the clock.
        untold: times since then.
    """

    told: float
    untold: int = 0


class Tracebacks(logging.Filter):
    """Lets the traceback of each failure pass once, then one line a minute with how often it came.

    A failure is where it was raised, what it is, and where it is logged.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._known: dict[Hashable, Repeated] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to tell; the record of a failure that was told loses its traceback."""
        if _error(record) is None:
            return True
        with self._lock:
            return self._is_due(record, _failure(record))

    def _is_due(self, record: logging.LogRecord, failure: Hashable) -> bool:
        now = self._clock()
        repeated = self._known.get(failure)
        if repeated is None:
            self._known[failure] = Repeated(now)
            return True
        repeated.untold += 1
        if now < repeated.told + PAUSE_S:
            return False
        _count(record, repeated.untold)
        repeated.told, repeated.untold = now, 0
        return True


def _error(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _failure(record: logging.LogRecord) -> Hashable:
    error = _error(record)
    traceback = None if error is None else error.__traceback__
    raised = [(frame.f_code.co_filename, line) for frame, line in walk_tb(traceback)]
    return record.pathname, record.lineno, type(error), *raised[-1:]


def _count(record: logging.LogRecord, times: int) -> None:
    """Makes one line of a record."""
    error = _error(record)
    record.msg = f"{record.getMessage()}: {concealed(repr(error))}, {times} times more"
    record.args, record.exc_info, record.exc_text = (), None, None


def count_repeated() -> None:
    """Lets the loggers of this package share a filter, which knows of no failure yet."""
    own = Tracebacks()
    for name, logger in [*logging.root.manager.loggerDict.items()]:
        if name.startswith(PACKAGE) and isinstance(logger, logging.Logger):
            logger.filters = [own]  # a logger's filters do not see what its children log
