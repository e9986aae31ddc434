"""Impressions for logs that have none: positives among the retriever's own candidates.

A ranker learns from what was shown and what came of it. Where a log only says what was done, each
sampled positive is set beside items that the retriever would have offered at that moment; the
manifest says so, and metrics on them are metrics on such rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract.artifact import Artifact, Draft, current
from data.contract.encode import Events, Ints
from data.contract.settings import to_tree
from data.dataset import Dataset
from data.queries import Queries, SplitLog, build_queries
from data.ranking import Catalogue, rank
from data.splits import TEST, TRAIN, VALID
from data.training_log import TrainingLog, span_of
from data.trends import Trends
from ray_jobs.embed import as_read_by
from ray_jobs.engine.inference import Retriever
from ray_jobs.sample import Cutoff, log_of

if TYPE_CHECKING:
    from ray_jobs.engine.job import Job

TRAIN_REQUESTS = 20_000
HELD_OUT_REQUESTS = 4_000
NEGATIVES = 20
RANKED = 500
PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}


@dataclass(frozen=True, slots=True)
class Moments:
    """Positives to rank: who, after how many known events, and which action followed.

    Attributes:
        queries: one for each moment, with exactly one positive.
        action: code of the positive's action, [Q].
        liked: (user row << 32 | item row) of pairs that are positives at another moment of the
            same part, hence no negatives; sorted.
    """

    queries: Queries
    action: Ints
    liked: Ints


def candidates(job: Job, move_pointer: bool = True) -> Artifact:
    """Makes impressions for the ranker from the current retriever's candidates."""
    dataset = Dataset.open(job.root)
    retriever = current(job.root, "two_tower")
    tree = to_tree(job.settings)
    settings = {name: tree[name] for name in ("seed", "split", "windows")}

    def write(draft: Draft) -> None:
        cutoff = Cutoff.of_training(log_of(job, dataset).windows, alone=False)
        read = as_read_by(job, dataset, retriever, cutoff)
        _write_parts(job, draft, read, Retriever.open(retriever, read, None))
        draft.fields["details"] = {"made_from": "retriever candidates", "negatives": NEGATIVES}
        draft.fields["id_space"] = dataset.artifact.manifest.id_space

    return job.make("candidates", [dataset.artifact, retriever], settings, write, move_pointer)


def _write_parts(job: Job, draft: Draft, dataset: Dataset, retriever: Retriever) -> None:
    settings = job.settings
    log = log_of(job, dataset)
    for number, (name, part) in enumerate(PARTS.items()):
        rng = np.random.default_rng(np.random.SeedSequence([settings.seed, 0xCA, part]))
        days = log.windows.ranker if log.windows else None
        moments = (
            _training_moments(log, days, rng) if part == TRAIN else _held_out_moments(log, part)
        )
        known = Trends.of(log, range(TRAIN, max(part, TRAIN + 1)))
        table = _impressions(moments, replace(retriever, trends=known), dataset, rng)
        folder = draft.path / "impressions" / f"part={name}"
        folder.mkdir(parents=True)
        numbered = table["request_id"].to_numpy() + number * 10_000_000
        table = table.set_column(0, "request_id", pa.array(numbered))
        pq.write_table(table, folder / "part-00000.parquet", row_group_size=1 << 14)


def _training_moments(
    log: SplitLog, days: tuple[int, int] | None, rng: np.random.Generator
) -> Moments:
    """A sample of the training labels, those of `days` in a time split, with the events before."""
    lessons = list(TrainingLog(log, (TRAIN,), span_of(log, days)).lessons())
    total = sum(int(lesson.labels.sum()) for lesson in lessons)
    share = min(1.0, TRAIN_REQUESTS / max(1, total))
    found, liked = [], []
    for lesson in lessons:
        owners = np.repeat(lesson.users, lesson.events.lengths)[lesson.labels]
        liked.append((owners << 32) | lesson.events.item[lesson.labels].astype(np.int64))
        at = np.flatnonzero(lesson.labels & (rng.random(len(lesson.labels)) < share))
        owner = np.searchsorted(lesson.events.offsets, at, side="right") - 1
        starts = lesson.events.offsets[owner]
        history = lesson.events.cut(starts, at - starts)
        found.append((lesson.users[owner], history, at, lesson.events))
    return _joined(found, np.sort(np.concatenate(liked)))


def _joined(found: list[tuple[Ints, Events, Ints, Events]], liked: Ints) -> Moments:
    item, action, time = (
        np.concatenate([getattr(events, n)[at] for _, _, at, events in found]).astype(np.int64)
        for n in ("item", "action", "timestamp")
    )
    queries = Queries(
        np.concatenate([users for users, _, _, _ in found]),
        Events.join([history for _, history, _, _ in found]),
        item,
        np.ones(len(item), np.int64),
        time,
    )
    return Moments(queries, action, liked)


def _held_out_moments(log: SplitLog, part: int) -> Moments:
    """One positive of each held-out query, with the action that it was."""
    queries = build_queries(log, part, HELD_OUT_REQUESTS)
    first = np.cumsum(queries.num_positives) - queries.num_positives
    item = queries.positives[first]
    events = log.dataset.events_of(queries.users)
    owner = np.repeat(np.arange(len(queries)), events.lengths)
    codes = np.isin(events.action, log.positive_codes)
    matches = np.flatnonzero((events.item == item[owner]) & codes)
    action = np.zeros(len(queries), np.int64)
    action[owner[matches[::-1]]] = events.action[matches[::-1]]
    one = np.ones(len(item), np.int64)
    asked = Queries(queries.users, queries.history, item, one, queries.now_ms)
    owners = np.repeat(queries.users, queries.num_positives)
    return Moments(asked, action, np.sort((owners << 32) | queries.positives))


def _found(moments: Moments, retriever: Retriever, dataset: Dataset) -> tuple[Moments, Ints]:
    """Moments whose positive is among the highest ranked, and their items, [Q, RANKED].

    A positive that is not retrieved is never ranked; set among the nearest items it would teach
    that what lies far from the user is liked.
    """
    ranking = rank(retriever.scores, moments.queries, Catalogue.of(dataset), RANKED)
    found = np.flatnonzero(ranking.hits.any(axis=1))
    kept = replace(moments, queries=moments.queries.take(found), action=moments.action[found])
    return kept, ranking.items[found]


def _impressions(
    moments: Moments, retriever: Retriever, dataset: Dataset, rng: np.random.Generator
) -> pa.Table:
    """Each positive that the retriever finds, beside `NEGATIVES` others that it does."""
    moments, ranking = _found(moments, retriever, dataset)
    queries = moments.queries
    pairs = (queries.users[:, None] << 32) | ranking
    offered = np.where(np.isin(pairs, moments.liked), -1, ranking)
    order = np.argsort(rng.random(offered.shape) + (offered < 0), axis=1)[:, :NEGATIVES]
    negatives = np.take_along_axis(offered, order, axis=1)
    items = np.concatenate([queries.positives[:, None], negatives], axis=1)
    request, column = np.nonzero(items >= 0)
    labels = {
        f"label.{name}": (column == 0) & (moments.action[request] == code)
        for code, name in enumerate(dataset.vocabulary.actions, start=1)
    }
    times = queries.now_ms if queries.now_ms is not None else np.zeros(len(queries), np.int64)
    shown = {
        "request_id": request.astype(np.int64),
        "user": queries.users[request],
        "item": items[request, column].astype(np.int32),
        "timestamp": times[request],
        "known": queries.history.lengths[request],
        "position": np.zeros(len(request), np.int16),
        "labels_closed_at": times[request],
    }
    return pa.table(shown | labels)
