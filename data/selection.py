"""The best few of many scores, a line at a time: one pass that passes over blocks of worse ones.

`numpy.argpartition` moves a number of 64 bits for each score; here a heap holds the best so far,
and of n scores in no order some k·ln(n/k) ever enter it. Scores in ascending order cost O(n log k).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    Ints = npt.NDArray[np.int64]
    Scores = npt.NDArray[np.float32]

BLOCK = 64


def best_columns(scores: Scores, k: int) -> Ints:
    """Columns of the k largest of each line, the largest first; of equal ones the first.

    Args:
        scores: float32[b, n], n >= k.
        k: how many.

    Returns:
        int64[b, k].

    Raises:
        ValueError: a score is NaN.
    """
    columns = np.empty((len(scores), k), np.int64)
    if not _select(scores, columns):
        raise ValueError("scores hold NaN")
    return columns


@numba.njit(cache=True, nogil=True)
def _select(scores: Any, columns: Any) -> bool:
    """Fills the columns; whether no score was NaN."""
    width, k = scores.shape[1], columns.shape[1]
    values = np.empty(k, scores.dtype)
    for line in range(len(scores)):
        of_line, kept = scores[line], columns[line]
        for column in range(k):
            if of_line[column] != of_line[column]:
                return False
            _rise(values, kept, column, of_line[column], column)
        start = k
        while k and start < width:
            end, worst, entering = min(start + BLOCK, width), values[0], 0
            for score in of_line[start:end]:
                entering += not score <= worst
            if entering and not _enter(values, kept, of_line, start, end):
                return False
            start = end
        for last in range(k - 1, 0, -1):  # the worst of those that are left goes behind them
            value, column = values[last], kept[last]
            values[last], kept[last] = values[0], kept[0]
            _sink(values[:last], kept[:last], value, column)
    return True


@numba.njit(cache=True, nogil=True)
def _enter(values: Any, kept: Any, of_line: Any, start: int, end: int) -> bool:
    """Takes in the scores of a block that are better than the worst kept."""
    for column in range(start, end):
        if of_line[column] != of_line[column]:
            return False
        if of_line[column] > values[0]:
            _sink(values, kept, of_line[column], column)
    return True


@numba.njit(cache=True, nogil=True)
def _worse(value: float, column: int, other: float, other_column: int) -> bool:
    return value < other or (value == other and column > other_column)


@numba.njit(cache=True, nogil=True)
def _rise(values: Any, kept: Any, place: int, value: float, column: int) -> None:
    """Adds to a heap whose first is the worst."""
    while place:
        above = (place - 1) // 2
        if not _worse(value, column, values[above], kept[above]):
            break
        values[place], kept[place] = values[above], kept[above]
        place = above
    values[place], kept[place] = value, column


@numba.njit(cache=True, nogil=True)
def _sink(values: Any, kept: Any, value: float, column: int) -> None:
    """Puts another in the place of the worst."""
    place, count = 0, len(values)
    while True:
        below = 2 * place + 1
        if below >= count:
            break
        if below + 1 < count and _worse(
            values[below + 1], kept[below + 1], values[below], kept[below]
        ):
            below += 1
        if not _worse(values[below], kept[below], value, column):
            break
        values[place], kept[place] = values[below], kept[below]
        place = below
    values[place], kept[place] = value, column
