"""From scores to the order of a feed: gates, a cap by creator, a least share by source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from data.contract.encode import Ints, Mask

    Draws = npt.NDArray[np.float64]


def within_gates(order: Ints, above: Mask, num_items: int) -> Ints:
    """Leaves out candidates above a gate; the best of them come last where too few are left.

    Args:
        order: candidates, best first, [N].
        above: whether a candidate is above a gate, by its number, [N].
        num_items: how many the feed needs.

    Returns:
        At least `num_items` of `order`, or as many as there are.
    """
    beyond = above[order]
    within = order[~beyond]
    return np.concatenate([within, order[beyond][: max(num_items - len(within), 0)]])


def cap_per_creator(order: Ints, creators: Ints | None, cap: int) -> Ints:
    """Moves each creator's items beyond the `cap` best behind all others; drops none.

    Args:
        order: candidates, best first, [N].
        creators: creator of each candidate by its number, 0 unknown (never capped); None for none.
        cap: items of a creator before the others come.

    Returns:
        A permutation of `order`.
    """
    if creators is None or not len(order):
        return order
    nth = occurrence(creators[order])
    beyond = (nth >= cap) & (creators[order] != 0)
    return np.concatenate([order[~beyond], order[beyond]])


def with_least_share(order: Ints, source: Ints, num_items: int, least: Ints) -> Ints:
    """Lets sources into the first places that have fewer there than their least number.

    Their best items take the places of the lowest ones of sources that have more than their own;
    the first places stay in the order given.

    Args:
        order: candidates, best first, [N].
        source: number of the source of each candidate by its number, [N].
        num_items: first places.
        least: items of each source wanted among them, if it has as many, [S].

    Returns:
        A permutation of `order`.
    """
    place = np.arange(len(order))
    of_source = source[order]
    wanted = occurrence(of_source) < least[of_source]
    first = np.lexsort((place, ~wanted))[:num_items]
    chosen = np.zeros(len(order), np.bool_)
    chosen[first] = True
    return np.concatenate([order[chosen], order[~chosen]])


def least_items(share: float, num_items: int, num_sources: int, draw: Draws) -> Ints:
    """Places for each source of so many sources that come to a share of all in the mean, [S].

    Args:
        share: of the places, at least.
        num_items: places.
        num_sources: S.
        draw: uniform in [0, 1), decides about parts of a place, [S].
    """
    mean = min(share, 1 / max(num_sources, 1)) * num_items
    places: Ints = np.floor(mean + draw).astype(np.int64)
    return places


def occurrence(values: Ints) -> Ints:
    """How often each value has come before, [N]."""
    by_value = np.argsort(values, kind="stable")
    ordered = values[by_value]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    runs = np.diff(np.append(starts, len(values)))
    nth = np.empty(len(values), np.int64)
    nth[by_value] = np.arange(len(values)) - np.repeat(starts, runs)
    return nth
