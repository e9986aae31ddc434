"""What balancing does to feeds that a bundle serves, told by the world itself.

    python -m tests.benchmarks.balance_in_world root=runs/default [users=400] [floors.ad=.3 ...]

Parties of the built-in world: an ad, whose items belong to a campaign and count clicks, and a
merchant, whose items are articles and count clicks and saves. `balance` finds their weights on the
log; then feeds are served before and after, and where each party alone decides. Told is what an
item of the first ten is worth to the user and to each party by the world's own probabilities, on
the day after the log; nothing is drawn. Differences are paired by user. Last line: a JSON object.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from data.dataset import Dataset
from data.world.oracles import expected_actions, known_users
from data.world.population import IdIndex, IdKind
from data.world.settings import ACTIONS
from data.world.state import WorldState
from ray_jobs.balance import BalanceArguments
from ray_jobs.balance import main as balance
from ray_jobs.engine.job import start
from ray_jobs.engine.slates import OWN_BEST
from ray_jobs.simulate import latents_folder
from serve.feed import Feed
from serve.messages import RecommendRequest
from serve.utility import Utility, UtilitySettings
from tests.benchmarks.feed_utility import PATIENT, PLACES, some_users
from tests.benchmarks.intervals import difference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from serve.funnel import Funnel

AD = {"weights": {"click": 1.0}, "column": "campaign_id"}
MERCHANT = {"weights": {"click": 1.0, "save": 1.0}, "column": "format", "values": ["article"]}
PARTIES = {"ad": AD, "merchant": MERCHANT}
FLOORS = ("floors.ad=.2", "floors.merchant=.4")


def main(words: Sequence[str]) -> None:
    """Prints what feeds are worth before and after as JSON."""
    users = [int(word.partition("=")[2]) for word in words if word.startswith("users=")]
    rest = [word for word in words if not word.startswith("users=")]
    floors = () if any(word.startswith("floors.") for word in rest) else FLOORS
    job = start([*rest, *floors, f"serve.utility.parties={json.dumps(PARTIES)}"], BalanceArguments)
    found = balance(job)
    calendar = Dataset.open(job.root).calendar
    assert calendar is not None
    state = WorldState.load(latents_folder(job), calendar.num_days)
    served = {
        name: served_worth(job.root, settings, state, users[0] if users else 400)
        for name, settings in arms(job.settings.serve.utility, found["party_weights"]).items()
    }
    print(json.dumps({"name": "balance_in_world", **told(found, served)}))


def arms(before: UtilitySettings, weights: dict[str, float]) -> dict[str, UtilitySettings]:
    """The utility before and after, and where each party alone decides."""
    best = {f"best of {n}": replace(before, party_weights={n: OWN_BEST}) for n in before.parties}
    return {"before": before, "after": replace(before, party_weights=weights), **best}


def served_worth(root: Path, settings: UtilitySettings, state: WorldState, count: int) -> Any:
    """Mean worth of the first items served to each user, to the user and each party, [U, 1 + P]."""
    feed = Feed(root, replace(PATIENT, utility=settings, log_requests=False), background=False)
    try:
        funnel = feed._switch.funnel
        return np.array([worth_of(feed, funnel, state, user) for user in some_users(funnel, count)])
    finally:
        feed.close()


def worth_of(feed: Feed, funnel: Funnel, state: WorldState, user_id: int) -> Any:
    """Mean worth of ten served items by the world's probabilities, [1 + P]."""
    answer = feed.recommend(RecommendRequest(user_id=user_id, num_items=PLACES))
    ids = [item.item_id for item in answer.items]
    places = IdIndex(len(state.population.items), state.world, IdKind.ITEM).rows(np.array(ids))
    users = known_users(state, np.array([user_id]))
    by_name = dict(zip(ACTIONS, expected_actions(state, users)[:, 0, places], strict=True))
    probabilities = np.stack([by_name[a] for a in funnel.bundle.vocabulary.actions], axis=1)
    utility = Utility.of(feed.settings.utility, funnel.bundle.vocabulary)
    items = funnel.catalogue.features(funnel.catalogue.rows_of(ids), utility.columns)
    parties = utility.of_parties(probabilities, items)
    return np.column_stack([utility.user(probabilities), parties]).mean(axis=0)


def told(found: dict[str, Any], served: dict[str, Any]) -> dict[str, Any]:
    """Means, shares of what each party gets where it alone decides, and paired differences."""
    names = ("user", *PARTIES)
    best = {n: served[f"best of {n}"][:, 1 + i].mean() for i, n in enumerate(PARTIES)}
    worth = {
        name: dict(zip(names, served[name].mean(axis=0).round(5).tolist(), strict=True))
        for name in ("before", "after")
    }
    return {
        "users": len(served["before"]),
        "weights": found["party_weights"],
        "logged": {key: found[key] for key in ("before", "chosen", "held_out")},
        "worth": worth,
        "shares": {
            name: {n: round(float(worth[name][n] / best[n]), 4) for n in PARTIES} for name in worth
        },
        "difference": {
            name: difference([served["after"][:, i]], [served["before"][:, i]])
            for i, name in enumerate(names)
        },
    }


if __name__ == "__main__":
    main(sys.argv[1:])
