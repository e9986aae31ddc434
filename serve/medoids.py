"""Items that stand for the clusters of each user's past, made by the job `index` (PinnerSage)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.contract.encode import Ints
from serve.programs import Floats, mapped

if TYPE_CHECKING:
    from pathlib import Path

FILES = "medoids.npy", "importance.npy"


@dataclass(frozen=True, slots=True)
class Medoids:
    """Clusters of all users, the most important first; memory-mapped.

    Attributes:
        items: int32[user rows, K] item rows; 0 where a user has fewer clusters.
        importance: float32[user rows, K]; 0 likewise.
    """

    items: Ints
    importance: Floats

    @classmethod
    def open(cls, folder: Path) -> Medoids | None:
        """Those of a bundle; None where its items have no vectors to cluster."""
        paths = [folder / name for name in FILES]
        if not all(path.is_file() for path in paths):
            return None
        return cls(*(mapped(path) for path in paths))

    def of(self, row: int) -> tuple[Ints, Floats]:
        """Item rows int64[k] and importance [k] of a user's clusters, k ≤ K."""
        if row >= len(self.items):
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        there = self.importance[row] > 0
        return self.items[row][there].astype(np.int64), self.importance[row][there]
