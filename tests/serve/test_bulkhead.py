"""Threads that a hang stays in."""

import threading
from concurrent.futures import CancelledError

import pytest

from serve.bulkhead import Bulkhead, FullError, result_within
from serve.together import LateError


def test_answers_and_errors_come_to_who_asked() -> None:
    bulkhead = Bulkhead("tests", 2, 2)
    assert result_within(bulkhead.start(lambda: 3), 30) == 3
    for error in (ValueError, TimeoutError):
        with pytest.raises(error):
            result_within(bulkhead.start(lambda error=error: raising(error)), 30)


def raising(error: type[Exception]) -> None:
    raise error


def test_what_hangs_holds_its_places_and_no_more() -> None:
    bulkhead, gate = Bulkhead("tests", 2, 1), threading.Event()
    hanging = [bulkhead.start(lambda: gate.wait(30)) for _ in range(3)]
    with pytest.raises(FullError):
        bulkhead.start(lambda: 3)
    with pytest.raises(LateError):
        result_within(hanging[2], 0)
    assert hanging[2].cancel()
    gate.set()
    assert [result_within(one, 30) for one in hanging[:2]] == [True, True]
    with pytest.raises(CancelledError):
        result_within(hanging[2], 0)


def test_places_are_free_again_once_what_took_them_ended() -> None:
    bulkhead = Bulkhead("tests", 1, 0)
    for _ in range(20):
        ended = threading.Event()
        bulkhead.start(ended.set)
        assert ended.wait(30)
        while not bulkhead._places.acquire(blocking=False):  # given back after the answer
            pass
        bulkhead._places.release()
