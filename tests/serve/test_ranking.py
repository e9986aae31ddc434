"""Ranking in time, or not at all."""

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serve.breaker import Breaker
from serve.bulkhead import Bulkhead
from serve.ranking import Ranking
from serve.stages import Trace

ROWS = np.arange(3)
QUERY: Any = SimpleNamespace(user=None, surface="home", about=ROWS[:0])


class Hanging:
    """A ranker whose halves wait for a gate each."""

    def __init__(self) -> None:
        self.reads, self.ranks = threading.Event(), threading.Event()

    def read(self, *_: Any) -> int:
        self.reads.wait(60)
        return 7

    def rank(self, reader: int, rows: Any, patience_s: float) -> Any:
        self.ranks.wait(60)
        return np.full((len(rows), 1), reader, np.float32)


@pytest.fixture
def ranker() -> Iterator[Hanging]:
    ranker = Hanging()
    yield ranker
    ranker.reads.set()
    ranker.ranks.set()


def ranking_by(ranker: Any, fair_s: float = 0.0) -> tuple[Ranking, Breaker]:
    breaker = Breaker(5, 1000.0)
    return Ranking(ranker, breaker, Bulkhead("hanging", 4, 8), fair_s), breaker


def ask(ranking: Ranking, seconds: float) -> tuple[Any, Trace]:
    trace = Trace(time.perf_counter() + seconds)
    return ranking.rank(ranking.read(QUERY), ROWS, trace), trace


def threads() -> int:
    return sum(one.name.startswith("hanging") for one in threading.enumerate())


def test_both_halves_answer(ranker: Hanging) -> None:
    ranker.reads.set()
    ranker.ranks.set()
    ranking, _ = ranking_by(ranker)
    found, trace = ask(ranking, 60)
    assert found.tolist() == [[7.0]] * 3
    assert trace.fallback is False


@pytest.mark.parametrize("half", ["reads", "ranks"])
def test_a_ranker_that_hangs_is_left_behind_and_then_alone(ranker: Hanging, half: str) -> None:
    getattr(ranker, {"reads": "ranks", "ranks": "reads"}[half]).set()
    ranking, breaker = ranking_by(ranker)
    for asked in range(5):
        assert breaker.is_open is False, asked
        found, trace = ask(ranking, 0.2)
        assert found is None
        assert trace.fallback == "unranked"
    assert breaker.is_open
    assert ranking.read(QUERY) is None
    assert threads() <= 4


def test_a_ranker_is_not_blamed_where_a_request_has_no_time_for_it(ranker: Hanging) -> None:
    ranking, breaker = ranking_by(ranker, fair_s=30.0)
    for _ in range(6):
        assert ask(ranking, 0.01)[0] is None
    assert not breaker.is_open


def test_more_than_there_is_place_for_is_shed_and_not_blamed(ranker: Hanging) -> None:
    ranking, breaker = ranking_by(ranker)
    assert None not in [ranking.read(QUERY) for _ in range(12)]
    assert ask(ranking, 60)[0] is None
    assert breaker._failed == 0
