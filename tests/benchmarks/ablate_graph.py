"""Arms of the graph encoder: `python -m tests.benchmarks.ablate_graph root=... seeds=3`.

Each arm changes the default in one way. Trained alone (`model=graph`) and judged on the reported
part, users to items; differences to the default are paired by seed, with a t-interval. arms= names
some of them; a log of pairs has arms of its own. users=.2 takes a fifth of the users of
source.events. Finished trials are found again, so an interrupted run goes on. The last line is one
JSON object.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract.artifact import has_current
from data.dataset import Dataset
from ray_jobs.engine.cluster import connect
from ray_jobs.engine.job import Job, start
from ray_jobs.pipeline import raw_tables
from ray_jobs.prepare import prepare
from ray_jobs.tune import TuneArguments
from ray_jobs.tuning.table import table
from ray_jobs.tuning.trial import Plan, Trial, run_trial

if TYPE_CHECKING:
    from collections.abc import Mapping

ARMS: dict[str, dict[str, Any]] = {
    "default": {},
    "no graph": {"graph.edges": "none"},
    "mean pooling": {"graph.pooling": "mean"},
    "max pooling": {"graph.pooling": "max"},
    "attention pooling": {"graph.pooling": "attention"},
    "transformer": {"graph.encoder": "transformer"},
    "propagation": {"graph.encoder": "propagation"},
    # From the first epoch on: 400 steps are less than one.
    "hard negatives": {"graph.negatives.hard": 6, "graph.negatives.hard_from": 0},
    "10 neighbours": {"graph.walk.neighbors": 10},
    "20 neighbours": {"graph.walk.neighbors": 20},
    "k-hop": {"graph.walk.kind": "k_hop"},
    "one objective": {"graph.objectives": ["next_engagement"], "graph.own_feature": 0.0},
}
# A quarter of the passes: they are compared with each other, and cost ten times the default.
SAMPLED = {"graph.encoder": "propagation", "graph.epochs": 5}
OF_PAIRS: dict[str, dict[str, Any]] = {
    "default": {},
    "1 layer": {"graph.num_layers": 1},
    "2 layers": {"graph.num_layers": 2},
    "in-batch negatives": {"graph.negatives.in_batch": 2048, "graph.negatives.random": 0},
    "max margin": {"graph.loss": "max_margin"},
    "sampled": SAMPLED,
    "sampled, 10 neighbours": SAMPLED | {"graph.walk.neighbors": 10},
    "sampled, 20 neighbours": SAMPLED | {"graph.walk.neighbors": 20},
    "sampled, k-hop": SAMPLED | {"graph.walk.kind": "k_hop"},
    "sampled, no graph": SAMPLED | {"graph.edges": "none"},
}
SHOWN = ("recall@10", "recall@20", "ndcg@20", "last_item.hit_rate@10", "last_item.mrr@10")


def trials(job: Job, arms: Mapping[str, dict[str, Any]], seeds: int) -> list[Trial]:
    """Every arm under the first seed before any under the second."""
    return [
        run_trial(job, Plan(choice=words, seed=seed))
        for seed in range(seeds)
        for words in arms.values()
    ]


def thinned(words: dict[str, str], share: float) -> dict[str, str]:
    """The words with a log of some of the users, drawn by seed 0 and written beside the root."""
    table = pq.read_table(words["source.events"])
    users = table["user_id"].combine_chunks().dictionary_encode()
    kept = np.random.default_rng(0).random(len(users.dictionary)) < share
    path = Path(words["root"]) / "sample.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.filter(pa.array(kept[users.indices.to_numpy()])), path)
    return words | {"source.events": str(path)}


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    seeds, chosen = int(words.pop("seeds", "3")), words.pop("arms", "")
    share = float(words.pop("users", "1"))
    words = thinned(words, share) if share < 1 else words
    settings = start([f"{key}={value}" for key, value in words.items()])
    job = Job(settings.settings, TuneArguments(model="graph"), settings.root)
    if not has_current(job.root, "dataset"):
        prepare(job, raw_tables(job))
    connect(2)
    described = Dataset.open(job.root).vocabulary.item_features
    arms = ARMS if described else OF_PAIRS
    arms = {name: arms[name] for name in chosen.split(",")} if chosen else arms
    rows = table(trials(job, arms, seeds), job.settings.tune.level)
    shown = [
        {
            "arm": name,
            "failed": line["failed"],
            "metrics": {name: line["metrics"].get(name) for name in SHOWN},
            "difference": {name: line["difference"].get(name) for name in SHOWN},
        }
        for name, line in zip(arms, rows, strict=True)
    ]
    print(json.dumps({"name": "ablate_graph", "seeds": seeds, "arms": shown}))


if __name__ == "__main__":
    main()
