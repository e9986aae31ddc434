"""What the README claims of clusters (`verify`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.claim import ROOTS, Claim, world_checks
from tests.benchmarks.fault_phases import FEEDS, share

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


def trials_are_equal(summary: Summary) -> bool:
    """Whether a sweep that lost a node finds in all its trials what one that lost none does."""
    found, alone = (summary["tuning"][f"recall@10{name}"] for name in ("", "_alone"))
    return bool(not summary["tuning"]["failed"] and found == alone)


GPU = Path("/dev/nvidia0")
MEASURED = "ray_jobs/planning/measured.json"  # sizes that it lacks of this commit are run
CLUSTER_CLAIMS: tuple[Claim, ...] = (
    Claim(
        "growth",
        ("tests.benchmarks.growth", f"folder={ROOTS}/growth", f"measured={MEASURED}"),
        (
            ("100M events in 6 GiB", lambda s: s["peak_mib"] <= 6 << 10),
            ("which the kernel held them to", lambda s: s["cap_gib"] == 6),
            (
                "memory foretold from two smaller logs within 15%",
                lambda s: abs(s["predicted"]["largest"]["error"]) <= 0.15,
            ),
        ),
    ),
    Claim(
        "gpu",
        (
            *("ray_jobs.pipeline", f"root={ROOTS}/gpu"),
            *("train.num_workers=1", "serve.placement=mixed"),
        ),
        world_checks(10),
        (GPU,),
    ),
    Claim(
        "two_nodes",
        ("tests.benchmarks.two_nodes", f"parts={','.join(PARTS)}"),
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
    Claim(
        "two_nodes_serve",
        ("tests.benchmarks.two_nodes", "parts=tuning,serving"),
        (
            ("the sweep ends SUCCEEDED", lambda s: s["tuning"]["succeeded"]),
            ("the lost node took part", lambda s: s["tuning"]["files_of_the_lost_node"] > 0),
            ("trials as without a loss", trials_are_equal),
            (
                "99% of the requests get a feed",
                lambda s: share(s["serving"]["phases"].values(), FEEDS) >= 0.99,
            ),
            ("a replica on each node", lambda s: len(set(s["serving"]["disks"][0])) == 2),
            ("two again", lambda s: len(s["serving"]["disks"][1]) == 2),
        ),
    ),
)
