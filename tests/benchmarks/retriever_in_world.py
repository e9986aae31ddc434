"""Arms of the retriever: `python -m tests.benchmarks.retriever_in_world root=... seeds=3`.

In the world of root= (made if absent) the retriever is trained in several ways, each a change of
one thing. Recall@10 of the reported days over all users, of all positives, by the age of items and
by how broad a user's interests are; and what a request for one interest finds.
Differences from the default are paired by user. arms= names some arms; finished ones are found
again, so an interrupted run goes on. Each core works on an arm of its own, after the models that
retrievers are built on. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data.contract.artifact import has_current
from data.dataset import Dataset
from data.sources import world_tables
from ray_jobs.embed import embed
from ray_jobs.engine.job import start
from ray_jobs.engine.model_kinds import reads_graph
from ray_jobs.prepare import prepare
from ray_jobs.sample import Cutoff, log_of
from ray_jobs.simulate import simulate
from ray_jobs.train import sources_of, upstream
from tests.benchmarks.arms import changed, on_each_core
from tests.benchmarks.asked_for import BREADTHS, breadth, under_conditions
from tests.benchmarks.graph_in_world import (
    AGES,
    Found,
    judged_by_age,
    row,
    trained_retriever,
)
from tests.benchmarks.intervals import difference

if TYPE_CHECKING:
    from ray_jobs.engine.job import Job

DEFAULT = "default"
FROZEN = "rows frozen and half dropped"
PARTS: dict[str, dict[str, Any]] = {
    "one vector": {"two_tower.interests.num": 0},
    "without graph vectors": {"two_tower.graph_vectors": False},
    "with user vectors": {"two_tower.user_vectors": True},
    FROZEN: {"two_tower.id_rows": "frozen", "two_tower.id_dropout": 0.5},
    "two mixed layers": {"two_tower.crossing.layers": ["mlp+masks", "masks+fields+cross"]},
    "conditions": {"two_tower.condition_share": 0.25},
}
LATE = {"windows.id": [1, 152], "windows.overlap": True}
ROWS: dict[str, dict[str, Any]] = {
    FROZEN: PARTS[FROZEN],
    "rows frozen": {"two_tower.id_rows": "frozen", "two_tower.id_dropout": 0.0},
    "rows fine-tuned": {"two_tower.id_rows": "fine_tuned"},
}
ROWS |= {f"{name} of the same days": words | LATE for name, words in ROWS.items()}
INTERESTS: dict[str, dict[str, Any]] = {
    "5 interests": {"two_tower.interests.num": 5},
    "7 interests": {"two_tower.interests.num": 7},
    "without far starts": {"two_tower.interests.start": "newest"},
    "with soft routing": {"two_tower.interests.routing": "soft"},
    "neither": {"two_tower.interests.start": "newest", "two_tower.interests.routing": "soft"},
    "by MIND's routing": {"two_tower.interests.kind": "routing"},
    "by heads": {"two_tower.interests.kind": "heads"},
}
ARMS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    **PARTS,
    **ROWS,
    **INTERESTS,
    "masks": {"two_tower.crossing.layers": ["masks"]},
    "fields": {"two_tower.crossing.layers": ["fields"]},
}


@dataclass(frozen=True)
class Judged:
    """An arm: by age of items, by the breadth of users, and where requests name an interest."""

    found: Found
    by_breadth: dict[str, float]
    asked: dict[str, float]


def judged_by_words(words: list[str], name: str, seed: int) -> Judged:
    """An arm in a process of its own."""
    subject, queries, retriever = trained_retriever(changed(start(words), ARMS[name], seed))
    found, dataset = judged_by_age(subject, queries, retriever.scores), subject.log.dataset
    group = breadth(dataset, queries)
    means = {
        name: float(found.recall[group == number].mean()) for number, name in enumerate(BREADTHS)
    }
    return Judged(found, means, under_conditions(retriever, dataset, queries))


def built_on(job: Job, names: list[str], seeds: int) -> None:
    """Makes what the arms are trained on and judged with, once for all of them."""
    dataset = Dataset.open(job.root)
    for seed in range(seeds):
        for name in names:
            own = changed(job, ARMS[name], seed)
            sources_of(own, dataset, "two_tower", alone=False)
            if reads_graph(own.settings, "two_tower"):
                cutoff = Cutoff.before_test(log_of(own, dataset).windows)
                embed(own, dataset, upstream(own, dataset, "graph"), cutoff)


def mean_row(arm: list[Judged], against: list[Judged]) -> dict[str, Any]:
    """What is printed of an arm: means over seeds."""
    rows = [row(one.found) | one.by_breadth | one.asked for one in arm]
    means: dict[str, Any] = {key: float(np.mean([one[key] for one in rows])) for key in rows[0]}
    if arm is not against:
        columns = ([one.found.recall for one in made] for made in (arm, against))
        means["difference"] = difference(*columns)
    return means


def main() -> None:
    """Runs and prints."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    seeds, chosen = int(given.pop("seeds", "3")), given.pop("arms", "")
    words = [f"{key}={value}" for key, value in given.items()]
    job = start(words)
    if not has_current(job.root, "dataset"):
        prepare(job, world_tables(simulate(job).path))
    names = list(dict.fromkeys([DEFAULT, *(chosen.split(",") if chosen else ARMS)]))
    built_on(job, names, seeds)
    arms = on_each_core(judged_by_words, (words,), names, seeds)
    line = {
        "name": "retriever_in_world",
        "seeds": seeds,
        "users": len(arms[DEFAULT][0].found.recall),
        "positives": dict(zip(AGES, arms[DEFAULT][0].found.positives, strict=True)),
        "arms": {name: mean_row(arm, arms[DEFAULT]) for name, arm in arms.items()},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
