"""Impressions for logs that have none: what was touched, among the retriever's own candidates.

A ranker learns from what was shown and what came of it. Where a log only says what was done, each
sampled item that a user touched, liked or not, is set beside items that the retriever would have
offered at that moment; its labels are all that the user did to it. The manifest says so, and
metrics on such rows are metrics on such rows: what tells a touched item from candidates tells
little of whether it was liked (`auc_of_touched` does).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract.artifact import Artifact, Draft, current
from data.contract.encode import Ints
from data.contract.id_lineage import check_same_ids
from data.contract.settings import to_tree
from data.queries import Queries, SplitLog, build_queries, concatenated
from data.ranking import Catalogue, rank
from data.splits import TEST, TRAIN, VALID
from data.training_log import TrainingLog, span_of
from data.trends import Trends
from ray_jobs.embed import as_read_by
from ray_jobs.engine.inference import Retriever
from ray_jobs.sample import Cutoff, log_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.dataset import Dataset
    from data.training_log import Lesson
    from ray_jobs.engine.job import Job

TRAIN_REQUESTS = 20_000
HELD_OUT_REQUESTS = 4_000
NEGATIVES = 20
RANKED = 500
Bools = npt.NDArray[np.bool_]

PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}


@dataclass(frozen=True, slots=True)
class Moments:
    """Touched items to rank: who, after how many known events, and which actions followed.

    Attributes:
        queries: one for each moment, whose one positive is the touched item.
        labels: which actions followed, [Q, actions].
        touched: (user row << 32 | item row) of pairs that these users touch at any moment of the
            same part, hence no negatives; sorted.
    """

    queries: Queries
    labels: Bools
    touched: Ints


def candidates(job: Job, dataset: Dataset, move_pointer: bool = True) -> Artifact:
    """Makes impressions for the ranker from the current retriever's candidates.

    Raises:
        UserError: the retriever was trained for other ids than the data set's.
    """
    retriever = current(job.root, "two_tower")
    check_same_ids(job.root, dataset.artifact, retriever)
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
            _training_moments(log, days, rng)
            if part == TRAIN
            else _held_out_moments(log, part, rng.spawn(1)[0])
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
    """A sample of first touches, those of `days` in a time split, with the events before each."""
    every = _every_code(log)
    training = TrainingLog(log, (TRAIN,), span_of(log, days), every)
    # Twice over the log: it need not fit in memory.
    total = sum(int(lesson.labels.sum()) for lesson in training.lessons())
    share = min(1.0, TRAIN_REQUESTS / max(1, total))
    found = [
        _drawn(lesson, rng.random(len(lesson.labels)) < share, every)
        for lesson in training.lessons()
    ]
    queries = concatenated([moments.queries for moments in found])
    labels = np.concatenate([moments.labels for moments in found])
    return Moments(queries, labels, np.sort(np.concatenate([m.touched for m in found])))


def _drawn(lesson: Lesson, drawn: Bools, codes: tuple[int, ...]) -> Moments:
    """The moments of a block of users before some of their first touches."""
    events, at = lesson.events, np.flatnonzero(lesson.labels & drawn)
    owners = np.repeat(np.arange(len(lesson.users)), events.lengths)
    pairs = pairs_of(lesson.users[owners], events.item)
    starts = events.offsets[owners[at]]
    queries = Queries(
        lesson.users[owners[at]],
        events.cut(starts, at - starts),
        events.item[at].astype(np.int64),
        np.ones(len(at), np.int64),
        events.timestamp[at].astype(np.int64),
    )
    labels = labels_of(pairs[at], pairs, events.action, codes)
    asked = np.bincount(owners[at], minlength=len(lesson.users)) > 0
    return Moments(queries, labels, pairs[lesson.labels & asked[owners]])


def _held_out_moments(log: SplitLog, part: int, rng: np.random.Generator) -> Moments:
    """One touched item of each held-out query, with the actions that it had."""
    every = _every_code(log)
    queries = build_queries(log, part, HELD_OUT_REQUESTS, every)
    first = np.cumsum(queries.num_positives) - queries.num_positives
    item = queries.positives[first + rng.integers(0, queries.num_positives)]
    labels = labels_of(pairs_of(queries.users, item), *_done(log, part, queries.users), every)
    one = np.ones(len(item), np.int64)
    asked = Queries(queries.users, queries.history, item, one, queries.now_ms)
    owners = np.repeat(queries.users, queries.num_positives)
    return Moments(asked, labels, np.sort(pairs_of(owners, queries.positives)))


def _done(log: SplitLog, part: int, users: Ints) -> tuple[Ints, Ints]:
    """Pair and action of all that users did up to the end of a part; one pass over the log."""
    pairs, actions = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for block in log.blocks():
        owners = block.users[block.owners]
        done = (block.part >= TRAIN) & (block.part <= part) & np.isin(owners, users)
        pairs.append(pairs_of(owners[done], block.events.item[done]))
        actions.append(block.events.action[done])
    return np.concatenate(pairs), np.concatenate(actions)


def _every_code(log: SplitLog) -> tuple[int, ...]:
    return tuple(range(1, len(log.dataset.vocabulary.actions) + 1))


def pairs_of(users: Ints, items: Ints) -> Ints:
    """One number for a user row and an item row."""
    pairs: Ints = (users << 32) | items.astype(np.int64)
    return pairs


def labels_of(asked: Ints, did: Ints, actions: Ints, codes: Sequence[int]) -> Bools:
    """Which actions pairs of user and item had.

    Args:
        asked: pairs, [Q].
        did: pair of each event, [H].
        actions: code of each event, [H].
        codes: A actions.

    Returns:
        bool[Q, A].
    """
    return np.stack([np.isin(asked, did[actions == code]) for code in codes], axis=1)


def _found(moments: Moments, retriever: Retriever, dataset: Dataset) -> tuple[Moments, Ints]:
    """Moments whose item is among the highest ranked, and these, [Q, RANKED].

    An item that is not retrieved is never ranked; set among the nearest items it would teach that
    what lies far from the user is liked.
    """
    ranking = rank(retriever.scores, moments.queries, Catalogue.of(dataset), RANKED)
    found = np.flatnonzero(ranking.hits.any(axis=1))
    kept = replace(moments, queries=moments.queries.take(found), labels=moments.labels[found])
    return kept, ranking.items[found]


def _impressions(
    moments: Moments, retriever: Retriever, dataset: Dataset, rng: np.random.Generator
) -> pa.Table:
    """Each touched item that the retriever finds, beside `NEGATIVES` others that it does."""
    moments, ranking = _found(moments, retriever, dataset)
    queries = moments.queries
    pairs = pairs_of(queries.users[:, None], ranking)
    offered = np.where(np.isin(pairs, moments.touched), -1, ranking)
    order = np.argsort(rng.random(offered.shape) + (offered < 0), axis=1)[:, :NEGATIVES]
    negatives = np.take_along_axis(offered, order, axis=1)
    items = np.concatenate([queries.positives[:, None], negatives], axis=1)
    request, column = np.nonzero(items >= 0)
    labels = {
        f"label.{name}": (column == 0) & moments.labels[request, place]
        for place, name in enumerate(dataset.vocabulary.actions)
    }
    shown = shown_on_top(queries, request, items[request, column])
    return pa.table(shown | {"labels_closed_at": shown["timestamp"]} | labels)


def shown_on_top(queries: Queries, request: Ints, item: Ints) -> dict[str, Any]:
    """Columns of impressions of items, each as if it stood on top of its request's slate.

    Args:
        queries: who asks when, knowing how much.
        request: number of the query of each of N impressions, ascending.
        item: their rows.
    """
    times = queries.now_ms if queries.now_ms is not None else np.zeros(len(queries), np.int64)
    return {
        "request_id": request.astype(np.int64),
        "user": queries.users[request],
        "item": item.astype(np.int32),
        "timestamp": times[request],
        "known": queries.history.lengths[request],
        "position": np.zeros(len(request), np.int16),
    }
