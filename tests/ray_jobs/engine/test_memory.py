import numpy as np
import psutil
import pytest

from ray_jobs.engine.memory import GROWTH, MIB, REST, Holes, PeakMemory, phase


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def leave_holes(count: int) -> list[bytes]:
    """Many blocks of heap of which every other one is given up; what keeps the rest from going."""
    blocks = [bytes(100_000) for _ in range(count)]
    return blocks[::100]


def test_holes_are_given_back_once_they_have_grown() -> None:
    holes, before = Holes(), resident()
    kept = leave_holes(2 * GROWTH // 100_000)
    grown = resident() - before
    holes.watch()
    assert grown > GROWTH
    assert resident() - before < grown / 4
    assert len(kept) > 10


def test_the_peak_is_what_was_held_for_a_while() -> None:
    with PeakMemory(interval_s=0.01) as memory:
        held = np.ones(64 * MIB, np.uint8)
        while memory.peak_mib == 0:
            pass
        first = memory.peak_mib
        more = np.ones(96 * MIB, np.uint8)
    assert memory.peak_mib - first > 60
    assert held.nbytes + more.nbytes == 160 * MIB


def test_a_part_has_its_own_peak_without_those_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [0]
    monkeypatch.setattr("ray_jobs.engine.memory.tree_pss", lambda: held[0] * MIB)
    with PeakMemory(interval_s=1000) as memory:
        with memory.part() as outer:
            with memory.part() as inner:
                held[0] = 96
            held[0] = 10
        held[0] = 192
    assert (outer.peak_mib, inner.peak_mib, memory.peak_mib) == (10, 96, 192)


def test_each_phase_of_a_part_has_its_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [0]
    monkeypatch.setattr("ray_jobs.engine.memory.tree_pss", lambda: held[0] * MIB)
    with PeakMemory(interval_s=1000) as memory, memory.part() as part:
        for size in (30, 70, 50):
            with phase("validation"):
                held[0] = 20
                with phase("checkpoint"):
                    held[0] = size + 5
                held[0] = size
        held[0] = 10
    with phase("unseen"):
        held[0] = 500
    assert part.phases_mib == {"validation": 70, "checkpoint": 75, REST: 10}
    assert part.peak_mib == memory.peak_mib == 75


def test_a_part_has_its_own_time_without_those_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ray_jobs.engine.memory.tree_pss", lambda: 0)
    monkeypatch.setattr("ray_jobs.engine.memory.time.perf_counter", lambda: now[0])
    with PeakMemory(interval_s=1000) as memory, memory.part() as outer:
        now[0] += 2
        with memory.part() as inner:
            now[0] += 30
            with memory.part() as innermost:
                now[0] += 400
        now[0] += 5
    assert (outer.seconds, inner.seconds, innermost.seconds) == (7, 30, 400)
