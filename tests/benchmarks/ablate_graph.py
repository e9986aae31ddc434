"""Arms of the graph encoder: `python -m tests.benchmarks.ablate_graph root=... seeds=3`.

Each arm changes the default in one way. Trained alone (`model=graph`) and judged on the reported
part, users to items; differences to the default are paired by seed, with a t-interval. arms= names
some of them; on a log of pairs those that need columns, boards or an order are left out. Finished
trials are found again, so an interrupted run goes on. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from data.contract.artifact import has_current
from data.contract.settings import build, merge, nest, to_tree
from data.dataset import Dataset
from ray_jobs.engine.cluster import connect
from ray_jobs.engine.grid import Trial, table
from ray_jobs.engine.job import Job, start
from ray_jobs.pipeline import raw_tables
from ray_jobs.prepare import prepare
from ray_jobs.settings import Settings
from ray_jobs.tune import Plan, TuneArguments, run_trial

ARMS: dict[str, dict[str, Any]] = {
    "default": {},
    "no graph": {"graph.edges": "none"},
    "mean pooling": {"graph.pooling": "mean"},
    "max pooling": {"graph.pooling": "max"},
    "attention pooling": {"graph.pooling": "attention"},
    "transformer": {"graph.encoder": "transformer"},
    "propagation": {"graph.encoder": "propagation"},
    "hard negatives": {"graph.negatives.hard": 6},
    "10 neighbours": {"graph.walk.neighbors": 10},
    "20 neighbours": {"graph.walk.neighbors": 20},
    "k-hop": {"graph.walk.kind": "k_hop"},
    "one objective": {"graph.objectives": ["next_engagement"], "graph.own_feature": 0.0},
}
OF_PAIRS = ("default", "no graph", "10 neighbours", "20 neighbours", "k-hop", "hard negatives")
SHOWN = ("recall@10", "recall@20", "ndcg@20", "last_item.hit_rate@10", "last_item.mrr@10")


def trials(job: Job, names: list[str], seeds: int) -> list[Trial]:
    """Every arm under the first seed before any under the second."""
    found = []
    for seed in range(seeds):
        for name in names:
            tree = merge(to_tree(job.settings), {"seed": seed})
            for key, value in ARMS[name].items():
                tree = merge(tree, nest(key, value))
            plan = Plan({"arm": name}, seed, build(Settings, tree))
            found.append(run_trial(job, plan, f"{name}, seed {seed}"))
    return found


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    seeds, chosen = int(words.pop("seeds", "3")), words.pop("arms", "")
    settings = start([f"{key}={value}" for key, value in words.items()])
    job = Job(settings.settings, TuneArguments(model="graph"), settings.root)
    if not has_current(job.root, "dataset"):
        prepare(job, raw_tables(job))
    connect(2)
    described = Dataset.open(job.root).vocabulary.item_features
    names = chosen.split(",") if chosen else [*(ARMS if described else OF_PAIRS)]
    rows = table(trials(job, names, seeds), job.settings.tune.level)
    shown = [
        {
            "arm": line["settings"]["arm"],
            "failed": line["failed"],
            "metrics": {name: line["metrics"].get(name) for name in SHOWN},
            "difference": {name: line["difference"].get(name) for name in SHOWN},
        }
        for line in rows
    ]
    print(json.dumps({"name": "ablate_graph", "seeds": seeds, "arms": shown}))


if __name__ == "__main__":
    main()
