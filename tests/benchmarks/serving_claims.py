"""What the README claims of the server, also while something is wrong (`verify`)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.bench_serve import PROFILES
from tests.benchmarks.bundle_copies import OTHER_TOWERS, VECTORS
from tests.benchmarks.claim import LATENCY, PRECISION, ROOTS, Claim
from tests.benchmarks.fault_phases import FEEDS, share

if TYPE_CHECKING:
    from tests.benchmarks.claim import Check, Summary

BUDGET_MS = 1000  # `serve.budget_ms`
ONE_PROCESS = ("ranker", "redis", "slow_source", "corrupted", "swaps", "other_space")


def phases(summary: Summary, fault: str, *names: str) -> list[dict[str, Any]]:
    """Some phases of a fault, or all."""
    found: dict[str, dict[str, Any]] = summary[fault]["phases"]
    return [found[name] for name in names or found]


def whole_again(summary: Summary, fault: str) -> bool:
    """Whether feeds lack nothing once the fault is over."""
    return share(phases(summary, fault, "after"), ("full",)) >= 0.99


def others_rank(summary: Summary) -> bool:
    """Whether feeds without the ranker are ordered by retrieval, and lack nothing else."""
    failing = phases(summary, "ranker", "failing")
    return share(failing, ("unranked",)) > 0.9 and share(failing, ("unranked", "full")) == 1


def in_budget(summary: Summary) -> bool:
    """Whether a store that hangs or is gone leaves feeds in time."""
    return all(p["p99_ms"] <= BUDGET_MS for p in phases(summary, "redis", "stopped", "killed"))


def acknowledged_is_kept(summary: Summary) -> bool:
    """Whether what a killed store had acknowledged is there again, and no more was promised."""
    told = summary["redis"]["told"]
    refused = all(told[phase]["status"] == 503 for phase in ("stopped", "killed"))
    newest = told["read again"]["newest action"][0]
    same = newest["item_id"] == told["posting"]["event"]["item_id"]
    return bool(told["posting"]["status"] == 200 and refused and same)


def refused(summary: Summary, fault: str, *words: str) -> bool:
    """Whether a bundle is refused with its reason, and the one before goes on serving."""
    found = summary[fault]["told"]["published"]
    texts = (found["refused"]["reason"], found["readyz"]["degraded"]["bundle"])
    named = all(word in text for text in texts for word in words)
    ready = found["readyz"]["ready"] and found["readyz"]["refused"] == found["refused"]
    serves_on = found["bundle"] == summary[fault]["served"] != found["published"]
    return bool(named and ready and serves_on)


def swapped(summary: Summary) -> bool:
    """Whether each of ten switches was made."""
    switches = summary["swaps"]["told"]["swapping"]
    return len(switches) == 10 and all(switch["held"] for switch in switches)


def fed(summary: Summary, fault: str) -> float:
    """Share of the requests that were answered with a feed of some kind."""
    return share(phases(summary, fault), FEEDS)


def of_each_store(summary: Summary, name: str) -> set[int]:
    """A figure of every store that events were posted to."""
    return {found[name] for found in summary["stores"].values()}


def over_http(summary: Summary) -> float:
    """Milliseconds that HTTP takes of a request alone, in the fastest profile, at the median."""
    alone = min(summary[profile]["1"]["p50_ms"] for profile in PROFILES)
    return float(alone - summary["in_process"]["p50_ms"])


def soaked(summary: Summary) -> dict[str, Any]:
    """What came of ten minutes of load."""
    found: dict[str, Any] = summary[summary["soaked"]]["soak"]
    return found


def grown(summary: Summary, name: str) -> float:
    """A figure of the serving processes in the last quarter of the soak over the second."""
    figures = [sample[name] for sample in soaked(summary)["footprints"]]
    quarter = len(figures) // 4
    return sum(figures[-quarter:]) / sum(figures[quarter : 2 * quarter])


LOAD: tuple[Check, ...] = (
    ("in process 15 ms at most", lambda s: s["in_process"]["p50_ms"] <= 15),
    ("6 ms more over HTTP at most", lambda s: over_http(s) <= 6),
    ("ten minutes of load without an error", lambda s: soaked(s)["errors"] == 0),
    ("memory stays as it is", lambda s: grown(s, "rss_mib") <= 1.03),
    ("open files stay as they are", lambda s: grown(s, "open_files") <= 1.03),
)

FAULTS: tuple[Check, ...] = (
    ("one of two replicas killed: 99% get a feed", lambda s: fed(s, "replica") >= 0.99),
    ("and there are two again", lambda s: bool(s["replica"]["told"]["started again"]["held"])),
    ("a crowd: every request gets a feed", lambda s: fed(s, "surge") == 1),
    ("and so does the crowd", lambda s: s["surge"]["crowd"]["errors"] == 0),
    ("and another replica comes", lambda s: bool(s["surge"]["told"]["crowded"]["held"])),
    *(
        (f"{fault}: every request gets a feed", lambda s, fault=fault: fed(s, fault) == 1)
        for fault in ONE_PROCESS
    ),
    *(
        (f"{fault}: whole feeds afterwards", partial(whole_again, fault=fault))
        for fault in ("replica", *ONE_PROCESS)
    ),
    ("without the ranker retrieval ranks", others_rank),
    ("a store that hangs or is gone leaves feeds within the budget", in_budget),
    ("what a killed store has acknowledged is kept", acknowledged_is_kept),
    (
        "99% full or partial while a source takes a second more",
        lambda s: share(phases(s, "slow_source", "slow"), ("full", "partial")) >= 0.99,
    ),
    (
        "utility falls by no more than the source contributes, by its interval",
        lambda s: s["slow_source"]["utility"]["fall beyond contribution"]["low"] <= 0,
    ),
    (
        "a flipped bit is refused, with the file",
        lambda s: refused(s, "corrupted", VECTORS, "does not match its checksum"),
    ),
    ("ten switches", swapped),
    (
        "another space is refused, with both names",
        lambda s: refused(s, "other_space", OTHER_TOWERS, s["other_space"]["towers"]),
    ),
)

SERVING_CLAIMS = (
    Claim(
        "ranker_latency",
        ("tests.benchmarks.bench_ranker", f"root={ROOTS}/default"),
        LATENCY,
        (Path(f"{ROOTS}/default/bundles/CURRENT"),),
    ),
    Claim(
        "ranker_precision",
        ("tests.benchmarks.ranker_precision", f"root={ROOTS}/default"),
        PRECISION,
        (Path(f"{ROOTS}/default/bundles/CURRENT"),),
    ),
    Claim(
        "pixie_in_world",
        ("tests.benchmarks.pixie_in_world", f"root={ROOTS}/default"),
        (
            (
                "walks find what no other source does",
                lambda s: s["sources"]["no other found"]["pixie"] > 0,
            ),
            (
                "all candidates hold no less with them",
                lambda s: sum(s["change"]["0.1 @500"]) >= 0,
            ),
        ),
        (Path(f"{ROOTS}/default/bundles/CURRENT"),),
    ),
    Claim(
        "serve_load",
        ("tests.benchmarks.bench_serve", f"root={ROOTS}/default", "soak=600"),
        LOAD,
        (Path(f"{ROOTS}/default/bundles/CURRENT"),),
    ),
    Claim(
        "post_events",
        ("tests.benchmarks.post_events",),
        (
            (
                "every event is acknowledged",
                lambda s: of_each_store(s, "acknowledged") == {100_000},
            ),
            ("the server is killed on the way", lambda s: min(of_each_store(s, "kills")) >= 1),
            ("none acknowledged is lost", lambda s: of_each_store(s, "lost") == {0}),
            ("none is there twice", lambda s: of_each_store(s, "doubled") == {0}),
            (
                "users are told what was posted of them",
                lambda s: of_each_store(s, "users_told_wrongly") == {0},
            ),
        ),
    ),
    Claim(
        "routing",
        ("tests.benchmarks.bench_routing", f"root={ROOTS}/default"),
        (
            ("no errors", lambda s: s["by user"]["errors"] + s["by load"]["errors"] == 0),
            (
                "by user, 95% of the hits of one replica with all of the memory",
                lambda s: s["by user"]["hits"] >= 0.95 * s["bound"],
            ),
            ("by load, fewer", lambda s: s["by load"]["hits"] < s["by user"]["hits"]),
        ),
        (Path(f"{ROOTS}/default/bundles/CURRENT"),),
    ),
    Claim(
        "serve_faults",
        ("tests.benchmarks.serve_faults", f"root={ROOTS}/default", "rate=10", "users=400"),
        FAULTS,
        (Path(f"{ROOTS}/default/bundles/CURRENT"),),
    ),
)
