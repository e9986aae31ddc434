"""Training the graph encoder: examples with their neighbourhoods, as the stream brings them."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from data.batching import even_chunks, graph_batch
from data.graph.example_rows import Examples
from data.graph.examples import Draws, ExampleStage, LogSource, items_there
from data.negatives import PoolSampler
from models.graph_encoder import GraphEncoder
from ray_jobs.engine.graph_groups import objectives_of, resolved_graph, users_of
from ray_jobs.engine.graph_inference import GraphEmbedder
from ray_jobs.engine.streams import BlockPlan
from ray_jobs.tasks.retrieval_task import LONG_RUN_USERS, RetrievalTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pyarrow as pa
    from torch import nn

    from data.blocks import Stage
    from data.ranking import Scorer
    from models.batch import Batch
    from models.embeddings import Table
    from ray_jobs.engine.assignment import Assignment
    from ray_jobs.engine.loop import Snapshot

HOUR_MS = 3_600_000


class GraphTask(RetrievalTask):
    """Multi-task training of item (and user) nodes (PinSage, KDD'18; OmniSage, 2025)."""

    name = "graph"

    def __init__(self, assignment: Assignment) -> None:
        """Counts labels in one pass; opens nothing else."""
        self.settings = resolved_graph(assignment.settings, assignment.dataset)
        super().__init__(assignment, self.settings, assignment.label_days)
        self.objectives = objectives_of(assignment.settings.graph, assignment.dataset)
        assignment.require_labels(self.num_labels)

    @property
    def max_steps(self) -> int:
        """As set, else so many passes over the labels by all ranks together."""
        assert self.settings.epochs is not None
        ranks = max(1, self.assignment.settings.train.num_workers)
        passes = self.settings.epochs * len(self.objectives) * self.num_labels
        return self.settings.max_steps or max(1, passes // (self.batch_size * ranks))

    @property
    def num_labels(self) -> int:
        """Labels to learn from."""
        return int(self.counts.item_labels.sum())

    @property
    def batch_size(self) -> int:
        """Examples a step on each rank."""
        assert self.settings.batch_size is not None
        return self.settings.batch_size

    @property
    def last_ms(self) -> int | None:
        """First moment after the labels."""
        return self.log.span_ms[1] if self.log.span_ms else None

    @cached_property
    def pools(self) -> PoolSampler:
        """Makes pools; `random` is what all examples of a batch bring."""
        live = items_there(self.assignment.dataset, self.last_ms)
        negatives = self.settings.negatives
        random = self.settings.num_random * self.batch_size
        return PoolSampler(live, self.counts.item_share, negatives.in_batch or 0, random)

    def plan(self) -> BlockPlan:
        """All blocks of timelines, each made into examples where it is read."""
        seed = self.assignment.stream_seed("graph.plan")
        return BlockPlan(self.assignment.dataset.blocks, seed, self.stage)

    @cached_property
    def stage(self) -> Stage:
        """Makes the examples."""
        assignment, clock = self.assignment, self.assignment.dataset.calendar is not None
        assert assignment.sampler is not None
        return ExampleStage(
            self.labels,
            assignment.sampler,
            self.objectives,
            self._draws(),
            int(self.settings.pair_hours * HOUR_MS) if clock else None,
            self.last_ms,
            users_of(assignment.settings, assignment.dataset) == "nodes",
        )

    @property
    def labels(self) -> LogSource:
        """What Ray Data's tasks open the log from."""
        assignment = self.assignment
        return LogSource(
            assignment.root,
            assignment.dataset_version,
            assignment.settings.split,
            assignment.windows,
            assignment.settings.seed,
            self.log.parts,
            self.log.span_ms,
        )

    def _draws(self) -> Draws:
        negatives, walk = self.settings.negatives, self.settings.walk
        num_items = len(self.pools.live)
        low, high = (int(share * num_items) for share in negatives.band)
        longer = replace(walk, kind="random_walk", walks=self.settings.hard_walks)
        band = (low, max(high, low + 1))
        return Draws(self.settings.num_random, negatives.hard, negatives.hard_from, band, longer)

    def collate(self, table: pa.Table, rng: np.random.Generator) -> Iterator[Batch]:
        """Batches the examples of one block in random order."""
        if not table.num_rows:
            return
        examples = Examples.of(table, self.settings.num_random)
        for chunk in even_chunks(len(examples), self.batch_size, rng):
            yield graph_batch(examples.take(chunk), self.encoder, self.pools, rng)

    def build(self) -> tuple[nn.Module, list[Table]]:
        """The encoder, and tables with room for the ids of days to come."""
        core = GraphEncoder(self.settings, self.assignment.dataset.vocabulary)
        return core, self.roomy_tables(core)

    @property
    def validation_users(self) -> int:
        """One product of vectors a user: more of them cost little, and a thousand tell little."""
        return max(super().validation_users, LONG_RUN_USERS)

    def scorer(self, snapshot: Snapshot) -> Scorer:
        """The encoder over the graph that it is trained on."""
        dataset, sampler = self.assignment.dataset, self.assignment.sampler
        assert sampler is not None
        users = users_of(self.assignment.settings, dataset)
        embedder = GraphEmbedder.of(
            dataset, self.settings, snapshot, sampler.open(), users, self.assignment.device
        )
        return embedder.scores
