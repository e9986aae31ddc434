"""How those had done that share a value with a posted item: its creator's other items, say."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from data.contract.encode import FeatureTable, Ints
    from serve.bundle import Bundle
    from serve.programs import Floats


class PostedTallies:
    """Counts of posted items; see `data.track_record.Standings.of_items`."""

    def __init__(self, bundle: Bundle) -> None:
        self._tallies = bundle.tallies
        self._items = bundle.items
        self._columns = [f.name for f in bundle.items.features if f.kind == "categorical"]

    @cached_property
    def _firsts(self) -> list[tuple[Ints, Ints]]:
        """Distinct hashes of each column, and the first row that has each."""
        columns = [self._items.hashes(name) for name in self._columns]
        return [np.unique(c, return_index=True) for c in columns if c is not None]

    def __call__(self, features: FeatureTable) -> Floats | None:
        """Counts of posted items: of all, of itself none, of each column: float32[N, G, W].

        None where no ranker reads any.
        """
        if self._tallies is None:
            return None
        count = len(next(iter(features.columns.values())))
        found = np.zeros((count, *self._tallies.shape[1:]), np.float32)
        found[:, 0] = self._tallies[0, 0]
        for group, (name, (values, rows)) in enumerate(
            zip(self._columns, self._firsts, strict=True), start=2
        ):
            hashes = features.hashes(name)
            assert hashes is not None
            at = np.minimum(np.searchsorted(values, hashes), len(values) - 1)
            same = values[at] == hashes
            found[same, group] = self._tallies[rows[at[same]], group]
        return found
