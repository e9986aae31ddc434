"""Differences between arms, paired by user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

BOOTSTRAPS = 1000


def difference(one: Sequence[Any], other: Sequence[Any]) -> dict[str, float]:
    """Mean difference over seeds and users, with a paired bootstrap over users.

    Args:
        one: float[users] of each seed.
        other: the same of another arm.
    """
    each = np.mean([a - b for a, b in zip(one, other, strict=True)], axis=0)
    rng = np.random.default_rng(0)
    means = [each[rng.integers(0, len(each), len(each))].mean() for _ in range(BOOTSTRAPS)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(each.mean()), "low": float(low), "high": float(high)}
