"""What one training run is given: data, settings, the phase, and where its checkpoints lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch.nn.functional as F
from safetensors.torch import load_file

from data.contract import storage
from data.contract.artifact import read
from data.contract.settings import UserError
from data.dataset import Dataset
from data.graph.neighborhoods import SamplerSource
from data.queries import SplitLog
from data.splits import TRAIN, VALID
from data.windows import Windows, resolve
from ray_jobs.engine.model_kinds import UPSTREAM
from ray_jobs.engine.snapshots import split_snapshot
from ray_jobs.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

Phase = Literal["choose", "refit"]


@dataclass(frozen=True)
class Assignment:
    """One training run; it travels to the workers, so it holds names and no open files.

    Attributes:
        root: folder of all artefacts.
        model: name of the task.
        settings: the job's settings.
        dataset_version: what to learn from.
        candidates_version: impressions made from the retriever's candidates, if the log has none.
        folder: checkpoints and the outcome of this phase.
        phase: choose validates and stops early; refit takes `max_steps` on everything before the
            reported part.
        max_steps: steps to take; 0 leaves it to the settings.
        start_from: version of the same model whose weights are taken over, if any.
        alone: whether nothing is built on the model, so that it may learn from later days.
        sampler: of the neighbourhoods that the graph encoder is trained on.
        vectors_version: item embeddings that stand among the items' columns, if any.
        user_vectors_version: embeddings of users by day that the model reads, if any.
        ids_version: rows of users and items that the model's tables begin with, if any.
        bars: least score at each validation, None where there is none; below it the run is cut
            short: a sweep has seen better.
        device: of the rank that holds it, for what it infers to judge itself.
    """

    root: Path
    model: str
    settings: Settings
    dataset_version: str
    folder: Path
    phase: Phase
    candidates_version: str | None = None
    max_steps: int = 0
    start_from: str | None = None
    alone: bool = False
    sampler: SamplerSource | None = None
    vectors_version: str | None = None
    user_vectors_version: str | None = None
    ids_version: str | None = None
    bars: tuple[float | None, ...] = ()
    device: str = "cpu"

    def here(self) -> Assignment:
        """The same on this machine: with the paths of its own mirror, and what they name."""
        sampler = self.sampler and self.sampler.here()
        return replace(
            self, root=storage.here(self.root), folder=storage.here(self.folder), sampler=sampler
        )

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, opened; with the embeddings it is to be read with."""
        dataset = Dataset(read(self.root / "dataset" / self.dataset_version), self.root)
        kinds = ("item_embeddings", self.vectors_version), ("user_days", self.user_vectors_version)
        items, users = (read(self.root / kind / name) if name else None for kind, name in kinds)
        return dataset.with_vectors(items, users)

    def id_tables(self) -> dict[str, Tensor]:
        """Reads tables that the model's own begin with, by name; none if they are drawn at random.

        Rows of unit length: their loss reads directions alone, and lengths follow the step size.
        They are as large as the model's own, so nobody keeps them.
        """
        if self.ids_version is None:
            return {}
        learnt = read(self.root / "id" / self.ids_version)
        weights = load_file(learnt.path / "model.safetensors")
        tables = split_snapshot(weights)[1]
        return {name: F.normalize(table, dim=1) for name, table in tables.items()}

    @cached_property
    def windows(self) -> Windows | None:
        """Windows of a time split, else None."""
        if self.settings.split.kind != "time":
            return None
        return resolve(self.settings.windows, self.dataset.calendar)

    @cached_property
    def log(self) -> SplitLog:
        """The data set under its split."""
        return SplitLog(self.dataset, self.settings.split, self.windows, self.settings.seed)

    @property
    def parts(self) -> tuple[int, ...]:
        """Parts of the log that may be learnt from."""
        return (TRAIN,) if self.phase == "choose" else (TRAIN, VALID)

    @property
    def label_days(self) -> tuple[int, int] | None:
        """First and last day whose labels are learnt from, in a time split."""
        if self.windows is None:
            return None
        days: tuple[int, int] = getattr(self.windows, self.model)
        return self.windows.train if self.model in UPSTREAM and self.alone else days

    def steps_of(self, own: int) -> int:
        """Steps to take: the phase's, else the setting's, else the model's own."""
        return self.max_steps or self.settings.train.max_steps or own

    def stream_seed(self, name: str) -> int:
        """Seed of one of the run's random streams."""
        key = [self.settings.seed, *name.encode()]
        return int(np.random.SeedSequence(key).generate_state(1)[0])

    def require_labels(self, count: int) -> None:
        """Raises UserError when there is nothing to predict."""
        if count == 0:
            raise UserError(
                f"{self.model} has no training labels: no positive action on a new item lies in "
                "its window; check source.polarity, split.* and windows.*"
            )
