"""Items that training never saw: `python -m tests.benchmarks.cold_items data=... root=...`.

A tenth of MovieLens-1M's movies are taken out of the training log, and each user is asked for those
of them that they rated. The retriever learns with the movies' columns and sentence vectors, with
the columns alone, and with neither. Recall over all movies, of which nine tenths can be known from
training, and among the new ones alone. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.queries import build_queries
from data.ranking import Catalogue, rank
from data.sources import locate
from data.splits import TEST
from models.metrics import per_query
from ray_jobs.engine.cluster import connect
from ray_jobs.engine.inference import Retriever
from ray_jobs.engine.job import start
from ray_jobs.engine.subject import Subject
from ray_jobs.prepare import prepare
from ray_jobs.train import train

if TYPE_CHECKING:
    from data.dataset import Dataset

KS = (10, 50)
SHARE, VALID_SHARE = 0.1, 0.05
ARMS = {"columns and content": ("items", "content"), "columns": ("items",), "ids alone": ()}


def with_parts(events: Path, folder: Path) -> tuple[Path, Any]:
    """The log with a column that holds out a tenth of the movies, and these."""
    table, rng = pq.read_table(events, columns=["user_id", "item_id", "seq_pos"]), _rng()
    movies = np.unique(table["item_id"].to_numpy())
    cold = rng.choice(movies, int(SHARE * len(movies)), replace=False)
    part = np.where(rng.random(table.num_rows) < VALID_SHARE, "valid", "train")
    part[np.isin(table["item_id"].to_numpy(), cold)] = "test"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "events.parquet"
    pq.write_table(table.append_column("part", pa.array(part)), path)
    return path, cold


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def judged(root: Path, words: list[str], cold: Any) -> dict[str, float]:
    """Trains a retriever and asks for the movies that it has not seen."""
    job = start([f"root={root}", *words])
    prepare(job, locate(job.settings.source))
    connect(2)
    trained = train(job, "two_tower")
    subject = Subject.open(job, ("two_tower",), {"two_tower": trained})
    dataset: Dataset = subject.log.dataset
    queries = build_queries(subject.log, TEST, 1_000_000)
    retriever, whole = Retriever.open(trained, dataset, None), Catalogue.of(dataset)
    new = np.zeros(whole.rows, bool)
    new[dataset.item_ids.lookup(pa.array(cold))] = True
    found: dict[str, float] = {"users": len(queries), "movies": int((new & whole.live).sum())}
    for name, live in (("of all", whole.live), ("among the new", whole.live & new)):
        ranking = rank(retriever.scores, queries, replace(whole, live=live), max(KS))
        for k in KS:
            recall = per_query(ranking.hits, ranking.num_positives, k)[f"recall@{k}"]
            found[f"recall@{k} {name}"] = float(recall.mean())
    return found


def main() -> None:
    """Runs and prints."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    data, root = Path(given.pop("data")) / "ml-1m", Path(given.pop("root"))
    events, cold = with_parts(data / "interactions.parquet", root)
    words = ["source.kind=table", f"source.events={events}", "source.columns.position=seq_pos"]
    words += ["split.kind=column", "split.column=part", *(f"{k}={v}" for k, v in given.items())]
    files = {"items": data / "items.parquet", "content": data / "items_content.parquet"}
    arms = {
        name: judged(
            root / name.replace(" ", "_"),
            [*words, *(f"source.{role}={files[role]}" for role in roles)],
            cold,
        )
        for name, roles in ARMS.items()
    }
    print(json.dumps({"name": "cold_items", "arms": arms}))


if __name__ == "__main__":
    main()
