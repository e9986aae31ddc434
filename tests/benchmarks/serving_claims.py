"""What the README claims of the server: commands, and what their summaries must show (`verify`)."""

from __future__ import annotations

from tests.benchmarks.claim import Claim, Summary


def of_each_store(summary: Summary, name: str) -> set[int]:
    """A figure of every store that events were posted to."""
    return {found[name] for found in summary["stores"].values()}


SERVING_CLAIMS = (
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
)
