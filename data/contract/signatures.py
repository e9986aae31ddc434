"""What counts items as one: those that show one image, by its signature.

The corpus (scores, one of several copies), the popular list and serving (what a user has seen, what
is posted) all go by the keys made here. What models read and learn goes by item, in training and in
an index alike: counts joined by another key than they were learnt by would drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data.contract.encode import Ints, ragged_positions

if TYPE_CHECKING:
    import numpy.typing as npt

SIGNATURE_COLUMN = "image_signature"


def image_keys(signatures: Ints | None, rows: Ints) -> Ints:
    """Keys of items, int64[N]: equal for those that show one image.

    Args:
        signatures: encoded signature of each, [N], 0 where unknown; None where items have none.
        rows: [N]; an item of unknown signature is one by itself, its key the negative of its row.
    """
    alone: Ints = -np.asarray(rows, np.int64)
    return alone if signatures is None else np.where(signatures != 0, signatures, alone)


@dataclass(frozen=True, slots=True)
class Copies:
    """The items of a table that show what another one shows; those that are alone take no place.

    Attributes:
        keys: ascending, [M].
        rows: their rows, ascending within a key, [M].
    """

    keys: Ints
    rows: Ints

    @classmethod
    def of(cls, keys: Ints) -> Copies:
        """Those among all rows, of which `keys` [rows] are the keys."""
        rows = np.argsort(keys, kind="stable")
        ordered = keys[rows]
        again = ordered[1:] == ordered[:-1]
        shared = np.r_[False, again] | np.r_[again, False] if len(keys) else again
        return cls(ordered[shared], rows[shared])

    def showing(self, keys: Ints) -> Ints:
        """Rows of all copies that have one of these keys, once for each time it is named."""
        starts = np.searchsorted(self.keys, keys)
        ends = np.searchsorted(self.keys, keys, side="right")
        return self.rows[ragged_positions(starts, ends - starts)]

    def summed(self, counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Counts of rows [..., rows] with each copy given the sum over all that show its image."""
        if not len(self.rows):
            return counts
        starts = np.flatnonzero(np.r_[True, self.keys[1:] != self.keys[:-1]])
        sizes = np.diff(np.r_[starts, len(self.keys)])
        sums = np.add.reduceat(counts[..., self.rows], starts, axis=-1)
        together = counts.copy()
        together[..., self.rows] = np.repeat(sums, sizes, axis=-1)
        return together
