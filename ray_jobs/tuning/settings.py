"""Settings of sweeps, whatever is tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from data.contract.settings import Count, NonNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSettings:
    """How trials are run and summed up.

    Attributes:
        metrics: columns of the table; for a ranker these are looked for under each action.
        level: coverage of the interval over seeds.
        pruning: whether a study cuts trials short that fall behind: asha (successive halving).
        reduction: about one of so many trials passes a rung of it; rungs are the validations 1,
            this, its square and so on.
        cores: cores that a trial without workers of its own computes on.
        gpu_share: share of a GPU, and of its memory, that such a trial takes where the cluster has
            any; of several workers each takes a whole one.
        max_failures: deaths of a trial's process that are survived; it goes on from its checkpoint.
        stalled_minutes: time without any progress of any trial after which a sweep is given up; of
            a trial on another machine than a root in object storage only checkpoints are seen.
        mlflow_uri: MLflow tracking server to which every trial is mirrored; local for mlflow.db
            in the root, unless that lies in object storage; needs the extra `mlflow`.
    """

    metrics: tuple[str, ...] = (
        "recall@10",
        "ndcg@10",
        "hit_rate@10",
        "coverage@10",
        "auc",
        "log_loss",
    )
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    pruning: Literal["none", "asha"] = "none"
    reduction: Annotated[int, Field(ge=2)] = 3
    cores: Count = 1
    gpu_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_failures: NonNegative = 2
    stalled_minutes: Count = 60
    mlflow_uri: str | None = None
