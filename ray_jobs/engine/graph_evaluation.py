"""Judging the graph encoder alone: users to items, items to items, and the spread of its space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.splits import TEST
from models.metrics import cosine_kurtosis
from ray_jobs.engine.embedders import Embedder
from ray_jobs.engine.graph_inference import engaged_before

if TYPE_CHECKING:
    from data.queries import Queries
    from ray_jobs.engine.evaluation import Tree
    from ray_jobs.engine.inference import Floats

ITEM_TO_ITEM = "last_item"


@dataclass(frozen=True)
class LastItem:
    """Scores by the item that a user engaged with last: item to item (PinSage, KDD'18, §4.2)."""

    embedder: Embedder

    def scores(self, queries: Queries) -> Floats:
        """Full-catalogue cosines with the last item, float32[b, rows]; 0 for the unknown."""
        codes = self.embedder.dataset.vocabulary.codes("positive")
        last = engaged_before(queries, codes, 1).neighbors[:, 0]
        vectors = self.embedder.item_vectors
        scores: Floats = vectors[last] @ vectors.T
        return scores


def spread(embedder: Embedder, seed: int) -> Tree:
    """How evenly items fill the space: kurtosis of the cosines of random pairs."""
    first = embedder.dataset.item_ids.first_row
    vectors = embedder.item_vectors[first:]
    rng = np.random.default_rng(np.random.SeedSequence([seed, TEST]))
    return {"cosine_kurtosis": cosine_kurtosis(vectors, rng), "items": len(vectors)}
