"""Circuit breakers."""

from hypothesis import given
from hypothesis import strategies as st

from serve.breaker import Breaker, Breakers


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_failures_in_a_row_and_one_call_tries_again() -> None:
    clock = Clock()
    breaker = Breaker(2, 10.0, clock)
    breaker.note(False)
    breaker.note(True)
    breaker.note(False)
    assert breaker.allows()
    breaker.note(False)
    assert breaker.is_open
    assert not breaker.allows()
    clock.now = 10.0
    assert [breaker.allows(), breaker.allows()] == [True, False]
    breaker.note(False)
    clock.now = 19.0
    assert not breaker.allows()
    clock.now = 20.0
    assert breaker.allows()
    breaker.note(True)
    assert breaker.allows()
    assert not breaker.is_open


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5))
def test_an_open_one_lets_one_call_through_each_pause(outcomes: list[bool], limit: int) -> None:
    clock = Clock()
    breaker, in_a_row = Breaker(limit, 1.0, clock), 0
    for succeeded in outcomes:
        allowed = [breaker.allows() for _ in range(3)]
        clock.now += 1.0
        if in_a_row < limit:
            assert allowed == [True] * 3
        else:
            assert sum(allowed) <= 1
        breaker.note(succeeded)
        in_a_row = 0 if succeeded else in_a_row + 1


def test_each_name_has_its_own() -> None:
    breakers = Breakers(1, 60.0)
    breakers["a"].note(False)
    assert not breakers["a"].allows()
    assert breakers["b"].allows()
    assert breakers.states == {"a": True, "b": False}
