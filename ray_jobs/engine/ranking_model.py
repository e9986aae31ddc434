"""A trained ranker applied to impressions, by the training code itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from data.batching import Admission, Encoder, ranker_batch
from data.contract.artifact import current, has_current
from data.contract.calibration import Calibrators
from data.contract.settings import build
from data.dataset import Dataset
from data.requests import Requests, UserEvents
from data.track_record import Standings, TrackRecord
from data.trends import Trends
from models.ranker import Ranker, build_ranker
from models.ranker_settings import RankerSettings
from ray_jobs.engine.inference import Floats, as_numpy, chunks_of, filled, look_up

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from data.contract.artifact import Artifact
    from data.contract.encode import Ints, Mask
    from data.queries import SplitLog
    from ray_jobs.engine.loop import Snapshot

CHUNK_REQUESTS = 256
CALIBRATION = "calibration"


@dataclass
class RankingModel:
    """The ranker with its tables, and what turns its logits into probabilities."""

    core: Ranker
    tables: Mapping[str, Tensor]
    dataset: Dataset
    max_length: int
    calibrators: Calibrators
    record: TrackRecord = field(default_factory=TrackRecord)
    name: ClassVar[str] = "ranker"

    @classmethod
    def of(cls, dataset: Dataset, settings: RankerSettings, snapshot: Snapshot) -> RankingModel:
        """Builds the ranker and fills it; it knows of no past (see `knowing`)."""
        core = build_ranker(settings, dataset.vocabulary)
        plain = Calibrators.identity(dataset.vocabulary.actions, settings.negative_rate)
        length = settings.sequence.max_length
        return cls(core, filled(core, snapshot), dataset, length, plain)

    @classmethod
    def open(
        cls, artifact: Artifact, dataset: Dataset, calibration: Artifact | None = None
    ) -> RankingModel:
        """Loads a ranker artefact, and its calibrators if they have been fitted."""
        settings = build(RankerSettings, artifact.manifest.settings["ranker"])
        weights = load_file(artifact.path / "model.safetensors")
        model = cls.of(dataset, settings, weights)
        if calibration is not None:
            model.calibrators = Calibrators.load(calibration.path)
        return model

    def knowing(self, log: SplitLog, parts: Sequence[int], asked: Mask) -> RankingModel:
        """The same model for requests that may know how items and users did in some parts.

        `asked` are the users of the requests, [rows] (`users_of`).
        """
        self.record = record_of(self.core.settings, log, parts, asked)
        return self

    @cached_property
    def encoder(self) -> Encoder:
        """Every row looks up itself: rows without an embedding are zeros in the tables."""
        data = self.dataset
        everyone = Admission(np.ones(data.item_ids.rows, bool), np.ones(data.user_ids.rows, bool))
        return Encoder(data.items, data.users, everyone, data.user_days)

    def probabilities(self, impressions: pa.Table, events: UserEvents) -> Floats:
        """Probability of each action at each impression; see `logits`. float32[N, actions]."""
        segments = self.segments(impressions)
        return self.calibrators(self.logits(impressions, events), segments)

    def uncalibrated(self, logits: Floats, segments: Mask) -> Floats:
        """Probabilities as they were before any calibrator was fitted, float32[N, actions]."""
        rate = self.core.settings.negative_rate
        return Calibrators.identity(self.calibrators.actions, rate)(logits, segments)

    def segments(self, impressions: pa.Table) -> Mask:
        """Where the ranker had no ID row to go by, bool[N, 2] (`calibration.SEGMENTS`)."""
        rows = {"item_id": impressions["item"], "user_id": impressions["user"]}
        known = [
            has_row(self.tables[name], column.to_numpy().astype(np.int64))
            for name, column in rows.items()
        ]
        return ~np.stack(known, axis=1)

    def logits(self, impressions: pa.Table, events: UserEvents) -> Floats:
        """What the heads give at each impression.

        Args:
            impressions: encoded impressions, rows of a request contiguous, N in all.
            events: what may be known of their users; cut to the moment of each request here.

        Returns:
            float32[N, actions].
        """
        actions = self.dataset.vocabulary.actions
        requests = Requests.of(impressions, actions)
        chunks = chunks_of(np.arange(len(requests)), CHUNK_REQUESTS)
        found = [self.of_requests(requests.take(at), events) for at in chunks]
        return np.concatenate([np.zeros((0, len(actions)), np.float32), *found])

    @torch.inference_mode()
    def of_requests(self, requests: Requests, events: UserEvents) -> Floats:
        """The same of a few requests at once."""
        histories = events.histories(requests, self.max_length)
        actions = self.dataset.vocabulary.actions
        batch = ranker_batch(requests, histories, self.encoder, actions, self.record)
        rows = {n: look_up(t, batch.ids[n].values.numpy()) for n, t in self.tables.items()}
        return as_numpy(self.core.logits(rows, batch))


def record_of(
    settings: RankerSettings, log: SplitLog, parts: Sequence[int], asked: Mask
) -> TrackRecord:
    """What a ranker of these settings reads of how items and users did in some parts of a log.

    `asked` are the users whose counts will be asked for, [rows].
    """
    counted = Standings.of(log, parts, settings.half_life_days, asked) if settings.tallies else None
    return TrackRecord(Trends.of(log, parts) if settings.trends else None, counted)


def users_of(impressions: pa.Table, dataset: Dataset) -> Mask:
    """Users of encoded impressions: those of whom anything has to be known, [rows]."""
    asked = np.zeros(dataset.user_ids.rows, bool)
    asked[impressions["user"].to_numpy()] = True
    return asked


def calibration_of(root: Path, ranker: Artifact) -> Artifact | None:
    """The current calibrators, if they were fitted for this ranker."""
    if not has_current(root, CALIBRATION):
        return None
    found = current(root, CALIBRATION)
    return found if ranker.reference() in found.manifest.parents else None


def has_row(table: Tensor, rows: Ints) -> Mask:
    """Which rows have an ID embedding that is not all zeros, bool[N]."""
    distinct, at = np.unique(rows, return_inverse=True)
    found: Mask = np.any(as_numpy(look_up(table, distinct)), axis=1)
    return found[at]
