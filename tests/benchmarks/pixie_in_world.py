"""What walks add to the candidates of a served world: `python -m tests.benchmarks.pixie_in_world`.

The bundle of root= is asked for users who liked something on the world's next day, which neither
models nor graph have seen. Told are, by the positives of that day on items that may be served:
- `candidates`: recall of the merged candidates, as the ranker gets them, with the source and
  without, at several shares; the change of recall with the half-width of its 95% interval;
- `sources`: recall of each source's own list, of what it puts into the merged candidates, and the
  positives that no other source found at all;
- `served`: recall and the world's expected utility of an item of the first ten;
- `cost_ms`: processor time of each source.
Words: root=, users= (2000), served= (users whose feeds are ranked, 400). Last line: a JSON object.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.world import generate
from data.world.state import WorldState
from ray_jobs.engine.job import Job, start
from ray_jobs.simulate import latents_folder
from serve.candidates import Found, merge
from serve.feed import Feed
from serve.messages import RecommendRequest
from serve.stages import Trace
from tests.benchmarks.feed_utility import PATIENT, PLACES, by_row

if TYPE_CHECKING:
    from serve.funnel import Funnel

    Ints = np.ndarray

OURS = "pixie"
SHARES = (0.0, 0.05, 0.1, 0.2, 0.4)
DEPTHS = (10, 100, 500)
NONE = np.zeros(0, np.int64)
SETTINGS = replace(PATIENT, explore=0.0)


def liked_next(job: Job, funnel: Funnel) -> dict[int, Ints]:
    """Rows that may be served of what each user first liked on the day after the log."""
    bundle = funnel.bundle
    assert bundle.calendar is not None
    day = bundle.calendar.num_days + 1
    with TemporaryDirectory() as folder:
        generate(job.settings.world, Path(folder), latents_folder(job), range(day, day + 1))
        events = pq.read_table(Path(folder) / "events")
    actions, kinds = bundle.vocabulary.actions, bundle.vocabulary.polarity
    positive = [name for name, kind in zip(actions, kinds, strict=True) if kind == "positive"]
    events = events.filter(pc.is_in(events["action"], pa.array(positive)))
    found: dict[int, Ints] = {}
    users = events["user_id"].to_numpy()
    rows = bundle.item_ids.lookup(events["item_id"].combine_chunks())
    for user in np.unique(users):
        mine = np.unique(rows[users == user])
        found[int(user)] = mine[funnel.catalogue.is_known(mine) & funnel.catalogue.may_serve(mine)]
    return found


def ask(funnel: Funnel, user_id: int) -> tuple[Any, list[Found], dict[str, float]]:
    """The query, what each source finds for it, and the milliseconds that each takes."""
    query = funnel.query(RecommendRequest(user_id=user_id), Trace())
    found, cost = [], {}
    for source in funnel.sources:
        if source.applies(query):
            began = time.thread_time()
            lists = source(query, SETTINGS.candidates)
            cost[source.name] = (time.thread_time() - began) * 1000
            found.append(funnel._servable(lists, query, Trace()))
    return query, found, cost


def candidates_of(found: list[Found], share: float) -> Any:
    """The merged candidates; without the source where its share is 0."""
    asked = [one for one in found if share or one.source != OURS]
    shares = SETTINGS.shares | {OURS: share}
    return merge(asked, NONE, shares, SETTINGS.candidates)


class Tally:
    """Sums over users: hits and positives."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, value: float) -> None:
        self.values[name].append(value)

    def means(self) -> dict[str, float]:
        return {name: round(float(np.mean(v)), 5) for name, v in self.values.items()}

    def change(self, name: str, before: str) -> list[float]:
        """Mean difference over users and the half-width of its 95% interval."""
        apart = np.array(self.values[name]) - np.array(self.values[before])
        half = 1.96 * apart.std() / len(apart) ** 0.5
        return [round(float(apart.mean()), 5), round(float(half), 5)]


@dataclass(slots=True)
class Retrieved:
    """What is added up over users."""

    recall: Tally = field(default_factory=Tally)
    own: Tally = field(default_factory=Tally)
    placed: Tally = field(default_factory=Tally)
    costs: Tally = field(default_factory=Tally)
    alone: Counter[str] = field(default_factory=Counter)
    positives: int = 0

    def add(self, wanted: Ints, found: list[Found], cost: dict[str, float]) -> None:
        """Counts one user."""
        self.positives += len(wanted)
        for share in SHARES:
            merged = candidates_of(found, share)
            for depth in DEPTHS:
                self.recall.add(f"{share:g} @{depth}", hits(wanted, merged.rows[:depth]))
            if share == SETTINGS.shares[OURS]:
                for at, name in enumerate(merged.names):
                    self.placed.add(name, hits(wanted, merged.rows[merged.source == at]))
        for at, one in enumerate(found):
            others = np.concatenate([NONE, *(f.rows for f in found[:at] + found[at + 1 :])])
            mine = np.isin(wanted, one.rows)
            self.own.add(one.source, float(mine.mean()))
            self.alone[one.source] += int((mine & ~np.isin(wanted, others)).sum())
        for name, taken in cost.items():
            self.costs.add(name, taken)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        pairs = [(f"{share:g} @{depth}", f"0 @{depth}") for share in SHARES[1:] for depth in DEPTHS]
        costs = self.costs.values.items()
        return {
            "users": len(self.recall.values["0 @10"]),
            "positives": self.positives,
            "candidates": self.recall.means(),
            "change": {name: self.recall.change(name, before) for name, before in pairs},
            "sources": {
                "own list": self.own.means(),
                "merged": self.placed.means(),
                "no other found": self.alone,
            },
            "cost_ms_p50_p99": {n: np.percentile(v, (50, 99)).round(3).tolist() for n, v in costs},
        }


def hits(wanted: Ints, rows: Ints) -> float:
    """Share of what is wanted that is among the rows."""
    return float(np.isin(wanted, rows).mean())


def retrieved(funnel: Funnel, liked: dict[int, Ints]) -> dict[str, Any]:
    """Recall of candidates, finds by source, cost."""
    sums = Retrieved()
    for user_id, positives in liked.items():
        query, found, cost = ask(funnel, user_id)
        wanted = np.setdiff1d(positives, query.exclude)
        if len(wanted):
            sums.add(wanted, found, cost)
    return sums.told()


def served(job: Job, funnel: Funnel, liked: dict[int, Ints]) -> dict[str, Any]:
    """The first ten after ranking, with the source and without."""
    without, greedy = copy.copy(funnel), funnel.with_settings(replace(SETTINGS, least_share=0.0))
    without.sources = tuple(one for one in funnel.sources if one.name != OURS)
    greedy_without = copy.copy(greedy)
    greedy_without.sources = without.sources
    funnels = {"with": funnel, "without": without}
    funnels |= {"greedy, with": greedy, "greedy, without": greedy_without}
    state = WorldState.load(latents_folder(job), funnel.bundle.calendar.num_days)  # type: ignore[union-attr]
    recall, utility = Tally(), Tally()
    for user_id, positives in liked.items():
        worth = by_row(funnel, state, user_id)
        for name, one in funnels.items():
            query = one.query(RecommendRequest(user_id=user_id), Trace())
            slate = one.slate(query, PLACES, Trace())
            wanted = np.setdiff1d(positives, query.exclude)
            if len(wanted):
                recall.add(name, float(np.isin(wanted, slate.rows).mean()))
            utility.add(name, float(worth[slate.rows].mean()))
    pairs = (("with", "without"), ("greedy, with", "greedy, without"))
    return {
        "recall@10": recall.means(),
        "utility": utility.means(),
        "change of recall": {a: recall.change(a, b) for a, b in pairs},
        "change of utility": {a: utility.change(a, b) for a, b in pairs},
    }


def some(liked: dict[int, Ints], count: int) -> dict[int, Ints]:
    """Users drawn with a fixed seed."""
    drawn = np.random.default_rng(0).permutation(sorted(liked))[:count]
    return {int(user): liked[int(user)] for user in drawn}


def main() -> None:
    """Runs and prints."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    job = start([f"root={given['root']}"])
    feed = Feed(job.root, SETTINGS, background=False)
    try:
        funnel = feed._switch.funnel
        graph = funnel.bundle.graph
        assert graph is not None
        liked = some(liked_next(job, funnel), int(given.get("users", 2000)))
        line = {"name": "pixie_in_world", "edges": graph.num_edges} | retrieved(funnel, liked)
        line["served"] = served(job, funnel, some(liked, int(given.get("served", 400))))
    finally:
        feed.close()
    print(json.dumps(line))


if __name__ == "__main__":
    main()
