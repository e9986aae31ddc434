"""Distinct values of an array, and the place of each value among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from data.contract.encode import Ints

TABLE_SHARE = 16


def numbered(values: Ints) -> tuple[Ints, Ints]:
    """Distinct values, ascending, and the place of each value among them; none is below 0.

    By a table as long as the largest value, nine bytes each, where that is at most TABLE_SHARE
    times their number; else by a sort, which of many repeated values takes ten times as long.
    """
    size = int(values.max(initial=0)) + 1
    if size > TABLE_SHARE * len(values):
        return np.unique(values, return_inverse=True)
    there = np.zeros(size, bool)
    there[values] = True
    distinct = np.flatnonzero(there)
    place = np.empty(size, np.int64)
    place[distinct] = np.arange(len(distinct))
    return distinct, place[values]
