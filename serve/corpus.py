"""Which items of a replica may be served, and which show what another one shows.

The bundle's rows were chosen when it was made (`live_items.npy`). A posted item is served unless
its id is blocked, or its image is served already: by the bundle, or by an item posted before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from data.contract.encode import Ints
from data.contract.idspace import Keys, hash_ids
from data.contract.signatures import SIGNATURE_COLUMN, Copies, image_keys
from serve.ids import Mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serve.bundle import Bundle
    from serve.store import ExternalId


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a bundle says of its own items and of those that are posted.

    Attributes:
        served: whether a row of the bundle may be served, [rows].
        copies: rows of the bundle that share their image with others.
        images: ascending keys of the known images that the bundle serves, [C].
        blocked_ids: ascending hashes of ids that are never served.
        id_type: of external ids.
    """

    served: Mask
    copies: Copies
    images: Ints
    blocked_ids: Keys
    id_type: pa.DataType

    @classmethod
    def of(cls, bundle: Bundle) -> Corpus:
        """The corpus of an open bundle."""
        rows = np.arange(bundle.item_ids.rows)
        keys = image_keys(bundle.items.hashes(SIGNATURE_COLUMN), rows)
        served = np.zeros(len(rows), np.bool_)
        served[np.asarray(bundle.live_items)] = True
        images, kind = np.sort(keys[served & (keys > 0)]), bundle.item_ids.ids.type
        return cls(served, Copies.of(keys), images, bundle.blocked_ids, kind)

    def allows(self, ids: Sequence[ExternalId], keys: Ints) -> Mask:
        """Which posted items may be served.

        Args:
            ids: canonical, in the order of posting, [N].
            keys: of their images, [N].
        """
        blocked = np.isin(hash_ids(pa.array(ids, self.id_type)), self.blocked_ids)
        allowed = ~blocked & ~_among(keys, self.images)
        places = np.flatnonzero(allowed)
        _, first = np.unique(keys[places], return_index=True)
        return np.isin(np.arange(len(ids)), places[first])


def _among(keys: Ints, ascending: Ints) -> Mask:
    """Which keys are in a long ascending list, without looking at all of it."""
    found: Mask = np.searchsorted(ascending, keys, side="right") > np.searchsorted(ascending, keys)
    return found
