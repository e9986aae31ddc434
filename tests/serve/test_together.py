"""What is asked while one batch runs makes the next one, and fails alone."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.together import LateError, Together


class Doubler:
    """Doubles numbers, slowly where it is told to wait; what is negative fails the whole batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.gate = threading.Event(), threading.Event()

    def __call__(self, asked: Sequence[int]) -> list[int]:
        self.batches.append([*asked])
        if min(asked) < 0:
            raise ValueError(f"{min(asked)} is negative")
        if 0 in asked:
            self.begun.set()
            assert self.gate.wait(10)
        return [2 * one for one in asked]


def behind_one(numbers: Sequence[int], most: int) -> tuple[Doubler, list[int | str]]:
    """Asks for numbers while a batch of one is under way; answers or errors, in their order."""
    run = Doubler()
    together = Together(run, most)

    def tried(number: int) -> int | str:
        try:
            return together(number)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(len(numbers) + 1) as pool:
        first = pool.submit(together, 0)
        assert run.begun.wait(10)
        asked = [pool.submit(tried, number) for number in numbers]
        end = time.monotonic() + 10
        while len(together._waiting) < len(numbers) and time.monotonic() < end:
            time.sleep(0.01)
        run.gate.set()
        assert first.result(10) == 0
        return run, [one.result(10) for one in asked]


def test_who_is_alone_does_not_wait() -> None:
    run = Doubler()
    assert Together(run, 8)(21) == 42
    assert run.batches == [[21]]


def test_what_waits_for_a_batch_makes_the_next() -> None:
    run, found = behind_one([1, 2, 3], 8)
    assert found == [2, 4, 6]
    assert [len(batch) for batch in run.batches] == [1, 3]


@pytest.mark.parametrize(("most", "sizes"), [(1, [1] * 6), (2, [1, 2, 2, 1]), (4, [1, 4, 1])])
def test_no_batch_is_larger_than_the_most(most: int, sizes: list[int]) -> None:
    run, found = behind_one([1, 2, 3, 4, 5], most)
    assert found == [2, 4, 6, 8, 10]
    assert [len(batch) for batch in run.batches] == sizes


def test_one_that_fails_fails_no_other() -> None:
    run, found = behind_one([1, -5, 3], 8)
    assert found == [2, "-5 is negative", 6]
    assert [len(batch) for batch in run.batches] == [1, 3, 1, 1, 1]


def test_after_a_failure_the_next_is_served() -> None:
    together = Together(Doubler(), 8)
    with pytest.raises(ValueError, match="-1 is negative"):
        together(-1)
    assert together(4) == 8


def test_many_threads_get_each_their_own_answer() -> None:
    run = Doubler()
    together = Together(run, 3)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(together, range(1, 2001))) == list(range(2, 4002, 2))
    assert sum(map(len, run.batches)) == 2000


def test_who_waits_too_long_goes_without_and_the_others_go_on() -> None:
    run = Doubler()
    together = Together(run, 8)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(together, 0)
        assert run.begun.wait(10)
        late = pool.submit(together, 1, 0.05)
        with pytest.raises(LateError):
            late.result(10)
        patient = pool.submit(together, 2, 10.0)
        while not together._waiting:
            time.sleep(0.01)
        run.gate.set()
        assert (first.result(10), patient.result(10)) == (0, 4)
    assert run.batches == [[0], [2]]
    assert together(3) == 6


def test_nobody_waits_for_the_batch_after_their_own() -> None:
    run, slow = Doubler(), threading.Event()

    def doubled(asked: Sequence[int]) -> list[int]:
        if 9 in asked:
            assert slow.wait(10)
        return run(asked)

    together = Together(doubled, 2)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(together, 0)
        assert run.begun.wait(10)
        asked = []
        for at, number in enumerate((1, 2, 9)):
            asked.append(pool.submit(together, number))
            while len(together._waiting) <= at:
                time.sleep(0.01)
        run.gate.set()
        assert [one.result(10) for one in (first, *asked[:2])] == [0, 2, 4]
        slow.set()
        assert asked[2].result(10) == 18


def test_batches_that_fail_where_their_parts_do_not_become_smaller() -> None:
    def crowded(asked: Sequence[int]) -> list[int]:
        if len(asked) > 2:
            raise MemoryError
        return [2 * one for one in asked]

    together = Together(crowded, 8)
    together._led = True  # as if somebody worked
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(together, number) for number in range(4)]
        while len(together._waiting) < 4:
            time.sleep(0.01)
        together._waiting[0].woken.set()
        assert sorted(one.result(10) for one in asked) == [0, 2, 4, 6]
    assert together.most == 2


def test_too_few_answers_are_an_error_of_all() -> None:
    with pytest.raises(ValueError, match="zip"):
        Together(lambda _: [], 8)(1)
