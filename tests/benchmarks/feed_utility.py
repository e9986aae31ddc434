"""What people would do with the feeds that a bundle serves, told by the world itself.

    python -m tests.benchmarks.feed_utility root=runs/default [users=400]

For users of the built-in world: the expected utility of one item of the served feed's first ten, on
the day after the log, beside the same where no source has a least share of it (`chosen`: what is
given up is the price of exploring), the retriever's own first ten, popular ones, the best there are
(`oracle_truth`) and items at random. Nothing is drawn: probabilities are the world's. Last line: a
JSON object with the mean utility of each.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from data.dataset import Dataset
from data.world.oracles import expected_utility, known_users
from data.world.population import IdIndex, IdKind
from data.world.state import WorldState
from ray_jobs.engine.job import start
from ray_jobs.simulate import latents_folder
from serve.feed import Feed
from serve.funnel import Funnel
from serve.messages import RecommendRequest
from serve.settings import ServeSettings
from serve.sources import TwoTower
from serve.stages import Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.contract.encode import Ints
    from serve.users import User

PLACES = 10
LEAST_EVENTS = 30
PATIENT = ServeSettings(budget_ms=60_000.0, deadlines_ms={"default": 30_000.0}, clock="log")
GREEDY = replace(PATIENT, least_share=0.0)


def main(words: Sequence[str]) -> None:
    """Prints the mean utilities as JSON."""
    given = dict(word.split("=", 1) for word in words)
    job = start([f"root={given['root']}"])
    calendar = Dataset.open(job.root).calendar
    assert calendar is not None
    state = WorldState.load(latents_folder(job), calendar.num_days)
    feed = Feed(job.root, PATIENT, background=False)
    try:
        funnel = feed._switch.funnel
        chosen = some_users(funnel, int(given.get("users", 400)))
        greedy = Funnel(funnel.bundle, feed.store, funnel._fanout, GREEDY, funnel.utility)
        found = [utilities(feed, greedy, funnel, state, user) for user in chosen]
    finally:
        feed.close()
    means = {name: round(float(np.mean([f[name] for f in found])), 4) for name in found[0]}
    print(json.dumps({"name": "feed_utility", "users": len(found)} | means))


def some_users(funnel: Funnel, count: int) -> list[int]:
    """External ids of users with a history, drawn with a fixed seed."""
    rows = np.flatnonzero(np.diff(funnel.bundle.histories.offsets) >= LEAST_EVENTS)
    drawn = np.random.default_rng(0).choice(rows, min(count, len(rows)), replace=False)
    ids: list[int] = funnel.bundle.user_ids.external(drawn).to_pylist()
    return ids


def utilities(
    feed: Feed, greedy: Funnel, funnel: Funnel, state: WorldState, user_id: int
) -> dict[str, float]:
    """Mean expected utility of ten items by where they come from."""
    utility = by_row(funnel, state, user_id)
    user = funnel.users.read(user_id, feed.store, funnel.clock.now_ms())
    fresh = np.setdiff1d(np.asarray(funnel.bundle.live_items), user.seen)
    request = RecommendRequest(user_id=user_id, num_items=PLACES)
    answer, query = feed.recommend(request), funnel.query(request, Trace())
    rows = {
        "served": funnel.catalogue.rows_of([item.item_id for item in answer.items]),
        "chosen": greedy.slate(query, PLACES, Trace()).rows,
        "retrieved": TwoTower(funnel.catalogue)(query, PLACES).rows,
        "popular": unseen(funnel.bundle.popular, user),
        "oracle_truth": fresh[np.argsort(-utility[fresh])[:PLACES]],
        "random": np.random.default_rng(user_id).choice(fresh, PLACES),
    }
    return {name: float(utility[taken].mean()) for name, taken in rows.items()}


def by_row(funnel: Funnel, state: WorldState, user_id: int) -> np.ndarray:
    """Expected utility of every item row for a user, [rows]."""
    bundle = funnel.bundle
    live = np.asarray(bundle.live_items)
    index = IdIndex(len(state.population.items), state.world, IdKind.ITEM)
    places = index.rows(np.asarray(bundle.item_ids.external(live)))
    utility = np.zeros(bundle.item_ids.rows)
    utility[live] = expected_utility(state, known_users(state, np.array([user_id])))[0, places]
    return utility


def unseen(rows: Ints, user: User) -> Ints:
    """The first ten that the user has not touched."""
    kept: Ints = np.asarray(rows)[~np.isin(rows, user.seen)][:PLACES]
    return kept


if __name__ == "__main__":
    main(sys.argv[1:])
