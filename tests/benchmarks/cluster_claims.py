"""What the README claims of clusters (`verify`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.claim import Claim

if TYPE_CHECKING:
    from tests.benchmarks.claim import Summary

PARTS = ("training", "sampling", "shrink")


def sizes(summary: Summary, part: str) -> list[int]:
    """Workers of each group that was started."""
    return [int(size) for size in summary[part]["groups_started"]]


def recall_is_near(summary: Summary) -> bool:
    """Whether a training that lost a node finds what one that lost none does, within a tenth."""
    found, alone = (summary["training"][f"recall@50{name}"] for name in ("", "_alone"))
    return bool(abs(found - alone) <= 0.1 * alone)


CLUSTER_CLAIMS: tuple[Claim, ...] = (
    Claim(
        "two_nodes",
        ("tests.benchmarks.two_nodes",),
        (
            ("jobs end SUCCEEDED", lambda s: all(s[part]["succeeded"] for part in PARTS)),
            (
                "the lost node took part",
                lambda s: all(s[part]["files_of_the_lost_node"] for part in PARTS),
            ),
            (
                "rows counted once",
                lambda s: s["training"]["rows"] == s["training"]["rows_alone"],
            ),
            ("recall within a tenth", recall_is_near),
            ("the group is started again whole", lambda s: sizes(s, "training") == [2, 2]),
            ("shards as without a loss", lambda s: s["sampling"]["equal"]),
            (
                "without another node with fewer",
                lambda s: sizes(s, "shrink")[-1] < sizes(s, "shrink")[0],
            ),
        ),
    ),
)
