"""What a source that is too slow costs people, beside what they have from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from data.dataset import Dataset
from data.world.state import WorldState
from ray_jobs.engine.job import start
from ray_jobs.simulate import latents_folder
from serve.feed import Feed
from serve.settings import ServeSettings
from serve.sources import TwoTower
from tests.benchmarks.fault_servers import faulty
from tests.benchmarks.feed_utility import PLACES, by_row, some_users
from tests.benchmarks.intervals import difference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from serve.funnel import Funnel
    from tests.benchmarks.fault_servers import Server

    Feeds = list[tuple[Any, list[Any]]]

# Too little for any answer: the source is switched off.
OFF = {"deadlines_ms": {"default": 300.0, TwoTower.name: 0.001}}


def costs(world: Path, root: Path, server: Server, flag: Path, count: int) -> dict[str, Any]:
    """Expected utility of the same users' feeds with a source, while it is slow, and without it.

    Args:
        world: the root whose world tells; only read.
        root: the one that is served.
        server: of the root.
        flag: makes the source slow.
        count: of users.
    """
    with FeedOfRoot(root) as funnel:
        users = some_users(funnel, count)
        feeds = {"with": feeds_of(server, users)}
        flag.touch()
        feeds["slow"] = feeds_of(server, users)
        flag.unlink()
        with faulty(root, flag.parent, OFF) as other:
            feeds["without"] = feeds_of(other, users)
        job = start([f"root={world}"])
        calendar = Dataset.open(world).calendar
        assert calendar is not None
        state = WorldState.load(latents_folder(job), calendar.num_days)
        utility = worth(funnel, state, users, feeds)
    outcomes = {name: counted(found) for name, found in feeds.items()}
    means = {name: round(float(found.mean()), 4) for name, found in utility.items()}
    gained = difference([utility["with"]], [utility["without"]])
    lost = difference([utility["with"]], [utility["slow"]])
    beyond = difference([utility["without"]], [utility["slow"]])
    return {
        "users": len(users),
        "outcomes": outcomes,
        "mean": means,
        "contribution": gained,
        "fall": lost,
        "fall beyond contribution": beyond,
    }


class FeedOfRoot:
    """The funnel over a root, to look items up, while a server has it too."""

    def __init__(self, root: Path) -> None:
        self._feed = Feed(root, ServeSettings(log_requests=False), background=False)

    def __enter__(self) -> Funnel:
        return self._feed._switch.funnel

    def __exit__(self, *_: object) -> None:
        self._feed.close()


def feeds_of(server: Server, users: Sequence[int]) -> Feeds:
    """The fallback and the items of each user's feed."""
    bodies = ({"user_id": user, "num_items": PLACES} for user in users)
    answers = (server.post("/v1/recommend", body).json() for body in bodies)
    return [(a["fallback"], [item["item_id"] for item in a["items"]]) for a in answers]


def worth(
    funnel: Funnel, state: WorldState, users: Sequence[int], feeds: dict[str, Feeds]
) -> dict[str, Any]:
    """Mean expected utility of each user's items, [users] of each kind of feeds."""
    found: dict[str, list[float]] = {name: [] for name in feeds}
    for at, user in enumerate(users):
        utility = by_row(funnel, state, user)
        for name, of_users in feeds.items():
            rows = funnel.catalogue.rows_of(of_users[at][1])
            found[name].append(float(utility[rows].mean()))
    return {name: np.array(values) for name, values in found.items()}


def counted(feeds: Feeds) -> dict[str, int]:
    """Feeds by outcome."""
    kinds = [kind or "full" for kind, _ in feeds]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}
