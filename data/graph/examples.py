"""Training examples of the graph encoder, with the neighbourhoods that encoding them takes.

A stage of the training stream: it runs where blocks of timelines are read, and leaves rows that
need nothing more than the features of the items they name. Whether neighbourhoods are sampled here
or were before makes no difference to the rows.

An example is a query, an item that goes with it (`data/graph/pairs.py`), its share of the batch's
random negatives, and hard negatives of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.contract.artifact import read
from data.contract.schema import OBJECTIVES
from data.dataset import Dataset
from data.graph.example_rows import example_table
from data.graph.neighborhoods import SamplerSource, open_graph
from data.graph.pairs import (
    USER_ITEM,
    Pairs,
    co_board,
    joined,
    next_engagements,
    other_items,
    user_items,
)
from data.graph.walks import Neighborhoods, WalkSettings, rank_band
from data.queries import SplitLog
from data.splits import SplitSettings
from data.training_log import TrainingLog
from data.windows import Windows

if TYPE_CHECKING:
    import pyarrow as pa

    from data.contract.encode import Events, Ints


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
        users_are_boards: whether a user is a node of the graph; else their other items stand for
            them.
    """

    log: LogSource
    sampler: SamplerSource
    objectives: tuple[str, ...]
    draws: Draws
    pair_ms: int | None
    last_ms: int | None
    users_are_boards: bool

    @property
    def growth(self) -> float:
        """An event's 20 bytes become the neighbourhoods of its examples."""
        nodes = 2 + self.draws.random + self.draws.hard
        return len(self.objectives) * nodes * 8 * self.sampler.walk.neighbors / 20

    def __call__(self, table: pa.Table, epoch: int, rng: np.random.Generator) -> pa.Table:
        """Examples of a block of users, one row each (columns: `example_table`)."""
        log = self.log.open()
        lesson = log.lesson(table)
        engaged = lesson.engaged()
        pairs = self._pairs(lesson.users, engaged, rng)
        random = self._random(log.log.dataset, len(pairs.query), rng)
        hard = self._hard(pairs, self.draws.hard_in(epoch), rng)
        items = np.concatenate([pairs.positive[:, None], random, hard], axis=1)
        of_items = self.sampler.open().of(items.ravel(), "item")
        ordered = log.log.dataset.order != "none"
        of_queries = self._queries(pairs, engaged, ordered, rng)
        return example_table(pairs, of_queries, items, of_items)

    def _pairs(self, users: Ints, engaged: Events, rng: np.random.Generator) -> Pairs:
        makers = {
            "next_engagement": lambda: next_engagements(engaged, self.pair_ms),
            "co_board": lambda: co_board(open_graph(self.sampler.adjacency), engaged, rng),
            "user_item": lambda: user_items(users, engaged),
        }
        return joined([makers[name]() for name in OBJECTIVES if name in self.objectives])

    def _queries(
        self, pairs: Pairs, engaged: Events, ordered: bool, rng: np.random.Generator
    ) -> Neighborhoods:
        """Neighbourhoods of all queries, items and users."""
        sampler, width = self.sampler.open(), self.sampler.walk.neighbors
        of_users = pairs.objective == USER_ITEM
        parts = [sampler.of(pairs.query[~of_users], "item")]
        if self.users_are_boards:
            parts.append(sampler.of(pairs.query[of_users], "board"))
        elif of_users.any():
            parts.append(other_items(engaged, width, ordered, rng))
        # User-item pairs come last (see `OBJECTIVES`).
        return Neighborhoods(
            np.concatenate([part.neighbors for part in parts]),
            np.concatenate([part.weights for part in parts]),
        )

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
