"""Judging a ranker: predicted against actual actions on impressions of the reported part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract.idspace import hash_ids
from data.contract.settings import UserError
from models.metrics import auc, ranking_metrics, reliability

if TYPE_CHECKING:
    from pathlib import Path

    from data.baselines import Popularity

Tree = dict[str, Any]
Probabilities = Callable[[pa.Table], npt.NDArray[np.float32]]


def read_impressions(files: Sequence[Path], most: int, seed: int) -> pa.Table:
    """About `most` impressions of whole requests, drawn by the hash of the request's id.

    Args:
        files: Parquet files of impressions.
        most: rows wanted; all are read when there are fewer.
        seed: of the draw.

    Raises:
        UserError: there are no impressions.
    """
    total = sum(pq.read_metadata(file).num_rows for file in files)
    if total == 0:
        raise UserError(
            "the days asked for hold no impressions; check windows.valid and windows.test"
        )
    tables = (pq.ParquetFile(file).read() for file in files)
    if total <= most:
        return pa.concat_tables(tables)
    limit = np.uint64(most / total * 2.0**64)
    return pa.concat_tables(table.filter(pa.array(_draws(table, seed) < limit)) for table in tables)


def _draws(table: pa.Table, seed: int) -> npt.NDArray[np.uint64]:
    salt = hash_ids(pa.array([seed], pa.int64())).view(np.int64)[0]
    return hash_ids(pa.array(table["request_id"].to_numpy() ^ salt))


def judge_ranking(
    impressions: pa.Table,
    actions: Sequence[str],
    probabilities: Probabilities,
    popularity: Popularity,
    bins: int,
) -> Tree:
    """Predictions on impressions, one entry an action.

    Args:
        impressions: with a column `label.<action>` each.
        actions: names, in the order of the model's outputs.
        probabilities: gives float32[N, actions].
        popularity: whose ranking of the same impressions stands beside.
        bins: of the reliability diagram.

    Returns:
        action -> auc, log_loss, calibration, ece, positive_rate (None where undefined),
        popularity: {auc}, reliability: {predicted, actual, count}.
    """
    predicted = probabilities(impressions)
    counts = popularity.counts[impressions["item"].to_numpy()]
    found: Tree = {}
    for column, action in enumerate(actions):
        labels = np.asarray(impressions[f"label.{action}"]).astype(bool)
        curve = reliability(labels, predicted[:, column], bins)
        found[action] = {
            **ranking_metrics(labels, predicted[:, column]),
            "popularity": {"auc": auc(labels, counts)},
            "reliability": {
                "predicted": curve.predicted.tolist(),
                "actual": curve.actual.tolist(),
                "count": curve.count.tolist(),
            },
        }
    return found
