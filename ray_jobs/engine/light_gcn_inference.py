"""The trained LightGCN applied to the nodes of a graph, all at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from data.dataset import Dataset
from models.light_gcn import Edges, LightGCN
from ray_jobs.engine.inference import Floats, filled
from ray_jobs.engine.snapshots import CORE
from ray_jobs.graph_settings import GraphSettings

if TYPE_CHECKING:
    from data.contract.encode import Ints
    from data.graph.store import Graph
    from data.queries import Queries
    from ray_jobs.engine.loop import Snapshot


@dataclass
class WholeGraphEmbedder:
    """The encoder over a graph; an embedder like `GraphEmbedder`."""

    core: LightGCN
    dataset: Dataset
    settings: GraphSettings

    @classmethod
    def of(
        cls, dataset: Dataset, settings: GraphSettings, snapshot: Snapshot, graph: Graph
    ) -> WholeGraphEmbedder:
        """Builds the encoder over a graph, of whatever day, and fills it."""
        sizes = (len(snapshot[f"{CORE}{side}"]) for side in ("users", "items"))
        core = LightGCN(settings, edges_of(graph), *sizes)
        filled(core, snapshot)
        return cls(core, dataset, settings)

    @cached_property
    def _nodes(self) -> tuple[Floats, Floats]:
        with torch.inference_mode():
            users, items = self.core.nodes()
        return users.numpy(), items.numpy()

    @property
    def item_vectors(self) -> Floats:
        """Unit vectors of all item rows; zeros for those without an edge. [rows, D]."""
        return self._nodes[1]

    def items(self, rows: Ints) -> Floats:
        """Unit vectors of item rows, float32[N, D]."""
        found: Floats = self.item_vectors[rows]
        return found

    def user_vectors(self, queries: Queries) -> Floats:
        """Unit vectors of the users of queries, float32[Q, D]; zeros for those without an edge."""
        vectors, users = self._nodes[0], queries.users
        known = users < len(vectors)
        found: Floats = np.where(known[:, None], vectors[np.where(known, users, 0)], 0)
        return found

    def scores(self, queries: Queries) -> Floats:
        """Full-catalogue scores of a chunk of queries, float32[b, rows]."""
        scores: Floats = self.user_vectors(queries) @ self.item_vectors.T
        scores += self.core.prior().detach().numpy()
        return scores


def edges_of(graph: Graph) -> Edges:
    """What the encoder takes; the boards of the graph are users."""
    users, items = graph.boards, graph.items
    return Edges(users.indptr, users.indices, items.indptr, items.indices)
