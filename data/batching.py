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
    ragged_positions,
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

Mask = npt.NDArray[np.bool_]

NEXT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Windows:
    """Pieces of timelines to train on: W windows with what they read and what they predict.

    Attributes:
        user: index of the window's user in its block, [W].
        events: what each window reads, oldest first.
        target_window: window of each target, [T].
        target_length: events of the window that are read before the target, [T].
        target_item: item row of the target, [T].
        target_moment: when it is foretold, ms since 1970, [T]; 0 in a log without a clock.
    """

    user: Ints
    events: Events
    target_window: Ints
    target_length: Ints
    target_item: Ints
    target_moment: Ints

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.user)

    def take(self, windows: Ints) -> Windows:
        """Some windows, in the order asked for."""
        lengths = self.events.lengths[windows]
        events = self.events.cut(self.events.offsets[windows], lengths)
        ends = np.searchsorted(self.target_window, np.arange(len(self) + 1))
        counts = np.diff(ends)[windows]
        at = ragged_positions(ends[windows], counts)
        renumbered = np.repeat(np.arange(len(windows)), counts)
        targets = (self.target_length[at], self.target_item[at], self.target_moment[at])
        return Windows(self.user[windows], events, renumbered, *targets)


def shuffle_within_users(events: Events, rng: np.random.Generator) -> tuple[Events, Ints]:
    """Puts the events of each user in random order (logs without order); also the permutation."""
    users = np.repeat(np.arange(len(events.lengths)), events.lengths)
    order = np.lexsort((rng.random(len(users)), users))
    return events.at(order, events.offsets), order


def draw_moments(
    events: Events, created_at: Ints, horizon_ms: int, rng: np.random.Generator
) -> Ints:
    """When each event is to be foretold: up to a horizon before it, once its item is there.

    Half of the events are foretold right before they happen, which teaches what a session is about;
    the others from days before, which teaches what the user is about (dense all-action,
    PinnerFormer, KDD'22).

    Args:
        events: timelines of a block.
        created_at: int64[item rows] ms since 1970, 0 where unknown.
        horizon_ms: longest time ahead.
        rng: draws the times.

    Returns:
        ms since 1970, [H].
    """
    ahead = (rng.random(len(events.timestamp)) * horizon_ms).astype(np.int64)
    ahead[rng.random(len(ahead)) < NEXT_SHARE] = 0
    there = np.minimum(created_at[events.item], events.timestamp)
    moments: Ints = np.maximum(events.timestamp - ahead, there)
    return moments


def cut_windows(
    events: Events, labels: Mask, moments: Ints, max_length: int, rng: np.random.Generator
) -> Windows:
    """Tiles every user's labels with windows, each label in exactly one.

    A window predicts the labels of a stretch of `max_length // 2` events and reads the events
    before each one's moment, at most `max_length`. However far ahead the moment is, a quarter of
    `max_length` is read if there is as much. Where the tiles begin is drawn anew each time.

    Args:
        events: timelines of a block.
        labels: which events are to be predicted, aligned with the events.
        moments: when each is predicted, ms since 1970, aligned with the events.
        max_length: most events that a window reads.
        rng: draws the offsets.
    """
    stride = max(1, max_length // 2)
    position = np.flatnonzero(labels).astype(np.int64)
    user = np.searchsorted(events.offsets, position, side="right") - 1
    shift = rng.integers(0, stride, len(events.lengths))
    tile = (position - events.offsets[user] + shift[user]) // stride
    key = user * (int(tile.max(initial=0)) + 1) + tile
    _, first, window = np.unique(key, return_index=True, return_inverse=True)
    last = np.append(first[1:], len(position)) - 1 if len(first) else first
    tile_start = events.offsets[user[first]] + tile[first] * stride - shift[user[first]]
    starts = np.maximum(events.offsets[user[first]], tile_start - (max_length - stride))
    read = events.cut(starts, position[last] - starts)
    least = np.maximum(starts, tile_start - stride // 2)[window]
    ahead = np.maximum(events.positions_before(user, moments[position]), least)
    # What happens at its own moment follows all that stands before it, at the same moment too.
    known = np.where(moments[position] < events.timestamp[position], ahead, position)
    length = np.minimum(known, position) - starts[window]
    return Windows(user[first], read, window, length, events.item[position], moments[position])


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
