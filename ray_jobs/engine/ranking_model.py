"""A trained ranker applied to impressions, by the training code itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from data.batching import Admission, Encoder, ranker_batch
from data.contract.settings import build
from data.dataset import Dataset
from data.requests import Requests, UserEvents
from models.ranker import Ranker, RankerSettings, build_ranker
from ray_jobs.engine.inference import Floats, as_numpy, chunks_of, filled, look_up

if TYPE_CHECKING:
    import pyarrow as pa

    from data.contract.artifact import Artifact
    from ray_jobs.engine.loop import Snapshot

CHUNK_REQUESTS = 256


@dataclass
class RankingModel:
    """The ranker with its tables."""

    core: Ranker
    tables: Mapping[str, Tensor]
    dataset: Dataset
    max_length: int
    name: ClassVar[str] = "ranker"

    @classmethod
    def of(cls, dataset: Dataset, settings: RankerSettings, snapshot: Snapshot) -> RankingModel:
        """Builds the ranker and fills it."""
        core = build_ranker(settings, dataset.vocabulary)
        return cls(core, filled(core, snapshot), dataset, settings.sequence.max_length)

    @classmethod
    def open(cls, artifact: Artifact, dataset: Dataset) -> RankingModel:
        """Loads a ranker artefact."""
        settings = build(RankerSettings, artifact.manifest.settings["ranker"])
        return cls.of(dataset, settings, load_file(artifact.path / "model.safetensors"))

    @cached_property
    def encoder(self) -> Encoder:
        """Every row looks up itself: rows without an embedding are zeros in the tables."""
        data = self.dataset
        everyone = Admission(np.ones(data.item_ids.rows, bool), np.ones(data.user_ids.rows, bool))
        return Encoder(data.items, data.users, everyone, data.user_days)

    def probabilities(self, impressions: pa.Table, events: UserEvents) -> Floats:
        """Probability of each action at each impression.

        Args:
            impressions: encoded impressions, rows of a request contiguous, N in all.
            events: what may be known of every user; cut to the moment of each request here.

        Returns:
            float32[N, actions].
        """
        actions = self.dataset.vocabulary.actions
        requests = Requests.of(impressions, actions)
        chunks = chunks_of(np.arange(len(requests)), CHUNK_REQUESTS)
        found = [self._rank(requests.take(at), events) for at in chunks]
        return np.concatenate([np.zeros((0, len(actions)), np.float32), *found])

    @torch.inference_mode()
    def _rank(self, requests: Requests, events: UserEvents) -> Floats:
        histories = events.histories(requests, self.max_length)
        batch = ranker_batch(requests, histories, self.encoder, self.dataset.vocabulary.actions)
        rows = {n: look_up(t, batch.ids[n].values.numpy()) for n, t in self.tables.items()}
        return as_numpy(torch.sigmoid(self.core.logits(rows, batch)))
