"""Fits the current ranker's calibrators: `python -m ray_jobs.calibrate root=runs/default`.

On days that the ranker has not learnt from (`windows.calibration`), or, where a log has no
impressions, on the validation part of those made from candidates. Run again on later days, it
mends probabilities without training; `export` and `index` then publish them. Cost grows with the
impressions of those days, of which `ENOUGH` are drawn where there are more, whole requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from data.contract.artifact import Artifact, Draft, current
from data.contract.calibration import Calibrators
from data.contract.id_lineage import check_same_ids
from data.contract.settings import to_tree
from data.dataset import Dataset
from data.requests import UserEvents
from data.splits import TRAIN
from data.training_log import TrainingLog
from models.metrics import calibration, expected_calibration_error
from ray_jobs.embed import as_read_by
from ray_jobs.engine.evaluation import without_nan
from ray_jobs.engine.job import Job, run
from ray_jobs.engine.predictions import sampled
from ray_jobs.engine.ranking_model import CALIBRATION, RankingModel, users_of
from ray_jobs.sample import Cutoff, log_of
from ray_jobs.tasks.ranker import candidate_files

if TYPE_CHECKING:
    from pathlib import Path

    from data.queries import SplitLog
    from models.metrics import Bools

# An action that follows one impression in a thousand keeps 1,000 positives, its rate within 3%.
ENOUGH = 1_000_000


def calibrate(job: Job, move_pointer: bool = True) -> Artifact:
    """Fits calibrators for the current ranker, or finds them fitted already.

    Without impressions that the ranker has not learnt from, it keeps its probabilities, and the
    manifest says so.

    Raises:
        UserError: the ranker was trained for other ids than the data set's.
    """
    dataset, ranker = Dataset.open(job.root), current(job.root, "ranker")
    check_same_ids(job.root, dataset.artifact, ranker)

    def write(draft: Draft) -> None:
        found, details = _fitted(job, dataset, ranker)
        found.save(draft.path)
        window = _window(ranker, log_of(job, dataset))
        draft.fields |= {
            "id_space": ranker.manifest.id_space,
            "window": window,
            "details": details,
        }

    tree = to_tree(job.settings)
    settings = {name: tree[name] for name in ("windows", "split", "seed")}
    return job.make(CALIBRATION, [ranker, dataset.artifact], settings, write, move_pointer)


def _fitted(job: Job, dataset: Dataset, ranker: Artifact) -> tuple[Calibrators, dict[str, Any]]:
    log = log_of(job, _as_read_by(job, dataset, ranker))
    parts = (TRAIN,)
    model = RankingModel.open(ranker, log.dataset)
    files = _files(job.root, ranker, log)
    if not files:
        return model.calibrators, {"impressions": 0}
    impressions = sampled(files, ENOUGH, job.settings.seed)
    asked = users_of(impressions, log.dataset)
    model.knowing(log, parts, asked)
    logits = model.logits(impressions, UserEvents.of(TrainingLog(log, parts), asked))
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


def _as_read_by(job: Job, dataset: Dataset, ranker: Artifact) -> Dataset:
    """The data set as the ranker reads it, items as of the end of training."""
    windows = log_of(job, dataset).windows
    return as_read_by(job, dataset, ranker, Cutoff.before_test(windows))


def _files(root: Path, ranker: Artifact, log: SplitLog) -> list[Path]:
    """Impressions that the ranker has not learnt from and nothing is reported on."""
    if log.windows is None:
        return []
    if made := _candidates(ranker):
        return candidate_files(root, made, ("valid",))
    return log.dataset.impression_files(*log.windows.calibration)


def _window(ranker: Artifact, log: SplitLog) -> list[int] | None:
    """First and last day that calibrators are fitted on; of candidates it is no days of the log."""
    return None if log.windows is None or _candidates(ranker) else [*log.windows.calibration]


def _candidates(ranker: Artifact) -> str | None:
    """Version of the impressions that a ranker was trained on, where the log had none."""
    made = [p["version"] for p in ranker.manifest.parents if p["kind"] == "candidates"]
    return made[0] if made else None


def main(job: Job) -> dict[str, Any]:
    """Fits calibrators for the current ranker and makes them current."""
    with job.stage("calibrate"):
        artifact = calibrate(job)
    return {"calibration": artifact.version, **artifact.manifest.details}


if __name__ == "__main__":
    run("calibrate", main)
