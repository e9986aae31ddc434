"""Alias tables: an edge of a node chosen in proportion to its weight, in constant time.

A node's edges share the probability of drawing any of them at random; an edge that weighs less than
the average gives what it lacks to another one. Walker, "An efficient method for generating discrete
random variables with general distributions" (TOMS'77), built as by Vose (TSE'91).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    Aliases = npt.NDArray[np.uint64]

LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def fill_aliases(
    indptr: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int32],
    weight: npt.NDArray[np.float32],
    out: Aliases,
) -> None:
    """Fills the table of N nodes and E edges, in time that grows with the edges.

    Args:
        indptr: int64[N + 1].
        indices: int32[E] other ends.
        weight: float32[E] above 0.
        out: uint64[E]. The upper half of an entry is the share, in units of 2^-32, of the draws of
            an edge that stay with it; the lower half is the other end that the rest go to.
    """
    _fill(np.asarray(indptr), np.asarray(indices), np.asarray(weight), np.asarray(out))


@numba.njit(cache=True, nogil=True)
def _fill(indptr: Any, indices: Any, weight: Any, out: Any) -> None:
    most = 0
    for node in range(len(indptr) - 1):
        most = max(most, indptr[node + 1] - indptr[node])
    space = np.empty(most, np.float64), np.empty(most, np.int64), np.empty(most, np.int64)
    for node in range(len(indptr) - 1):
        first, end = indptr[node], indptr[node + 1]
        _fill_node(indices[first:end], weight[first:end], space, out[first:end])


@numba.njit(cache=True, nogil=True)
def _fill_node(ends: Any, weight: Any, space: Any, out: Any) -> None:
    """`small` and `large` are stacks of the edges below and not below the average weight."""
    share, small, large = space
    total = np.float64(0)
    for w in weight:
        total += w
    num_small, num_large = 0, 0
    for i in range(len(ends)):
        share[i] = weight[i] / total * len(ends)
        out[i] = (LOW << HALF) | np.uint64(ends[i])
        small[num_small], large[num_large] = i, i
        num_small += share[i] < 1
        num_large += share[i] >= 1
    while num_small > 0 and num_large > 0:
        num_small -= 1
        giver, taker = small[num_small], large[num_large - 1]
        out[giver] = (np.uint64(share[giver] * 4294967296.0) << HALF) | np.uint64(ends[taker])
        share[taker] -= 1 - share[giver]
        if share[taker] < 1:
            num_large -= 1
            small[num_small] = taker
            num_small += 1
