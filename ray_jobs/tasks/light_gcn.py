"""Training LightGCN: interactions stream in, the graph is in memory whole."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from data.batching import even_chunks, interaction_batch
from data.graph.interactions import Interactions, InteractionStage
from data.graph.neighborhoods import open_graph
from models.light_gcn import LightGCN
from ray_jobs.engine.graph_groups import reads_whole_graph
from ray_jobs.engine.inference import table_rows
from ray_jobs.engine.light_gcn_inference import WholeGraphEmbedder, edges_of
from ray_jobs.tasks.graph import GraphTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pyarrow as pa
    from torch import nn

    from data.blocks import Stage
    from data.graph.store import Graph
    from data.negatives import PoolSampler
    from data.ranking import Scorer
    from models.batch import Batch
    from models.embeddings import Table
    from ray_jobs.engine.assignment import Assignment
    from ray_jobs.engine.loop import Snapshot


class LightGCNTask(GraphTask):
    """User-item pairs over all edges at every step."""

    @property
    def graph(self) -> Graph:
        """The edges that are known."""
        assert self.assignment.sampler is not None
        return open_graph(self.assignment.sampler.adjacency)

    @cached_property
    def stage(self) -> Stage:
        """Makes the examples."""
        return InteractionStage(self.labels, self.settings.num_random, self.last_ms)

    @cached_property
    def pools(self) -> PoolSampler:
        """Makes pools, no larger than the settings say: examples may bring more."""
        random = self.settings.negatives.random
        assert random is not None
        return replace(super().pools, random=random)

    def collate(self, table: pa.Table, rng: np.random.Generator) -> Iterator[Batch]:
        """Batches the examples of one block in random order."""
        if not table.num_rows:
            return
        examples = Interactions.of(table)
        for chunk in even_chunks(len(examples.user), self.batch_size, rng):
            yield interaction_batch(examples.take(chunk), self.pools, rng)

    def build(self) -> tuple[nn.Module, list[Table]]:
        """The encoder, with room for the ids of days to come."""
        data = self.assignment.dataset
        sizes = table_rows(data.user_ids.rows), table_rows(data.item_ids.rows)
        return LightGCN(self.settings, edges_of(self.graph), *sizes), []

    def scorer(self, snapshot: Snapshot) -> Scorer:
        """The encoder over the graph that it is trained on."""
        dataset = self.assignment.dataset
        return WholeGraphEmbedder.of(dataset, self.settings, snapshot, self.graph).scores


def graph_task(assignment: Assignment) -> GraphTask:
    """The task of whichever encoder the settings or the log call for."""
    whole = reads_whole_graph(assignment.settings, assignment.dataset)
    return LightGCNTask(assignment) if whole else GraphTask(assignment)
