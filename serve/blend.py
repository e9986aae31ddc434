"""From probabilities to the order of a feed: utility, then a cap for each creator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data.contract.encode import Ints
    from data.contract.schema import Vocabulary
    from serve.programs import Floats


def utility_weights(vocabulary: Vocabulary, overrides: Mapping[str, float]) -> Floats:
    """Weight of each action, [T]. Raises UserError for an action that there is not."""
    return np.array(vocabulary.weights(overrides, "serve.utility"), np.float32)


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


def occurrence(values: Ints) -> Ints:
    """How often each value has come before, [N]."""
    by_value = np.argsort(values, kind="stable")
    ordered = values[by_value]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    runs = np.diff(np.append(starts, len(values)))
    nth = np.empty(len(values), np.int64)
    nth[by_value] = np.arange(len(values)) - np.repeat(starts, runs)
    return nth
