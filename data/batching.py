"""Blocks of timelines and impressions -> training batches; the only place where tensors are made.

Every cut, look-up and draw is vectorised over a block. What a window may know is decided here:
events of other parts are taken out first, labels always lie after what is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from data.contract.encode import (
    Arrays,
    Events,
    FeatureTable,
    Ints,
    encode_history,
)
from data.contract.schema import DAY_MS, USER_COLUMN
from data.graph.batches import graph_arrays
from data.trends import Trends, days_of
from data.user_days import UserDays
from models.batch import Batch, Jagged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from data.graph.example_rows import Examples
    from data.graph.interactions import Interactions
    from data.negatives import Pool, PoolSampler
    from data.requests import Requests
    from data.sequence_windows import Windows
    from data.track_record import TrackRecord

Mask = npt.NDArray[np.bool_]


def even_chunks(count: int, size: int, rng: np.random.Generator) -> Iterator[Ints]:
    """A random order of `count` rows in chunks of nearly equal length, none over `size`."""
    order = rng.permutation(count)
    for chunk in np.array_split(order, max(1, -(-count // size))):
        if len(chunk):
            yield chunk


@dataclass(frozen=True, slots=True)
class Admission:
    """Which rows have an ID embedding of their own; the others look up row 0, a zero vector.

    Attributes:
        item: bool[item rows].
        user: bool[user rows].
    """

    item: Mask
    user: Mask

    def items(self, rows: Ints) -> Ints:
        """Embedding rows of item rows."""
        return np.where(self.item[rows], rows, 0)

    def users(self, rows: Ints) -> Ints:
        """Embedding rows of user rows."""
        return np.where(self.user[rows], rows, 0)


@dataclass(frozen=True, slots=True)
class Encoder:
    """Turns rows into the inputs of a model: declared features and admitted ids.

    Attributes:
        items: declared columns.
        users: declared columns.
        admission: which rows have an ID embedding.
        user_days: long-term embeddings, for models that read them.
    """

    items: FeatureTable
    users: FeatureTable
    admission: Admission
    user_days: UserDays | None = None

    def long_term(self, side: str, users: Ints, moments_ms: Ints) -> Arrays:
        """`<side>.user_embedding` float32[Q, D] as of the midnight before, if it is read."""
        if self.user_days is None:
            return {}
        return {f"{side}.{USER_COLUMN}": self.user_days.before(users, moments_ms)}

    def inputs(self, item_rows: Ints, user_rows: Ints) -> tuple[dict[str, Jagged], Arrays]:
        """Ids and feature arrays of U distinct items and B users.

        All item ids travel in the first of the B slots: look-ups do not care whose they are,
        and both keys need the same number of slots.
        """
        lengths = np.zeros(len(user_rows), np.int64)
        lengths[:1] = len(item_rows)
        ids = {
            "item_id": _jagged(self.admission.items(item_rows), lengths),
            "user_id": _jagged(self.admission.users(user_rows), np.ones_like(user_rows)),
        }
        return ids, self.items.gather(item_rows) | self.users.gather(user_rows)


def window_batch(
    windows: Windows,
    user_rows: Ints,
    encoder: Encoder,
    pools: PoolSampler,
    trends: Trends | None,
    rng: np.random.Generator,
) -> Batch:
    """One batch of a model that reads histories.

    Args:
        windows: B windows.
        user_rows: row of each window's user, [B].
        encoder: features and ids.
        pools: draws the negatives.
        trends: what was popular when, for models that read it.
        rng: of this batch.
    """
    pool = pools.sample(windows.target_item, rng)
    wanted = np.concatenate([windows.events.item, windows.target_item, pool.item])
    items, index = np.unique(wanted, return_inverse=True)
    history, target, candidates = np.split(
        index, np.cumsum([len(windows.events.item), len(windows.target_item)])
    )
    arrays = encode_history(windows.events) | {"history.item": history}
    arrays |= {
        "target.sequence": windows.target_window,
        "target.length": windows.target_length,
        "target.item": target,
        "pool.item": candidates,
    }
    arrays |= _corrections(pool)
    place = np.full(len(items), -1, np.int64)
    place[candidates] = np.arange(len(candidates))
    known = known_pairs(windows, place[history], place[target], len(candidates), pools.spare_future)
    arrays |= known | {"target.pool": place[target]}
    if trends is not None:
        arrays |= _trends(windows, pool, trends)
    owners = user_rows[windows.target_window]
    arrays |= encoder.long_term("target", owners, windows.target_moment)
    ids, features = encoder.inputs(items, user_rows)
    return Batch(
        ids=ids,
        inputs=tensors(arrays | features),
        labels={},
        weight=torch.ones(len(windows)),
        objective="next_positive",
    )


def _trends(windows: Windows, pool: Pool, trends: Trends) -> Arrays:
    """How the targets did on their days, [T], and the pool on each day of the batch, [M, P]."""
    day = days_of(trends.calendar, windows.target_moment)
    moments, moment = np.unique(day, return_inverse=True)
    of_targets = trends.before(day, windows.target_item)
    of_pool = trends.before(moments[:, None], pool.item)
    tomorrow_ms = trends.calendar.first_day_ms + moments * DAY_MS
    return (
        {"target.moment": moment}
        | {"pool.absent": trends.created_at[pool.item] >= tomorrow_ms[:, None]}
        | {f"target.{name}": array for name, array in of_targets.items()}
        | {f"pool.{name}": array for name, array in of_pool.items()}
    )


def known_pairs(
    windows: Windows, read: Ints, predicted: Ints, pool_size: int, spare_future: bool
) -> Arrays:
    """(window, place in the pool) of own items, and how much must be read for them to count.

    Args:
        windows: W of them.
        read: place in the pool of each event's item, -1 if it is not there, [H].
        predicted: the same of each target's item, [T].
        pool_size: places.
        spare_future: whether they count from the start, and the predicted ones too.
    """
    events = windows.events
    window = np.repeat(np.arange(len(windows)), events.lengths)
    after = np.arange(1, len(read) + 1) - events.offsets[window]
    if spare_future:
        window = np.concatenate([window, windows.target_window])
        after, read = np.zeros(len(window), np.int64), np.concatenate([read, predicted])
    there = read >= 0
    # Events come in order: the first of equal pairs is the earliest.
    pairs, first = np.unique(window[there] * max(pool_size, 1) + read[there], return_index=True)
    return {
        "known.sequence": pairs // max(pool_size, 1),
        "known.pool": pairs % max(pool_size, 1),
        "known.after": after[there][first],
    }


def ranker_batch(
    requests: Requests,
    histories: Events,
    encoder: Encoder,
    actions: tuple[str, ...],
    record: TrackRecord,
) -> Batch:
    """One batch of the ranker.

    Args:
        requests: R requests.
        histories: what was known of each user before the request, [R] cut to the model's length.
        encoder: features and ids.
        actions: names of the label columns.
        record: how items and users had done by when.
    """
    about = requests.context
    named = (histories.item, requests.item, about[about > 0])
    items, index = np.unique(np.concatenate(named), return_inverse=True)
    past, asked, told = np.split(index, np.cumsum([len(part) for part in named])[:-1])
    context = np.full(len(requests), -1)
    context[about > 0] = told
    arrays = encode_history(histories, requests.timestamp)
    arrays |= {
        "history.item": past,
        "candidate.item": asked,
        "candidate.lengths": np.diff(requests.offsets),
        "candidate.position": requests.position,
        "request.surface": requests.surface,
        "request.context": context,
    }
    arrays |= encoder.long_term("user", requests.user, requests.timestamp)
    arrays |= record.arrays(requests)
    ids, features = encoder.inputs(items, requests.user)
    labels = {f"label.{a}": torch.from_numpy(requests.labels[:, i]) for i, a in enumerate(actions)}
    return Batch(
        ids=ids,
        inputs=tensors(arrays | features),
        labels=labels,
        weight=torch.ones(len(requests)),
        objective="impressions",
    )


def graph_batch(
    examples: Examples, encoder: Encoder, pools: PoolSampler, rng: np.random.Generator
) -> Batch:
    """One batch of the graph encoder.

    Args:
        examples: B of them, with the neighbourhoods of all they name.
        encoder: features and ids.
        pools: makes the pool of positives and of the random items that the examples bring.
        rng: of this batch.
    """
    positives = examples.items[:, 0]
    pool = pools.pool(positives, examples.drawn, rng)
    found = graph_arrays(examples, pool.item)
    ids, features = encoder.inputs(found.items, found.users)
    return Batch(
        ids=ids,
        inputs=tensors(found.arrays | _corrections(pool) | features),
        labels={},
        weight=torch.ones(len(positives)),
        objective="graph",
    )


def interaction_batch(
    interactions: Interactions, pools: PoolSampler, rng: np.random.Generator
) -> Batch:
    """One batch of the encoder that reads the whole graph.

    Args:
        interactions: B of them.
        pools: makes the pool of positives and of `random` of the items that they bring.
        rng: of this batch.
    """
    positives, drawn = interactions.positive, interactions.drawn[: pools.random]
    pool = pools.pool(positives, drawn, rng)
    arrays = interactions.arrays(pool.item) | _corrections(pool)
    return Batch(
        ids={},
        inputs=tensors(arrays),
        labels={},
        weight=torch.ones(len(positives)),
        objective="graph",
    )


def _corrections(pool: Pool) -> Arrays:
    """What a sampled softmax over a pool has to know (`models.losses.pooled_softmax`)."""
    return {
        "positive.log_q": pool.positive_log_q,
        "pool.log_count": pool.log_count,
        "pool.log_q": pool.log_q,
    }


def tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    """Numpy -> torch without a copy where the memory is writable."""
    return {
        name: torch.from_numpy(np.require(a, requirements=["C", "W"])) for name, a in arrays.items()
    }


def _jagged(values: Ints, lengths: Ints) -> Jagged:
    return Jagged(torch.from_numpy(values), torch.from_numpy(lengths))
