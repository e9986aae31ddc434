"""A load that goes on while something happens, and what came back in each phase of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.benchmarks.load import Load, Outcomes

    Act = Callable[[], Any]
    Phase = tuple[str, Act]

FEEDS = ("full", "partial", "unranked", "cached", "popular")
OUTCOMES = (*FEEDS, "503", "errors")
LONGEST_S = 900.0


def nothing() -> None:
    """What is done in a phase in which nothing happens."""


def then(*acts: Act) -> Act:
    """Does things one after the other; gives what the last told."""
    return lambda: [act() for act in acts][-1]


def under_load(load: Load, rate: float, seconds: float, phases: Sequence[Phase]) -> dict[str, Any]:
    """Runs phases one after the other while requests arrive.

    Args:
        load: the requests.
        rate: of them a second.
        seconds: that a phase lasts once its act is done.
        phases: name and act of each.

    Returns:
        outcomes and times of each phase, outcomes of each second, and what the acts told.
    """
    ended, starts, told = threading.Event(), [], {}
    with ThreadPoolExecutor(1) as pool:
        started = time.perf_counter()
        answers = pool.submit(load.open, rate, LONGEST_S, 0, ended)
        try:
            for name, act in phases:
                starts.append(time.perf_counter() - started)
                told[name] = act()
                time.sleep(seconds)
            starts.append(time.perf_counter() - started)
        finally:
            ended.set()
        outcomes = answers.result()
    names = [name for name, _ in phases]
    return {
        "phases": by_phase(outcomes, names, starts),
        "by_second": {second: counted(k) for second, k in sorted(outcomes.by_second.items())},
        "told": {name: found for name, found in told.items() if found is not None},
    }


def by_phase(
    outcomes: Outcomes, names: Sequence[str], starts: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """What came back for the requests that were due in each phase."""
    found = {}
    for name, start, end in zip(names, starts, starts[1:], strict=False):
        own = [(kind, took) for due, kind, took in outcomes.answers if start <= due < end]
        times = [took for _, took in own] or [0.0]
        found[name] = {
            "from_s": round(start, 1),
            "to_s": round(end, 1),
            "outcomes": counted(Counter(kind for kind, _ in own)),
            "errors": dict(Counter(kind for kind, _ in own if kind not in OUTCOMES)),
            "p50_ms": round(float(np.percentile(times, 50)), 1),
            "p99_ms": round(float(np.percentile(times, 99)), 1),
            "slowest_ms": round(max(times), 1),
        }
    return found


def counted(kinds: Counter[str]) -> dict[str, int]:
    """Answers by outcome; whatever is no feed and no 503 is an error."""
    known = {name: kinds[name] for name in OUTCOMES[:-1]}
    found = known | {"errors": kinds.total() - sum(known.values())}
    return {name: count for name, count in found.items() if count}


def share(phases: Iterable[dict[str, Any]], outcomes: Iterable[str]) -> float:
    """Share of the answers of some phases that had one of some outcomes."""
    total: Counter[str] = Counter()
    for phase in phases:
        total.update(phase["outcomes"])
    return sum(total[name] for name in outcomes) / max(total.total(), 1)
