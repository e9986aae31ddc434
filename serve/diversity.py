"""Feeds that are not all of a kind: spacing, and determinantal point processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from data.contract.encode import Ints
    from serve.programs import Floats

AHEAD = 4  # items looked at for each place
LEAST = 1e-6


def spaced(order: Ints, values: Ints, window: int, num_items: int) -> Ints:
    """Lets no two items with one value come within a window of places, as far as there are others.

    Each place takes the best item left whose value is not among the last `window` ones; where none
    of the next `AHEAD` x `num_items` will do, the best.

    Args:
        order: candidates, best first, [N].
        values: of each candidate by its number, 0 unknown (never spaced).
        window: places before an item that its value may not be in.
        num_items: places that are spaced.

    Returns:
        A permutation of `order`.
    """
    most = AHEAD * num_items
    left, behind = order[:most].tolist(), order[most:]
    kinds = values[order[:most]].tolist()
    chosen: list[int] = []
    recent: list[int] = []
    while left and len(chosen) < num_items:
        near = {kind for kind in recent[-window:] if kind} if window else set()
        at = next((i for i, kind in enumerate(kinds) if kind not in near), 0)
        chosen.append(left.pop(at))
        recent.append(kinds.pop(at))
    return np.concatenate([np.array([*chosen, *left], order.dtype), behind])


def determinantal(
    order: Ints, scores: Floats, vectors: Floats, strength: float, num_items: int
) -> Ints:
    """The first places by greedy MAP of a DPP over quality and likeness (Chen et al., 2018).

    L = diag(q) S diag(q), q = exp(score / (2 strength)) with scores standardised, S the cosines:
    the lower the strength, the more the scores decide. O(num_items² N), N = `AHEAD` x `num_items`.

    Args:
        order: candidates, best first, [N].
        scores: by number of candidate.
        vectors: unit vectors by number of candidate, [., D].
        strength: above 0.
        num_items: places.

    Returns:
        A permutation of `order`.
    """
    head, behind = order[: AHEAD * num_items], order[AHEAD * num_items :]
    if len(head) <= 1:
        return order
    own = scores[head].astype(np.float64)
    quality = np.exp((own - own.max()) / max(own.std(), LEAST) / (2 * strength))
    near = vectors[head].astype(np.float64)
    gains = quality**2 * np.maximum((near * near).sum(1), LEAST)
    rows = np.zeros((min(num_items, len(head)), len(head)))
    chosen: list[int] = []
    for place in range(len(rows)):
        best = int(np.argmax(gains))
        if gains[best] < LEAST**2:
            break
        kernel = quality * quality[best] * (near @ near[best])
        rows[place] = (kernel - rows[:place, best] @ rows[:place]) / np.sqrt(gains[best])
        gains = np.maximum(gains - rows[place] ** 2, 0)
        gains[best] = -1.0
        chosen.append(best)
    others = np.setdiff1d(np.arange(len(head)), chosen)
    return np.concatenate([head[chosen], head[others], behind])
