"""What an evaluation is about: trained models, the data set under its split, the impressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from data.blocks import num_rows
from data.contract.artifact import Artifact, current, read
from data.contract.settings import UserError, to_tree
from data.dataset import Dataset
from data.queries import SplitLog
from ray_jobs.embed import as_read_by
from ray_jobs.engine.job import Job
from ray_jobs.engine.predictions import read_impressions
from ray_jobs.engine.ranking_model import calibration_of
from ray_jobs.sample import Cutoff, log_of
from ray_jobs.tasks.ranker import candidate_files

if TYPE_CHECKING:
    from pathlib import Path

    from data.splits import SplitSettings

HeldOut = Literal["valid", "test"]


@dataclass(frozen=True, slots=True)
class Subject:
    """Models to evaluate, and what on.

    Attributes:
        job: settings and root.
        log: the data set under its split, read as the first model reads it, if there is one.
        datasets: the data set as each model reads it, by kind.
        models: the trained artefacts by kind.
        candidates: the impressions that the ranker was trained on, when the log has none.
        calibration: what calibrates the ranker, if it has been fitted.
    """

    job: Job
    log: SplitLog
    datasets: Mapping[str, Dataset]
    models: Mapping[str, Artifact]
    candidates: Artifact | None
    calibration: Artifact | None

    @classmethod
    def open(cls, job: Job, kinds: Sequence[str], trained: Mapping[str, Artifact]) -> Subject:
        """Finds what is to be evaluated on the current data set.

        Args:
            job: settings and root.
            kinds: of models.
            trained: artefacts to take instead of the current ones.

        Raises:
            UserError: a model is missing, is for other ids, or it or the calibrators have learnt
                from what is reported.
        """
        dataset = Dataset.open(job.root)
        log = log_of(job, dataset)
        models = {kind: trained.get(kind) or current(job.root, kind) for kind in kinds}
        calibration = calibration_of(job.root, models["ranker"]) if "ranker" in models else None
        cutoff = Cutoff.before_test(log.windows)
        for artifact in filter(None, (*models.values(), calibration)):
            _check_split(artifact, log.split)
            _check_window(artifact, log)
        datasets = {kind: as_read_by(job, dataset, of, cutoff) for kind, of in models.items()}
        log = replace(log, dataset=next(iter(datasets.values()), dataset))
        made = models["ranker"].manifest.parents if "ranker" in models else []
        versions = [parent["version"] for parent in made if parent["kind"] == "candidates"]
        candidates = read(job.root / "candidates" / versions[0]) if versions else None
        return cls(job, log, datasets, models, candidates, calibration)

    @property
    def parents(self) -> list[Artifact]:
        """What the evaluation is made from."""
        made = [found for found in (self.candidates, self.calibration) if found]
        return [self.log.dataset.artifact, *self.models.values(), *made]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide what is measured."""
        tree = to_tree(self.job.settings)
        return {name: tree[name] for name in ("seed", "split", "windows", "eval")}

    @property
    def facts(self) -> dict[str, str]:
        """What the report says on top."""
        settings, windows = self.job.settings, self.log.windows
        facts = {"split": settings.split.kind, "seed": str(settings.seed)}
        if windows:
            facts["reported days"] = f"{windows.test[0]}-{windows.test[1]}"
        return facts | {artifact.kind: artifact.version for artifact in self.parents}

    def impressions(self, part: HeldOut = "test") -> pa.Table:
        """Impressions of the reported part, or of validation, of users who are asked about.

        Raises UserError when there are none.
        """
        settings = self.job.settings
        files = self._impression_files(part)
        shown = read_impressions(files, settings.eval.max_impressions, settings.seed)
        return shown.filter(pa.array(self.log.asked(shown["user"].to_numpy().astype(np.int64))))

    def has_impressions(self, part: HeldOut = "test") -> bool:
        """Whether there are any."""
        return num_rows(self._impression_files(part)) > 0

    def _impression_files(self, part: HeldOut) -> list[Path]:
        if self.candidates:
            return candidate_files(self.job.root, self.candidates.version, (part,))
        windows = self.log.windows
        return self.log.dataset.impression_files(*getattr(windows, part)) if windows else []


def _check_split(artifact: Artifact, split: SplitSettings) -> None:
    learnt = artifact.manifest.settings.get("split")
    if learnt is None:  # earlier releases did not say
        return
    kept = learnt.get("eval_users", 0)
    if (learnt["kind"], learnt["column"]) == (split.kind, split.column) and (
        split.eval_users <= kept
    ):
        return
    raise UserError(
        f"{artifact.manifest.name} has learnt under split.kind={learnt['kind']} "
        f"split.column={learnt['column']} split.eval_users={kept} from what is reported under "
        f"split.kind={split.kind} split.column={split.column} split.eval_users={split.eval_users}; "
        "ask under the split that it was trained with, or train it again"
    )


def _check_window(artifact: Artifact, log: SplitLog) -> None:
    window, windows = artifact.manifest.window, log.windows
    if window and windows and window[1] >= windows.test[0]:
        raise UserError(
            f"{artifact.manifest.name} has learnt from days up to {window[1]}, but days "
            f"{windows.test[0]}-{windows.test[1]} are reported; make it again with these windows"
        )
