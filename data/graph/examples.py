"""Training examples of the graph encoder, with the neighbourhoods that encoding them takes.

A stage of the training stream: it runs where blocks of timelines are read, and leaves rows that
need nothing more than the features of the items they name. Whether neighbourhoods are sampled here
or were before makes no difference to the rows.

An example is a query, an item that goes with it, its share of the batch's random negatives, and
hard negatives of its own:

    next_engagement  item -> the item that its user engaged with next
    co_board         item -> another item of one of its boards
    user_item        user -> an item they engaged with, the user being their other items
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.contract.artifact import read
from data.contract.encode import Events, Ints
from data.dataset import Dataset
from data.graph.neighborhoods import SamplerSource, fixed_lists, open_graph
from data.graph.walks import Neighborhoods, WalkSettings, co_items, rank_band
from data.queries import SplitLog
from data.splits import SplitSettings
from data.training_log import Lesson, TrainingLog
from data.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Sequence

NEXT_ENGAGEMENT, CO_BOARD, USER_ITEM = range(3)
OBJECTIVES = ("next_engagement", "co_board", "user_item")


@dataclass(frozen=True, slots=True)
class Draws:
    """How many negatives an example brings.

    Attributes:
        random: uniform draws from the items there are.
        hard: most items from its query's rank band.
        hard_from: epoch of the first of them; one more each epoch.
        band: first and last rank of the band.
        walk: the longer walk that ranks them.
    """

    random: int
    hard: int = 0
    hard_from: int = 1
    band: tuple[int, int] = (0, 0)
    walk: WalkSettings = field(default_factory=WalkSettings)

    def hard_in(self, epoch: int) -> int:
        """Hard negatives an example in a 0-based epoch."""
        return int(np.clip(epoch - self.hard_from + 1, 0, self.hard))


@dataclass(frozen=True, slots=True)
class LogSource:
    """What a training log is opened from; travels between processes.

    Attributes:
        root: folder of all artefacts.
        version: of the data set.
        split: which events may be read.
        windows: of a time split.
        seed: of the split.
        parts: that may be read.
        span_ms: labels lie in [first, last) of these.
    """

    root: Path
    version: str
    split: SplitSettings
    windows: Windows | None
    seed: int
    parts: tuple[int, ...]
    span_ms: tuple[int, int] | None

    def open(self) -> TrainingLog:
        """The log."""
        dataset = _open_dataset(self.root, self.version)
        log = SplitLog(dataset, self.split, self.windows, self.seed)
        return TrainingLog(log, self.parts, self.span_ms)


@lru_cache(maxsize=2)
def _open_dataset(root: Path, version: str) -> Dataset:
    return Dataset(read(root / "dataset" / version), root)


class Pairs(NamedTuple):
    """Queries and what goes with them, [B].

    Attributes:
        objective: codes.
        query: item rows, or user rows where the objective is user_item.
        positive: item rows.
        neighborhoods: of the queries that are users; no lines for the others.
    """

    objective: Ints
    query: Ints
    positive: Ints
    neighborhoods: Neighborhoods


@dataclass(frozen=True, slots=True)
class ExampleStage:
    """Blocks of timelines -> examples (see the head of this file).

    Attributes:
        log: the labels.
        sampler: of neighbourhoods.
        objectives: names.
        draws: negatives.
        pair_ms: longest time between two engagements of a next_engagement pair; None: any.
        last_ms: items created from then on are no negatives; None: all are.
    """

    log: LogSource
    sampler: SamplerSource
    objectives: tuple[str, ...]
    draws: Draws
    pair_ms: int | None
    last_ms: int | None

    @property
    def growth(self) -> float:
        """An event's 20 bytes become the neighbourhoods of its examples."""
        nodes = 2 + self.draws.random + self.draws.hard
        return len(self.objectives) * nodes * 8 * self.sampler.walk.neighbors / 20

    def __call__(self, table: pa.Table, epoch: int, rng: np.random.Generator) -> pa.Table:
        """Examples of a block of users, one row each (columns: `example_table`)."""
        log = self.log.open()
        pairs = self._pairs(log.lesson(table), log.log.dataset.order != "none", rng)
        negatives = self._random(log.log.dataset, len(pairs.query), rng)
        hard = self._hard(pairs, self.draws.hard_in(epoch), rng)
        items = np.concatenate([pairs.positive[:, None], negatives, hard], axis=1)
        sampler = self.sampler.open()
        of_items = sampler.of(items.ravel(), "item")
        return example_table(pairs, self._queries(pairs), items, of_items)

    def _queries(self, pairs: Pairs) -> Neighborhoods:
        """Neighbourhoods of all queries: an item's is sampled, a user's are their own items."""
        of_users = pairs.objective == USER_ITEM
        found = self.sampler.open().of(np.where(of_users, 0, pairs.query), "item")
        neighbors, weights = np.array(found.neighbors), np.array(found.weights)
        neighbors[of_users] = pairs.neighborhoods.neighbors
        weights[of_users] = pairs.neighborhoods.weights
        return Neighborhoods(neighbors, weights)

    def _pairs(self, lesson: Lesson, ordered: bool, rng: np.random.Generator) -> Pairs:
        width = self.sampler.walk.neighbors
        engaged = lesson.engaged()
        found = []
        if "next_engagement" in self.objectives:
            found.append(next_engagements(engaged, self.pair_ms, width))
        if "co_board" in self.objectives:
            graph = open_graph(self.sampler.adjacency)
            other = co_items(graph, engaged.item.astype(np.int64), rng)
            there = other > 0
            found.append(_item_pairs(CO_BOARD, engaged.item[there], other[there], width))
        if "user_item" in self.objectives:
            found.append(user_items(lesson.users, engaged, width, ordered, rng))
        return _joined(found)

    def _random(self, dataset: Dataset, count: int, rng: np.random.Generator) -> Ints:
        live = items_there(dataset, self.last_ms)
        return live[rng.integers(0, len(live), (count, self.draws.random))]

    def _hard(self, pairs: Pairs, count: int, rng: np.random.Generator) -> Ints:
        """Items of each query's rank band, 0 where there is none, int64[B, count]."""
        if count == 0:
            return np.zeros((len(pairs.query), 0), np.int64)
        graph = open_graph(self.sampler.adjacency)
        nodes = np.where(pairs.objective != USER_ITEM, pairs.query, 0)
        return rank_band(graph, nodes, self.draws.walk, self.draws.band, count, rng)


def items_there(dataset: Dataset, last_ms: int | None) -> Ints:
    """Rows of the items created before a moment; of unknown age, or without a moment, all."""
    live = np.arange(dataset.item_ids.first_row, dataset.item_ids.rows)
    if last_ms is None:
        return live
    there: Ints = live[dataset.items_created_at[live] < last_ms]
    return there


def next_engagements(engaged: Events, pair_ms: int | None, width: int) -> Pairs:
    """Each engaged item and the user's next one, if that comes within `pair_ms`."""
    owners = np.repeat(np.arange(len(engaged.lengths)), engaged.lengths)
    follows = (owners[1:] == owners[:-1]) & (engaged.item[1:] != engaged.item[:-1])
    if pair_ms is not None:
        follows &= np.diff(engaged.timestamp) <= pair_ms
    at = np.flatnonzero(follows)
    return _item_pairs(NEXT_ENGAGEMENT, engaged.item[at], engaged.item[at + 1], width)


def user_items(
    users: Ints, engaged: Events, width: int, ordered: bool, rng: np.random.Generator
) -> Pairs:
    """Users and each item they engaged with, the user being up to `width` of their other items.

    Where there is an order these are the items before, else a run of the others that begins
    anywhere.
    """
    owners = np.repeat(np.arange(len(engaged.lengths)), engaged.lengths)
    first, length = engaged.offsets[:-1][owners], engaged.lengths[owners]
    place = np.arange(len(owners)) - first
    others = place if ordered else length - 1
    start = 0 if ordered else rng.integers(0, 1 << 62, len(owners)) % np.maximum(others, 1)
    ahead = (start + np.arange(width)[:, None]) % np.maximum(others, 1)
    at = (first + (place - 1 - ahead) % np.maximum(length, 1)).T
    there = np.arange(width) < np.minimum(others, width)[:, None]
    weights = there / np.maximum(there.sum(1, keepdims=True), 1)
    neighbors = np.where(there, engaged.item[np.where(there, at, 0)], 0)
    records = Neighborhoods(neighbors.astype(np.int32), weights.astype(np.float32))
    codes = np.full(len(owners), USER_ITEM)
    return Pairs(codes, users[owners], engaged.item.astype(np.int64), records)


def _item_pairs(objective: int, query: Ints, positive: Ints, width: int) -> Pairs:
    nothing = Neighborhoods(np.zeros((0, width), np.int32), np.zeros((0, width), np.float32))
    codes = np.full(len(query), objective)
    return Pairs(codes, query.astype(np.int64), positive.astype(np.int64), nothing)


def _joined(found: Sequence[Pairs]) -> Pairs:
    records = Neighborhoods(
        np.concatenate([p.neighborhoods.neighbors for p in found]),
        np.concatenate([p.neighborhoods.weights for p in found]),
    )
    columns = list(zip(*found, strict=True))[:3]
    return Pairs(*(np.concatenate(column) for column in columns), records)


def example_table(
    pairs: Pairs, of_queries: Neighborhoods, items: Ints, of_items: Neighborhoods
) -> pa.Table:
    """Examples as rows: `objective`, `query` with its neighbourhood, `items` with theirs.

    Args:
        pairs: B of them.
        of_queries: [B, T].
        items: the positive, random and hard negatives of each, [B, I]; 0 is none.
        of_items: [B * I, T].
    """
    width, count = of_queries.neighbors.shape[1], items.shape[1]
    return pa.table(
        {
            "objective": pairs.objective.astype(np.int8),
            "query": pairs.query,
            "query.neighbors": _fixed(of_queries.neighbors, width),
            "query.weights": _fixed(of_queries.weights, width),
            "items": _fixed(items.astype(np.int32), count),
            "items.neighbors": _fixed(of_items.neighbors, count * width),
            "items.weights": _fixed(of_items.weights, count * width),
        }
    )


def _fixed(values: npt.NDArray[Any], width: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(values)), width)


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples opened again, B of them with I items each.

    Attributes:
        objective: codes, [B].
        query: rows of items or users, [B].
        items: positive, R random and H hard negatives, [B, I].
        neighbors: int32[B, 1 + I, T] of the query and the items.
        weights: float32, likewise.
        num_random: R.
    """

    objective: Ints
    query: Ints
    items: Ints
    neighbors: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    num_random: int

    @classmethod
    def of(cls, table: pa.Table, num_random: int) -> Examples:
        """Reads what `example_table` wrote."""
        items = fixed_lists(table["items"]).astype(np.int64)
        joined = [_with_query(table, name, items.shape) for name in ("neighbors", "weights")]
        columns = (table[name].to_numpy().astype(np.int64) for name in ("objective", "query"))
        return cls(*columns, items, *joined, num_random)

    def __len__(self) -> int:
        """B."""
        return len(self.query)

    @property
    def of_users(self) -> npt.NDArray[np.bool_]:
        """Which queries are users, [B]."""
        return self.objective == USER_ITEM

    @property
    def drawn(self) -> Ints:
        """All random negatives, [B * R]."""
        return self.items[:, 1 : 1 + self.num_random].ravel()

    def take(self, at: Ints) -> Examples:
        """Some of them, in the order asked for."""
        columns = (self.objective, self.query, self.items, self.neighbors, self.weights)
        return Examples(*(column[at] for column in columns), self.num_random)


def _with_query(table: pa.Table, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    of_query = fixed_lists(table[f"query.{name}"])
    of_items = fixed_lists(table[f"items.{name}"]).reshape(*shape, of_query.shape[1])
    return np.concatenate([of_query[:, None], of_items], axis=1)
