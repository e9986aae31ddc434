"""Arms of the user model: `python -m tests.benchmarks.user_in_world root=... seeds=3`.

In the world of root= (made if absent; world.preset=drift0, drift1, drift2 differ in how often
interests change) the user model is trained alone in several ways, each a change of one thing.
Judged on users whom no arm has learnt from: recall@10 of the fourteen reported days from one vector
as of their start, and how many items make 90% of all lists. Then the same positives one by one,
from a vector as of the start, of the midnight before, and of the moment: what refreshing
once and daily cost. Differences are paired by user. arms= names some arms; finished ones are found
again, so an interrupted run goes on. Each core works on an arm of its own. All arms take the same
steps against as many negatives, fewer of both than by default. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data.contract.artifact import has_current
from data.graph.pruning import first_interests
from data.pinnersage import PinnerSage, PinnerSageSettings
from data.queries import build_queries
from data.ranking import Catalogue, rank
from data.refresh import CADENCES
from data.sources import world_tables
from data.splits import TEST
from models.metrics import per_query, retrieval_metrics
from ray_jobs.engine.inference import Retriever
from ray_jobs.engine.job import start
from ray_jobs.engine.subject import Subject
from ray_jobs.engine.user_evaluation import asked_users, share_found
from ray_jobs.prepare import prepare
from ray_jobs.simulate import simulate
from ray_jobs.train import train
from tests.benchmarks.arms import changed, on_each_core
from tests.benchmarks.intervals import difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.ranking import Scorer
    from ray_jobs.engine.job import Job

K, CLUSTERS = 10, (5, 20)
MOST_USERS = 5000
DENSE, SASREC = "dense all action", "sasrec"
KNOWN = ("action", "surface", "time", "clock", "duration", "position")


def _without(*names: str) -> dict[str, Any]:
    return {"user.inputs": [name for name in KNOWN if name not in names]}


def _pool(in_batch: int, random: int, log_q: bool = True) -> dict[str, Any]:
    sizes = {"user.negatives.in_batch": in_batch, "user.negatives.random": random}
    return sizes | {"user.negatives.log_q": log_q}


OBJECTIVES: dict[str, dict[str, Any]] = {
    DENSE: {"user.objective": "dense_all_action"},
    "all action": {"user.objective": "all_action"},
    SASREC: {"user.objective": "sasrec"},
    "next action": {"user.objective": "next_action"},
}
NEGATIVES: dict[str, dict[str, Any]] = {
    "in-batch negatives": _pool(1024, 0),
    "random negatives": _pool(0, 1024),
    "no logQ": _pool(512, 512, log_q=False),
}
INPUTS: dict[str, dict[str, Any]] = {
    "no time": _without("time", "clock"),
    "no action": _without("action"),
    "no surface": _without("surface"),
    "no duration": _without("duration"),
    "no position": _without("position"),
}
ARMS = OBJECTIVES | NEGATIVES | INPUTS
SHARED = {"split.eval_users": "0.2", "user.epochs": "2"}
SHARED |= {"user.negatives.in_batch": "512", "user.negatives.random": "512"}
# Not among the twelve: one action each, as in PinnerFormer's table 5, SASRec's first loss, and
# item embeddings of the graph as of its own window.
MORE: dict[str, dict[str, Any]] = {
    "only save": {"user.positives": ["save"]},
    "only click": {"user.positives": ["click"]},
    "only closeup": {"user.positives": ["closeup"]},
    "graph vectors": {"user.graph_vectors": True},
    "binary sasrec": {"user.objective": "sasrec"}
    | {"user.negatives.loss": "binary"}
    | _pool(0, 1024, log_q=False),
}


@dataclass(frozen=True)
class Judged:
    """One way to retrieve, under one seed.

    Attributes:
        recall: of each user, float64[users].
        coverage: share of the items that makes 90% of all lists.
        entropy: mean entropy of the interests of a list, nats.
        by_cadence: share of a user's positives found, by how fresh the vector was.
        by_action: the same from a vector as of the start, by what was done.
    """

    recall: Any
    coverage: float
    entropy: float
    by_cadence: dict[str, Any]
    by_action: dict[str, Any]


def judged(subject: Subject, scorer: Scorer, more: Sequence[str] = ()) -> Judged:
    """Ranks the catalogue for the users kept apart; `more`: cadences, actions."""
    log = subject.log
    catalogue = Catalogue.of(subject.log.dataset)
    queries = build_queries(subject.log, TEST, MOST_USERS)
    ranking = rank(scorer, queries, catalogue, K)
    hits, counts = ranking.hits, ranking.num_positives
    classes = first_interests(subject.log.dataset)
    found = retrieval_metrics(ranking.items, hits, counts, catalogue.num_items, (K,), classes)
    users = asked_users(log) if more else np.zeros(0, np.int64)
    actions = log.dataset.vocabulary.actions
    fresh: dict[str, Any] = {
        name: share_found(log, scorer, users, name, log.positive_codes, K)
        for name in CADENCES
        if "cadences" in more
    }
    done: dict[str, Any] = {
        actions[code - 1]: share_found(log, scorer, users, "once", [code], K)
        for code in log.positive_codes
        if "actions" in more
    }
    recall = per_query(hits, counts, K)[f"recall@{K}"]
    coverage, entropy = (found[f"{name}@{K}"] for name in ("p90_coverage", "interest_entropy"))
    return Judged(recall, coverage, entropy, fresh, done)


def trained(job: Job, words: dict[str, Any], seed: int) -> Subject:
    """An arm under a seed, and what it is judged on."""
    own = changed(job, words, seed)
    artifact = train(own, "user", move_pointer=False, alone=True)
    return Subject.open(own, ("user",), {"user": artifact})


def judged_arm(job: Job, name: str, seed: int, more: Sequence[str]) -> Judged:
    """Trains an arm, or finds it trained, and judges it."""
    subject = trained(job, (ARMS | MORE)[name], seed)
    retriever = Retriever.open(subject.models["user"], subject.log.dataset, None)
    return judged(subject, retriever.scores, more)


def clustered(job: Job, clusters: int) -> Judged:
    """PinnerSage on the same users; it learns nothing, so that one seed is all."""
    subject = Subject.open(job, (), {})
    fitted = PinnerSage.fit(subject.log.dataset, PinnerSageSettings(clusters=clusters))
    assert fitted is not None
    return judged(subject, fitted.scores)


def row(arm: list[Judged], against: list[Judged] | None) -> dict[str, Any]:
    """What is printed of an arm."""
    found: dict[str, Any] = {
        f"recall@{K}": float(np.mean([one.recall.mean() for one in arm])),
        f"p90_coverage@{K}": float(np.mean([one.coverage for one in arm])),
        f"interest_entropy@{K}": float(np.mean([one.entropy for one in arm])),
        "cadence": {
            name: float(np.mean([one.by_cadence[name].mean() for one in arm]))
            for name in arm[0].by_cadence
        },
        "by_action": {
            name: float(np.mean([one.by_action[name].mean() for one in arm]))
            for name in arm[0].by_action
        },
    }
    if against is not None:
        columns = ([one.recall for one in made] for made in (arm, against))
        found["difference"] = difference(*columns)
    return found


def losses(arms: dict[str, list[Judged]]) -> dict[str, Any]:
    """What a daily vector loses against a fresh one, and how much more sasrec loses by it."""
    found = {
        name: [one.by_cadence["realtime"] - one.by_cadence["daily"] for one in arms[name]]
        for name in (DENSE, SASREC)
        if name in arms and arms[name][0].by_cadence
    }
    shown: dict[str, Any] = {
        f"realtime - daily, {name}": difference(loss, [0 * each for each in loss])
        for name, loss in found.items()
    }
    if len(found) == 2:
        shown["sasrec loses more by"] = difference(found[SASREC], found[DENSE])
    return shown


def judged_by_words(words: list[str], names: list[str], name: str, seed: int) -> Judged:
    """An arm among others, in a process of its own."""
    return judged_arm(start(words), name, seed, more_of(name, names))


def more_of(name: str, names: Sequence[str]) -> tuple[str, ...]:
    """What an arm is judged by beside its recall, where those it is compared with are among us."""
    cadences = name in (DENSE, SASREC) and SASREC in names
    actions = name in (DENSE, *MORE) and any(other in MORE for other in names)
    return ("cadences",) * cadences + ("actions",) * actions


def main() -> None:
    """Runs and prints."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    seeds, chosen = int(given.pop("seeds", "3")), given.pop("arms", "")
    words = [f"{key}={value}" for key, value in (SHARED | given).items()]
    job = start(words)
    if not has_current(job.root, "dataset"):
        prepare(job, world_tables(simulate(job).path))
    names = chosen.split(",") if chosen else list(ARMS)
    arms = on_each_core(judged_by_words, (words, names), names, seeds)
    pinnersage = {f"pinnersage_{n}": [clustered(job, n)] * seeds for n in CLUSTERS}
    default = arms.get(DENSE)
    line = {
        "name": "user_in_world",
        "preset": job.settings.world.preset,
        "seeds": seeds,
        "epochs": job.settings.user.epochs,
        "users": len(next(iter(arms.values()))[0].recall),
        "arms": {
            name: row(arm, default if name != DENSE else None)
            for name, arm in (arms | pinnersage).items()
        },
        "refresh": losses(arms),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
