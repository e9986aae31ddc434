"""Fits the current ranker's calibrators: `python -m ray_jobs.calibrate root=runs/default`.

On days that the ranker has not learnt from (`windows.calibration`), or, where a log has no
impressions, on the validation part of those made from candidates. Run again on later days, it
mends probabilities without training; `export` and `index` then publish them. Items are as of the
day before these days, for later boards know their labels. Cost grows with the impressions of those
days, of which `ENOUGH` are drawn where there are more, whole requests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from data.contract.artifact import Artifact, Draft, current
from data.contract.calibration import Calibrators
from data.contract.id_lineage import check_same_ids
from data.contract.settings import UserError, to_tree
from data.dataset import Dataset
from data.requests import UserEvents
from data.splits import TEST, TRAIN, VALID
from data.training_log import TrainingLog
from models.metrics import calibration, expected_calibration_error
from ray_jobs.embed import as_read_by
from ray_jobs.engine.job import Job, run
from ray_jobs.engine.plain_json import without_nan
from ray_jobs.engine.predictions import sampled
from ray_jobs.engine.ranking_model import CALIBRATION, RankingModel, users_of
from ray_jobs.sample import Cutoff, log_of
from ray_jobs.tasks.ranker import candidate_files

if TYPE_CHECKING:
    from data.queries import SplitLog
    from models.metrics import Bools

# An action that follows one impression in a thousand keeps 1,000 positives, its rate within 3%.
ENOUGH = 1_000_000


def calibrate(job: Job, move_pointer: bool = True) -> Artifact:
    """Fits calibrators for the current ranker, or finds them fitted already.

    Without impressions that the ranker has not learnt from, it keeps its probabilities, and the
    manifest says so.

    Raises:
        UserError: the ranker was trained for other ids than the data set's, or has learnt from the
            days of its calibration.
    """
    dataset, ranker = Dataset.open(job.root), current(job.root, "ranker")
    check_same_ids(job.root, dataset.artifact, ranker)
    log = log_of(job, dataset)
    lessons = Lessons.of(job.root, ranker, log)

    def write(draft: Draft) -> None:
        found, details = _fitted(job, log, ranker, lessons)
        found.save(draft.path)
        draft.fields |= {
            "id_space": ranker.manifest.id_space,
            "window": list(lessons.days) if lessons.days else None,
            "details": details,
        }

    tree = to_tree(job.settings)
    settings = {name: tree[name] for name in ("windows", "split", "seed")}
    return job.make(CALIBRATION, [ranker, dataset.artifact], settings, write, move_pointer)


@dataclass(frozen=True, slots=True)
class Lessons:
    """Impressions that the ranker has not learnt from.

    Attributes:
        files: where they are.
        days: first and last of their labels; None without days, where there are none.
        known: parts whose events they may know.
    """

    files: list[Path]
    days: tuple[int, int] | None
    known: tuple[int, ...]

    @classmethod
    def of(cls, root: Path, ranker: Artifact, log: SplitLog) -> Lessons:
        """Those of `windows.calibration`, or made from candidates of the validation part.

        Raises:
            UserError: the ranker has learnt from these days.
        """
        if log.windows is None:
            return cls([], None, (TRAIN, VALID))
        made = [p["version"] for p in ranker.manifest.parents if p["kind"] == "candidates"]
        if made:
            return cls(candidate_files(root, made[0], ("valid",)), log.windows.valid, (TRAIN,))
        days, learnt = log.windows.calibration, ranker.manifest.window
        if learnt and days[0] <= learnt[1]:
            raise UserError(
                f"windows.calibration begins on day {days[0]}, but {ranker.manifest.name} has "
                f"learnt from days up to {learnt[1]}; move windows.calibration behind them, or end "
                "windows.ranker before and train the ranker again"
            )
        return cls(log.dataset.impression_files(*days), days, (TRAIN, VALID, TEST))

    @property
    def cutoff(self) -> Cutoff:
        """Up to when items are known: the day before the first label."""
        return Cutoff(self.known, self.days[0] - 1 if self.days else None)

    def drawn(self, log: SplitLog, seed: int) -> pa.Table:
        """About `ENOUGH` of them, none of users who are kept apart for evaluation."""
        table = sampled(self.files, ENOUGH, seed)
        apart = log.unseen(table["user"].to_numpy().astype(np.int64))
        return table.filter(pa.array(~apart))


def _fitted(
    job: Job, log: SplitLog, ranker: Artifact, lessons: Lessons
) -> tuple[Calibrators, dict[str, Any]]:
    log = replace(log, dataset=as_read_by(job, log.dataset, ranker, lessons.cutoff))
    model = RankingModel.open(ranker, log.dataset)
    if not lessons.files:
        return model.calibrators, {"impressions": 0}
    impressions = lessons.drawn(log, job.settings.seed)
    asked = users_of(impressions, log.dataset)
    model.knowing(log, lessons.known, asked)
    events = UserEvents.of(TrainingLog(log, lessons.known), asked)
    logits = model.logits(impressions, events)
    actions = log.dataset.vocabulary.actions
    labels = np.stack([np.asarray(impressions[f"label.{a}"]).astype(bool) for a in actions], 1)
    segments = model.segments(impressions)
    before = model.calibrators(logits, segments)
    rate = model.core.settings.negative_rate
    found = Calibrators.fit(actions, logits, segments, labels, rate)
    after = found(logits, segments)
    judged = {a: _judged(labels[:, i], before[:, i], after[:, i]) for i, a in enumerate(actions)}
    return found, {"impressions": len(labels), "actions": without_nan(judged)}


def _judged(labels: Bools, before: Any, after: Any) -> dict[str, float]:
    """On the fitted rows themselves: what is reported of other days is in the evaluation."""
    return {
        "positives": int(labels.sum()),
        "calibration_before": calibration(labels, before),
        "ece_before": expected_calibration_error(labels, before),
        "ece_after": expected_calibration_error(labels, after),
    }


def main(job: Job) -> dict[str, Any]:
    """Fits calibrators for the current ranker and makes them current."""
    with job.stage("calibrate"):
        artifact = calibrate(job)
    return {"calibration": artifact.version, **artifact.manifest.details}


if __name__ == "__main__":
    run("calibrate", main)
