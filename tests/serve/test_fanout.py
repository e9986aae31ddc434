import math
import threading
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from serve.breaker import Breakers
from serve.candidates import Found
from serve.fanout import Answers, Call, Fanout


@pytest.fixture
def fanout() -> Iterator[Fanout]:
    opened = Fanout(threads=2, queue=1)
    yield opened
    opened.close()


def ask(
    fanout: Fanout,
    calls: dict[str, Call],
    deadlines_s: dict[str, float],
    breakers: Breakers,
    left_s: float = math.inf,
) -> Answers:
    return fanout.answers(fanout.ask(calls, deadlines_s, breakers, left_s))


def nothing() -> Found:
    return Found("quick", np.zeros(0, np.int64), np.zeros(0, np.float32))


def waiting_for(gate: threading.Event) -> Found:
    """A source that hangs until the gate is opened."""
    gate.wait(30)
    return nothing()


def fail() -> Found:
    raise ValueError("no luck")


def opened(breakers: Breakers) -> list[str]:
    return sorted(name for name, is_open in breakers.states.items() if is_open)


def test_answers_come_in_the_order_asked(fanout: Fanout) -> None:
    slow = threading.Event()

    def wait() -> Found:
        slow.wait(10)
        return Found("slow", np.zeros(0, np.int64), np.zeros(0, np.float32))

    def release() -> Found:
        slow.set()
        return nothing()

    answers = ask(
        fanout, {"slow": wait, "quick": release}, {"slow": 20.0, "quick": 20.0}, Breakers(5, 60.0)
    )
    assert [one.source for one in answers.found] == ["slow", "quick"]
    assert answers.failures == {}


def test_a_failure_is_named_and_the_others_answer(fanout: Fanout) -> None:
    answers = ask(
        fanout, {"bad": fail, "quick": nothing}, {"bad": 20.0, "quick": 20.0}, Breakers(5, 60.0)
    )
    assert len(answers.found) == 1
    assert answers.failures == {"bad": "ValueError('no luck')"}


def test_a_late_source_is_left_behind_and_further_ones_are_shed(fanout: Fanout) -> None:
    gate = threading.Event()

    stuck = partial(waiting_for, gate)

    started = time.monotonic()
    late = ask(fanout, {"a": stuck, "b": stuck}, {"a": 0.05, "b": 0.05}, Breakers(5, 60.0))
    assert late.failures == {"a": "late", "b": "late"}
    waiting = ask(fanout, {"a": nothing, "b": nothing}, {"a": 0.05, "b": 0.05}, Breakers(5, 60.0))
    assert waiting.failures == {"a": "late", "b": "shed"}
    assert time.monotonic() - started < 10
    gate.set()
    end = time.monotonic() + 10
    while not ask(fanout, {"a": nothing}, {"a": 5.0}, Breakers(5, 60.0)).found:
        assert time.monotonic() < end


def test_a_source_that_fails_again_and_again_is_left_alone(fanout: Fanout) -> None:
    breakers = Breakers(5, 60.0)
    for _ in range(5):
        assert "no luck" in ask(fanout, {"bad": fail}, {"bad": 20.0}, breakers).failures["bad"]
    calls, deadlines = {"bad": fail, "quick": nothing}, {"bad": 20.0, "quick": 20.0}
    assert ask(fanout, calls, deadlines, breakers).failures == {"bad": "open"}
    assert opened(breakers) == ["bad"]


def test_what_is_shed_says_nothing_about_the_source() -> None:
    crowded, breakers = Fanout(threads=1, queue=0), Breakers(1, 60.0)
    gate = threading.Event()

    stuck = partial(waiting_for, gate)

    found = ask(crowded, {"a": stuck, "b": nothing}, {"a": 0.05, "b": 0.05}, breakers)
    assert found.failures == {"a": "late", "b": "shed"}
    assert opened(breakers) == ["a"]
    gate.set()
    crowded.close()


def test_a_source_that_hangs_leaves_half_of_the_places_to_the_others() -> None:
    fanout, gate, breakers = Fanout(threads=4, queue=4), threading.Event(), Breakers(100, 60.0)

    stuck = partial(waiting_for, gate)

    for at in range(8):
        found = ask(
            fanout, {"stuck": stuck, "quick": nothing}, {"stuck": 0.02, "quick": 20.0}, breakers
        )
        assert [one.source for one in found.found] == ["quick"], at
        assert found.failures == {"stuck": "late"}, at
    gate.set()
    fanout.close()


def test_waiting_behind_oneself_is_a_failure_but_not_waiting_behind_others() -> None:
    fanout, gate, breakers = Fanout(threads=2, queue=8), threading.Event(), Breakers(2, 60.0)

    stuck = partial(waiting_for, gate)

    calls, deadlines = {"a": stuck, "b": stuck, "c": nothing}, dict.fromkeys("abc", 0.05)
    for _ in range(2):
        found = ask(fanout, calls, deadlines, breakers)
        assert found.failures == {"a": "late", "b": "late", "c": "shed"}
    assert opened(breakers) == ["a", "b"]
    gate.set()
    fanout.close()


def test_times_are_told_also_of_calls_that_were_too_late() -> None:
    told: list[tuple[str, float]] = []
    fanout = Fanout(1, 1, lambda source, seconds: told.append((source, seconds)))
    gate, within = threading.Event(), []

    def slow() -> Found:
        started = time.perf_counter()
        gate.wait(30)
        within.append(time.perf_counter() - started)
        return nothing()

    assert ask(fanout, {"slow": slow}, {"slow": 0.02}, Breakers(5, 60.0)).failures
    assert told == []
    gate.set()
    fanout.close()
    assert [source for source, _ in told] == ["slow"]
    assert told[0][1] >= within[0]


def test_calls_that_wait_run_in_the_order_in_which_they_came() -> None:
    fanout, gate = Fanout(threads=1, queue=8), threading.Event()
    ran: list[str] = []

    stuck = partial(waiting_for, gate)

    def named(name: str) -> Found:
        ran.append(name)
        return nothing()

    threading.Timer(0.2, gate.set).start()
    names = ["b", "c", "d"]
    calls = {"a": stuck, **{name: partial(named, name) for name in names}}
    found = ask(fanout, calls, dict.fromkeys(calls, 20.0), Breakers(5, 60.0))
    assert len(found.found) == 4
    assert ran == names
    fanout.close()


def test_a_source_is_not_blamed_where_the_request_had_no_time_for_it(fanout: Fanout) -> None:
    gate, breakers = threading.Event(), Breakers(1, 60.0)

    stuck = partial(waiting_for, gate)

    started = time.monotonic()
    hurried = ask(fanout, {"a": stuck}, {"a": 20.0}, breakers, left_s=0.02)
    assert time.monotonic() - started < 10
    assert hurried.failures == {"a": "late"}
    assert opened(breakers) == []
    assert ask(fanout, {"b": stuck}, {"b": 0.02}, breakers, left_s=0.015).failures == {"b": "late"}
    assert opened(breakers) == ["b"]
    gate.set()
