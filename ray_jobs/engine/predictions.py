"""Judging a ranker: predicted against actual actions on impressions of the reported part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.blocks import num_rows, row_groups
from data.contract.idspace import hash_ids
from data.contract.settings import UserError
from models.metrics import auc, ranking_metrics, reliability

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Tree = dict[str, Any]
Floats = npt.NDArray[np.float32]


def read_impressions(files: Sequence[Path], most: int, seed: int) -> pa.Table:
    """About `most` impressions of whole requests, drawn by the hash of the request's id.

    Args:
        files: Parquet files of impressions.
        most: rows wanted; all are read when there are fewer.
        seed: of the draw.

    Raises:
        UserError: there are no impressions.
    """
    if num_rows(files) == 0:
        raise UserError(
            "the days asked for hold no impressions; check windows.valid and windows.test"
        )
    return sampled(files, most, seed)


def sampled(files: Sequence[Path], most: int, seed: int) -> pa.Table:
    """The same of one file or more, in which there may be none.

    Memory: what is drawn, and a row group.
    """
    total = num_rows(files)
    blank = pq.read_schema(files[0]).empty_table()
    tables = (block.read() for block in row_groups(files))
    if total > most:
        limit = np.uint64(most / total * 2.0**64)
        tables = (table.filter(pa.array(draws(table, seed) < limit)) for table in tables)
    return pa.concat_tables([blank, *tables])


def draws(table: pa.Table, seed: int) -> npt.NDArray[np.uint64]:
    """A uniform number for each row, the same for all of a request. [N]."""
    salt = hash_ids(pa.array([seed], pa.int64())).view(np.int64)[0]
    return hash_ids(pa.array(table["request_id"].to_numpy() ^ salt))


def judge_ranking(
    impressions: pa.Table, actions: Sequence[str], predicted: Floats, bins: int
) -> Tree:
    """Predictions on impressions, one entry an action.

    Args:
        impressions: N, with a column `label.<action>` each.
        actions: names, in the order of the model's outputs.
        predicted: float32[N, actions].
        bins: of the reliability diagram.

    Returns:
        action -> the metrics of `judge`, reliability: {predicted, actual, count}.
    """
    found = judge(impressions, actions, predicted)
    for column, action in enumerate(actions):
        curve = reliability(_labels(impressions, action), predicted[:, column], bins)
        found[action]["reliability"] = {
            "predicted": curve.predicted.tolist(),
            "actual": curve.actual.tolist(),
            "count": curve.count.tolist(),
        }
    return found


def judge(impressions: pa.Table, actions: Sequence[str], predicted: Floats) -> Tree:
    """Metrics of each action (`models.metrics.ranking_metrics`; None where undefined).

    `auc_of_touched` is the AUC among impressions that any action followed: whether what was saved
    ranks above what was hidden, whatever nobody touched.

    Args:
        impressions: N of them.
        actions: names of their labels.
        predicted: float32[N, actions].
    """
    labels = [_labels(impressions, action) for action in actions]
    touched = np.logical_or.reduce(labels)
    return {
        action: ranking_metrics(of_action, predicted[:, column])
        | {"auc_of_touched": auc(of_action[touched], predicted[touched, column])}
        for column, (action, of_action) in enumerate(zip(actions, labels, strict=True))
    }


def _labels(impressions: pa.Table, action: str) -> npt.NDArray[np.bool_]:
    return np.asarray(impressions[f"label.{action}"]).astype(bool)
