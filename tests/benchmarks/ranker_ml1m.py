"""The ranker's heads on ratings: `python -m tests.benchmarks.ranker_ml1m data=... root=...`.

MovieLens-1M, each user's last fifth of ratings held out, the tenth before to choose on. A rating
of 4 or 5 is a like, 5 also a love, 1 or 2 a dislike, 3 is okay. The ranker and its baselines learn
from rated movies among the retriever's candidates. Two questions, for each head:

- among candidates: is what was rated so above the movies beside it? Every head can answer that by
  telling what was rated at all, so that it is a test of retrieval more than of heads.
- among rated: of all held-out ratings, are those of the head above the others? Over all users, and
  within each user, averaged. A head foretells "rated, and so", for its rows were candidates; what
  it says of a movie given that it is rated is its share of like + okay + dislike, judged beside.

The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.requests import UserEvents
from data.sources import locate
from data.splits import TEST
from data.training_log import TrainingLog
from models.metrics import auc
from ray_jobs.engine.cluster import connect
from ray_jobs.engine.job import start
from ray_jobs.engine.ranking_baselines import RankingBaselines, known_parts
from ray_jobs.engine.ranking_model import RankingModel, users_of
from ray_jobs.engine.subject import Subject
from ray_jobs.evaluate import evaluate
from ray_jobs.prepare import prepare
from ray_jobs.tasks.candidates import labels_of, pairs_of
from ray_jobs.train import train

if TYPE_CHECKING:
    from data.queries import SplitEvents, SplitLog

ACTIONS = {"like": "rating>=4", "love": "rating=5", "okay": "rating=3", "dislike": "rating<=2"}
APART = ("like", "okay", "dislike")
TEST_SHARE, VALID_SHARE = 0.2, 0.1


def main(words: list[str]) -> None:
    """Trains the retriever and the ranker, judges, prints."""
    given = dict(word.split("=", 1) for word in words)
    data, root = Path(given.pop("data")) / "ml-1m", Path(given.pop("root"))
    job = start([f"root={root}", *words_of(data, root), *(f"{k}={v}" for k, v in given.items())])
    with job.stage("prepare"):
        prepare(job, locate(job.settings.source))
    connect(2)
    for model in ("two_tower", "ranker"):
        with job.stage(f"train {model}"):
            train(job, model)
    with job.stage("evaluate"):
        metrics = evaluate(job, ("ranker",)).manifest.metrics["ranking"]
        rated = among_rated(Subject.open(job, ("ranker",), {}))
    found = {"among candidates": metrics, "among rated": rated, "seconds": job.seconds}
    print(json.dumps({"name": "ranker_ml1m"} | found))


def words_of(data: Path, root: Path) -> list[str]:
    """Settings, after the log is written anew with its parts."""
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(with_parts(data / "interactions.parquet"), root / "events.parquet")
    files = {"events": root / "events.parquet", "items": data / "items.parquet"}
    files |= {"users": data / "users.parquet", "content": data / "items_content.parquet"}
    return [
        *("source.kind=table", "source.columns.position=seq_pos", "source.polarity.okay=neutral"),
        *(f"source.{role}={path}" for role, path in files.items()),
        *(f"source.actions.{action}={rule}" for action, rule in ACTIONS.items()),
        *("split.kind=column", "split.column=part"),
    ]


def with_parts(path: Path) -> pa.Table:
    """The ratings with the part of each, by its place among those of its user."""
    table = pq.read_table(path, columns=["user_id", "item_id", "rating", "seq_pos"])
    user, place = table["user_id"].to_numpy(), table["seq_pos"].to_numpy()
    _, at, counts = np.unique(user, return_inverse=True, return_counts=True)
    left = 1 - (place + 0.5) / counts[at]
    part = np.where(left < TEST_SHARE + VALID_SHARE, "valid", "train")
    part[left < TEST_SHARE] = "test"
    return table.append_column("part", pa.array(part))


def among_rated(subject: Subject) -> dict[str, Any]:
    """AUC of each head on all held-out ratings, of the ranker and the baselines."""
    actions = subject.log.dataset.vocabulary.actions
    impressions = held_out_ratings(subject.log)
    parts = known_parts(subject)
    model = RankingModel.open(subject.models["ranker"], subject.log.dataset)
    asked = users_of(impressions, subject.log.dataset)
    model.knowing(subject.log, parts, asked)
    histories = UserEvents.of(TrainingLog(subject.log, parts), asked)
    fitted = RankingBaselines.fit(subject, ("popularity", "logistic", "trees"), asked)
    predicted = {"ranker": model.probabilities(impressions, histories)}
    predicted |= {"popularity": fitted.counts(impressions)} | fitted.probabilities(impressions)
    given_rated = {
        f"{name}, given rated": shares(scores, actions)
        for name, scores in predicted.items()
        if name != "popularity"
    }
    scored = predicted | given_rated
    found = {name: judged(impressions, actions, scores) for name, scores in scored.items()}
    return {"ratings": impressions.num_rows, "learnt_from": fitted.rows, "auc": found}


def shares(scores: np.ndarray, actions: tuple[str, ...]) -> np.ndarray:
    """Each head's part of what excludes one another. [N, actions]."""
    places = [actions.index(name) for name in APART]
    return scores / np.maximum(scores[:, places].sum(axis=1, keepdims=True), 1e-9)


def held_out_ratings(log: SplitLog) -> pa.Table:
    """A request for each user: all that they rated in the reported part, first touched then."""
    tables = [_held_out(block, log) for block in log.blocks()]
    return pa.concat_tables([table for table in tables if table.num_rows])


def _held_out(block: SplitEvents, log: SplitLog) -> pa.Table:
    actions = log.dataset.vocabulary.actions
    known = block.known_before(TEST, log.split.kind)
    users = block.users[block.owners]
    pairs, wanted = pairs_of(users, block.events.item), block.part == TEST
    asked = np.setdiff1d(pairs[wanted], pairs[known])
    codes = range(1, len(actions) + 1)
    labels = labels_of(asked, pairs[wanted], block.events.action[wanted], codes)
    owner = asked >> 32
    before = dict(zip(block.users.tolist(), block.keep(known).lengths.tolist(), strict=True))
    zeros = np.zeros(len(asked), np.int64)
    columns = {
        "request_id": owner,
        "user": owner,
        "item": (asked & 0xFFFFFFFF).astype(np.int32),
        "timestamp": zeros,
        "known": np.array([before[user] for user in owner.tolist()], np.int64),
        "position": zeros.astype(np.int16),
        "labels_closed_at": zeros,
    }
    return pa.table(columns | {f"label.{a}": labels[:, n] for n, a in enumerate(actions)})


def judged(impressions: pa.Table, actions: tuple[str, ...], scores: np.ndarray) -> dict[str, Any]:
    """AUC of each head over all ratings and within users, with its standard error."""
    user = impressions["user"].to_numpy()
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    found = {}
    for place, action in enumerate(actions):
        labels, column = impressions[f"label.{action}"].to_numpy(), scores[:, place]
        parts = zip(np.split(labels, starts[1:]), np.split(column, starts[1:]), strict=True)
        within = np.array([auc(*part) for part in parts])
        within = within[~np.isnan(within)]
        found[action] = {
            "pooled": auc(labels, column),
            "within": float(within.mean()),
            "within_se": float(within.std(ddof=1) / np.sqrt(len(within))),
            "users": len(within),
            "share": float(labels.mean()),
        }
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
