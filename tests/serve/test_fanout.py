import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from serve.breaker import Breakers
from serve.candidates import Found
from serve.fanout import Fanout


@pytest.fixture
def fanout() -> Iterator[Fanout]:
    opened = Fanout(threads=2, queue=1)
    yield opened
    opened.close()


def nothing() -> Found:
    return Found("quick", np.zeros(0, np.int64), np.zeros(0, np.float32))


def fail() -> Found:
    raise ValueError("no luck")


def test_answers_come_in_the_order_asked(fanout: Fanout) -> None:
    slow = threading.Event()

    def wait() -> Found:
        slow.wait(10)
        return Found("slow", np.zeros(0, np.int64), np.zeros(0, np.float32))

    def release() -> Found:
        slow.set()
        return nothing()

    answers = fanout.ask(
        {"slow": wait, "quick": release}, {"slow": 20.0, "quick": 20.0}, Breakers(5, 60.0)
    )
    assert [one.source for one in answers.found] == ["slow", "quick"]
    assert answers.failures == {}


def test_a_failure_is_named_and_the_others_answer(fanout: Fanout) -> None:
    answers = fanout.ask(
        {"bad": fail, "quick": nothing}, {"bad": 20.0, "quick": 20.0}, Breakers(5, 60.0)
    )
    assert len(answers.found) == 1
    assert answers.failures == {"bad": "ValueError('no luck')"}


def test_a_late_source_is_left_behind_and_further_ones_are_shed(fanout: Fanout) -> None:
    gate = threading.Event()

    def stuck() -> Found:
        gate.wait(30)
        return nothing()

    started = time.monotonic()
    late = fanout.ask({"a": stuck, "b": stuck}, {"a": 0.05, "b": 0.05}, Breakers(5, 60.0))
    assert late.failures == {"a": "late", "b": "late"}
    waiting = fanout.ask({"a": nothing, "b": nothing}, {"a": 0.05, "b": 0.05}, Breakers(5, 60.0))
    assert waiting.failures == {"a": "late", "b": "shed"}
    assert time.monotonic() - started < 10
    gate.set()
    end = time.monotonic() + 10
    while not fanout.ask({"a": nothing}, {"a": 5.0}, Breakers(5, 60.0)).found:
        assert time.monotonic() < end


def test_a_source_that_fails_again_and_again_is_left_alone(fanout: Fanout) -> None:
    breakers = Breakers(5, 60.0)
    for _ in range(5):
        assert "no luck" in fanout.ask({"bad": fail}, {"bad": 20.0}, breakers).failures["bad"]
    calls, deadlines = {"bad": fail, "quick": nothing}, {"bad": 20.0, "quick": 20.0}
    assert fanout.ask(calls, deadlines, breakers).failures == {"bad": "open"}
    assert breakers.open == ["bad"]


def test_what_is_shed_says_nothing_about_the_source() -> None:
    crowded, breakers = Fanout(threads=1, queue=0), Breakers(1, 60.0)
    gate = threading.Event()

    def stuck() -> Found:
        gate.wait(30)
        return nothing()

    found = crowded.ask({"a": stuck, "b": nothing}, {"a": 0.05, "b": 0.05}, breakers)
    assert found.failures == {"a": "late", "b": "shed"}
    assert breakers.open == ["a"]
    gate.set()
    crowded.close()
