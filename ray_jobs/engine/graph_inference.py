"""The trained graph encoder applied to items and users, a chunk at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data.batching import tensors
from data.dataset import Dataset
from data.graph.neighborhoods import Sampler
from data.graph.walks import Neighborhoods
from data.numbering import numbered
from models.graph_encoder import GraphEncoder
from ray_jobs.engine.graph_groups import Users
from ray_jobs.engine.inference import CHUNK_USERS, Floats, filled, look_up
from ray_jobs.graph_settings import GraphSettings

if TYPE_CHECKING:
    from data.contract.encode import Ints
    from data.queries import Queries
    from ray_jobs.engine.loop import Snapshot

CHUNK_NODES = 4096


@dataclass
class GraphEmbedder:
    """The encoder with its tables and the sampler of neighbourhoods."""

    core: GraphEncoder
    tables: Mapping[str, Tensor]
    dataset: Dataset
    sampler: Sampler
    settings: GraphSettings
    users: Users
    device: str = "cpu"

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        settings: GraphSettings,
        snapshot: Snapshot,
        sampler: Sampler,
        users: Users,
        device: str = "cpu",
    ) -> GraphEmbedder:
        """Builds the encoder and fills it; `users`: as what they were trained."""
        core = GraphEncoder(settings, dataset.vocabulary)
        tables = filled(core, snapshot)
        return cls(core.to(device), tables, dataset, sampler, settings, users, device)

    @cached_property
    def item_vectors(self) -> Floats:
        """Unit vectors of all item rows; zeros for the rows that are no items. [rows, D]."""
        space = self.dataset.item_ids
        vectors = np.zeros((space.rows, self.settings.dim), np.float32)
        for start in range(space.first_row, space.rows, CHUNK_NODES):
            rows = np.arange(start, min(start + CHUNK_NODES, space.rows))
            vectors[rows] = self.items(rows)
        return vectors

    def items(self, rows: Ints) -> Floats:
        """Unit vectors of item rows, float32[N, D]."""
        return self._encode(rows, None, self.sampler.of(rows, "item"))

    @torch.inference_mode()
    def _encode(self, items: Ints | None, users: Ints | None, records: Neighborhoods) -> Floats:
        """Nodes of one side."""
        own = np.zeros(0, np.int64) if items is None else items
        wanted = np.concatenate([own, records.neighbors.ravel().astype(np.int64)])
        distinct, place = numbered(wanted)
        inputs = tensors(self.dataset.items.gather(distinct))
        inputs["node.item"] = torch.from_numpy(place[: len(own)])
        inputs["node.neighbors"] = torch.from_numpy(place[len(own) :]).view(records.neighbors.shape)
        inputs["node.weights"] = torch.from_numpy(np.array(records.weights))
        of_users = np.zeros(0, np.int64) if users is None else users
        looked_up = {"item_id": distinct, "user_id": of_users}
        rows = {name: look_up(table, looked_up[name]) for name, table in self.tables.items()}
        rows, inputs = self._placed(rows), self._placed(inputs)
        found: Floats = self.core.nodes(rows, inputs).cpu().numpy()
        return found

    def _placed(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Where the encoder is; tables stay in host memory, only the rows asked for travel."""
        return {name: array.to(self.device) for name, array in arrays.items()}

    def scores(self, queries: Queries) -> Floats:
        """Full-catalogue scores of a chunk of queries, float32[b, rows]."""
        found = [self.user_vectors(part) for part in queries.chunks(CHUNK_USERS)]
        scores: Floats = np.concatenate(found) @ self.item_vectors.T
        return scores

    def user_vectors(self, queries: Queries) -> Floats:
        """Users as of their query: by what they engaged with, float32[Q, D].

        A user who was trained is encoded like a node, from the graph or from their past; else the
        mean of the item vectors of their past stands for them.
        """
        if self.users == "nodes":
            return self._encode(None, queries.users, self.sampler.of(queries.users, "board"))
        width = self.settings.walk.neighbors if self.users == "past" else self.settings.history
        known = engaged_before(queries, self.dataset.vocabulary.codes("positive"), width)
        if self.users == "past":
            return self._encode(None, queries.users, known)
        sums = (self.item_vectors[known.neighbors] * known.weights[..., None]).sum(1)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        vectors: Floats = sums / np.maximum(norms, 1e-9)
        return vectors


def engaged_before(queries: Queries, positive_codes: list[int], width: int) -> Neighborhoods:
    """The newest `width` positive items of each query's history, all alike, [Q, width]."""
    history = queries.history
    positive = np.isin(history.action, positive_codes)
    owners = queries.history_owners[positive]
    items = history.item[positive]
    counts = np.bincount(owners, minlength=len(queries))
    ends = np.cumsum(counts)
    from_end = ends[owners] - 1 - np.arange(len(owners))
    kept = from_end < width
    neighbors = np.zeros((len(queries), width), np.int32)
    weights = np.zeros((len(queries), width), np.float32)
    neighbors[owners[kept], from_end[kept]] = items[kept]
    weights[owners[kept], from_end[kept]] = 1 / np.minimum(counts, width)[owners[kept]]
    return Neighborhoods(neighbors, weights)
