"""What the README claims of sweeps (`verify`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.claim import ROOTS, Claim

if TYPE_CHECKING:
    from tests.benchmarks.claim import Summary

MODELS = ("two_tower", "user", "ranker")


def finished(summary: Summary) -> bool:
    """Whether grid, study and the last comparison ran to their ends."""
    return bool(summary["trials"] == 12 + 12 + 3 * 3 and summary["failed"] == 0)


def no_worse(summary: Summary) -> bool:
    """Whether the chosen settings find no less than those that the study began with."""
    name = "recall@10" if "recall@10" in summary["best"]["metrics"] else "click.auc"
    best, start = (summary[who]["metrics"][name]["mean"] for who in ("best", "start"))
    return bool(best >= start)


def sweep(model: str) -> Claim:
    """`make sweep` of a model."""
    name = "sweep" if model == "two_tower" else f"sweep_{model}"
    checks = [("33 trials, none failed", finished), ("best at least the start", no_worse)]
    if model == "two_tower":
        checks += [
            ("at most 10 minutes", lambda s: s["whole_s"] <= 600),
            ("nine tenths of the grid's gain", lambda s: s["recovered"] >= 0.9),
        ]
    words = ("tests.benchmarks.sweep", f"root={ROOTS}/sweep", f"model={model}")
    return Claim(name, words, tuple(checks))


TUNING_CLAIMS: tuple[Claim, ...] = (
    *map(sweep, MODELS),
    Claim(
        "sweep_faults",
        ("tests.benchmarks.sweep_faults", f"root={ROOTS}/sweeps", "kills=5"),
        (
            ("the trials of an uninterrupted run", lambda s: s["equal"]),
            ("nothing run again", lambda s: s["run_again"] == 0),
            ("killed among trials", lambda s: 0 < s["finished_before"] < s["trials"]),
            ("none failed", lambda s: s["failed"] == 0),
        ),
    ),
    Claim(
        "sweep_overhead",
        ("tests.benchmarks.sweep_overhead", f"root={ROOTS}/sweeps"),
        (("at most 1.4", lambda s: s["overhead"] <= 1.4 and s["same_trials"]),),
    ),
)
