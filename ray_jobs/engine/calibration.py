"""What calibrators do on impressions that nothing was fitted on: by action and by segment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data.contract.calibration import SEGMENTS
from models.metrics import calibration, expected_calibration_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from data.contract.calibration import Floats, Mask
    from models.metrics import Bools

Tree = dict[str, Any]

PLACES = (0, 1, 4, 10)  # first position of each group
LEAST_ROWS = 100  # of a segment that is reported


class Predicted(NamedTuple):
    """Probabilities of N impressions, float32[N, A], before and after calibration."""

    before: Floats
    after: Floats


def judge_calibration(
    impressions: pa.Table, actions: Sequence[str], predicted: Predicted, segments: Mask
) -> Tree:
    """Calibration error of each action, before and after, and sums over segments.

    Args:
        impressions: with a column `label.<action>` each.
        actions: names, A of them.
        predicted: of the impressions.
        segments: bool[N, S] where the ranker had no ID row to go by.

    Returns:
        actions: action -> {before, after: {ece, calibration}}; segments: list of {name, label,
        impressions, calibration: action -> {before, after}}, calibration being the sum of the
        probabilities / the number of actions.
    """
    labels = np.stack([np.asarray(impressions[f"label.{a}"]).astype(bool) for a in actions], 1)
    of_actions = {
        action: {
            name: {
                "ece": expected_calibration_error(labels[:, at], probabilities[:, at]),
                "calibration": calibration(labels[:, at], probabilities[:, at]),
            }
            for name, probabilities in predicted._asdict().items()
        }
        for at, action in enumerate(actions)
    }
    found = [
        {"name": name, "label": label, "impressions": int(rows.sum())}
        | {"calibration": _of_rows(labels, actions, predicted, rows)}
        for name, label, rows in _groups(impressions, segments)
        if rows.sum() >= LEAST_ROWS
    ]
    return {"actions": of_actions, "segments": found}


def _of_rows(labels: Bools, actions: Sequence[str], predicted: Predicted, rows: Bools) -> Tree:
    return {
        action: {
            name: calibration(labels[rows, at], probabilities[rows, at])
            for name, probabilities in predicted._asdict().items()
        }
        for at, action in enumerate(actions)
    }


def _groups(impressions: pa.Table, segments: Mask) -> list[tuple[str, str, Bools]]:
    """(name, label, which impressions) of all segments."""
    place = np.searchsorted(PLACES, impressions["position"].to_numpy(), side="right") - 1
    ends = [*(str(first - 1) for first in PLACES[1:]), "on"]
    groups = [
        ("position", f"{first}-{end}", place == at)
        for at, (first, end) in enumerate(zip(PLACES, ends, strict=True))
    ]
    if "source" in impressions.column_names:
        source = np.asarray(impressions["source"].to_pylist(), dtype=object)
        groups += [("source", str(name), source == name) for name in np.unique(source.astype(str))]
    for at, name in enumerate(SEGMENTS):
        side = name.removeprefix("unknown_")
        groups += [(side, "unknown", segments[:, at]), (side, "known", ~segments[:, at])]
    return groups
