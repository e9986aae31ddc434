"""The best columns are those of a whole sort, with ties to the first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.selection import BLOCK, best_columns


def sorted_columns(scores: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@given(
    st.integers(0, 4),
    st.integers(1, 3 * BLOCK),
    st.integers(0, 10**6),
    st.sampled_from([2, 10, 10**6]),
    st.data(),
)
def test_they_are_those_of_a_stable_sort(
    lines: int, width: int, seed: int, levels: int, data: st.DataObject
) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.integers(levels, size=(lines, width)).astype(np.float32)
    scores[draw.random(scores.shape) < 0.2] = -np.inf
    k = data.draw(st.integers(0, width))
    np.testing.assert_array_equal(best_columns(scores, k), sorted_columns(scores, k))


@pytest.mark.parametrize("descending", [False, True])
def test_order_makes_no_difference(descending: bool) -> None:
    scores = np.arange(5 * BLOCK, dtype=np.float32)[None]
    scores = scores[:, ::-1].copy() if descending else scores
    np.testing.assert_array_equal(best_columns(scores, 50), sorted_columns(scores, 50))


def test_lines_of_a_transposed_array_are_read_too() -> None:
    scores = np.random.default_rng(0).random((200, 3)).astype(np.float32).T
    np.testing.assert_array_equal(best_columns(scores, 9), sorted_columns(scores, 9))


@pytest.mark.parametrize("place", [0, 4, 100, 3 * BLOCK - 1])
def test_nan_is_an_error_wherever_it_stands(place: int) -> None:
    scores = np.random.default_rng(0).random((2, 3 * BLOCK)).astype(np.float32)
    scores[1, place] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        best_columns(scores, 5)
