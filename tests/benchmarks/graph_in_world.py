"""Is the retriever better with graph embeddings: `python -m tests.benchmarks.graph_in_world`.

On the world of root= (made if absent), under seeds= seeds, the retriever is trained with graph
embeddings among its items' columns and without. Recall@10 of the reported days, all users: of all
positives, of items older than the end of the graph's window, and of those created after it, which
the encoder has never seen; also with the items of an age ranked among themselves, as the two
compete for the same ten places. Intervals are over users, paired; the last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from data.contract.artifact import has_current
from data.queries import build_queries
from data.ranking import Catalogue, rank
from data.slices import Slice, slice_recall
from data.sources import world_tables
from data.splits import TEST, TRAIN, VALID
from data.trends import Trends
from models.metrics import per_query
from ray_jobs.engine.cluster import connect
from ray_jobs.engine.inference import Retriever
from ray_jobs.engine.job import start
from ray_jobs.engine.subject import Subject
from ray_jobs.prepare import prepare
from ray_jobs.simulate import simulate
from ray_jobs.train import train
from tests.benchmarks.arms import changed
from tests.benchmarks.intervals import difference

if TYPE_CHECKING:
    from data.queries import Queries
    from data.ranking import Scorer
    from ray_jobs.engine.job import Job

K = 10
AGES = ("older", "after the graph's window")


@dataclass(frozen=True)
class Found:
    """Recall of one retriever: of each query, and pooled by the age of items.

    `by_age` ranks the whole catalogue, `within_age` the items of that age alone.
    """

    recall: Any
    by_age: list[float | None]
    within_age: list[float | None]
    positives: list[int]


def judged(job: Job, seed: int, graph: bool, mode: str = "materialised") -> Found:
    """Trains one retriever and judges it."""
    words = {"two_tower.graph_vectors": graph, "graph.sampling": mode}
    return judged_retriever(changed(job, words, seed))


def judged_retriever(own: Job) -> Found:
    """Trains a retriever and ranks the catalogue for all users of the reported part."""
    subject, queries, retriever = trained_retriever(own)
    return judged_by_age(subject, queries, retriever.scores)


def trained_retriever(own: Job) -> tuple[Subject, Queries, Retriever]:
    """A retriever, what it is to be judged on, and all users of the reported part."""
    trained = train(own, "two_tower", move_pointer=False)
    subject = Subject.open(own, ("two_tower",), {"two_tower": trained})
    queries = build_queries(subject.log, TEST, 1_000_000)
    trends = Trends.of(subject.log, (TRAIN, VALID))
    return subject, queries, Retriever.open(trained, subject.log.dataset, trends)


def judged_by_age(subject: Subject, queries: Queries, scorer: Scorer) -> Found:
    windows, calendar = subject.log.windows, subject.log.dataset.calendar
    assert windows is not None
    assert calendar is not None
    catalogue = Catalogue.of(subject.log.dataset)
    after = catalogue.created_at >= calendar.start_ms(windows.graph[1] + 1)
    ages = Slice("age", AGES, lambda _, item: np.stack([~after[item], after[item]], axis=1))
    ranking = rank(scorer, queries, catalogue, K)
    sliced = slice_recall(ages, ranking, queries, K)
    recall = per_query(ranking.hits, ranking.num_positives, K)[f"recall@{K}"]
    alone = [replace(catalogue, live=catalogue.live & part) for part in (~after, after)]
    within = [
        slice_recall(ages, rank(scorer, queries, part, K), queries, K).recall[number]
        for number, part in enumerate(alone)
    ]
    return Found(recall, sliced.recall, within, sliced.positives.tolist())


def row(found: Found) -> dict[str, Any]:
    """What is printed of one retriever."""
    mean = {f"recall@{K}": float(found.recall.mean())}
    within = {
        f"{age}, among themselves": value for age, value in zip(AGES, found.within_age, strict=True)
    }
    return mean | dict(zip(AGES, found.by_age, strict=True)) | within


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    seeds = int(words.pop("seeds", "3"))
    job = start([f"{key}={value}" for key, value in words.items()])
    if not has_current(job.root, "dataset"):
        prepare(job, world_tables(simulate(job).path))
    connect(2)
    arms = {
        name: [judged(job, seed, graph) for seed in range(seeds)]
        for name, graph in (("with", True), ("without", False))
    }
    other_mode = judged(job, 0, graph=True, mode="on_the_fly")
    line = {
        "name": "graph_in_world",
        "seeds": seeds,
        "users": len(arms["with"][0].recall),
        "positives": dict(zip(AGES, arms["with"][0].positives, strict=True)),
        **{name: [row(found) for found in made] for name, made in arms.items()},
        "on_the_fly": row(other_mode),
        "difference": difference(
            *([found.recall for found in arms[name]] for name in ("with", "without"))
        ),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
