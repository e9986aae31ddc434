"""Posted items, in memory beside the bundle."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from data.contract.encode import FeatureTable, Ints, encode_trends
from data.contract.schema import TREND_DAYS
from data.contract.signatures import SIGNATURE_COLUMN, image_keys
from serve.bundle import Bundle, prior_of
from serve.corpus import Corpus
from serve.ids import Mask
from serve.posted_tallies import PostedTallies
from serve.programs import Floats
from serve.ranked import Ranked
from serve.store import ExternalId

# How an item does that was posted a moment ago.
UNSEEN = encode_trends(np.zeros((1, len(TREND_DAYS)), np.int64), np.ones(1, np.int64), 1)


@dataclass(frozen=True, slots=True)
class Delta:
    """Posted items, replaced as a whole when more come.

    Attributes:
        ids: external ids in row order.
        features: their encoded columns.
        embeddings: [N, D].
        prior: what each gains whoever asks: that of an item that nobody has seen yet.
        tallies: makes what is known of how those with equal values had done.
        corpus: says which of them may be served.
        first_row: row of the first.
        positions: external id -> position here.
        allowed: which may be served, [N].
        counts: of those with equal values, float32[N, G, W]; None where no ranker reads any.
        ranked: as the ranker sees them; None where there is none.
    """

    ids: list[ExternalId]
    features: FeatureTable
    embeddings: Floats
    prior: float
    tallies: PostedTallies
    corpus: Corpus
    first_row: int
    positions: dict[ExternalId, int] = field(default_factory=dict)
    allowed: Mask = field(default_factory=lambda: np.zeros(0, np.bool_))
    counts: Floats | None = None
    ranked: Ranked | None = None

    @classmethod
    def empty(cls, bundle: Bundle) -> Delta:
        """No item."""
        columns = {name: column.slice(0, 0) for name, column in bundle.items.columns.items()}
        features = FeatureTable("item", bundle.items.features, columns)
        prior = float(prior_of(bundle.programs, UNSEEN)[0])
        vectors = np.zeros((0, bundle.dim), np.float32)
        tallies, corpus = PostedTallies(bundle), Corpus.of(bundle)
        ranked = None if bundle.ranked is None else bundle.ranked.take(np.zeros(0, np.int64))
        first_row = bundle.item_ids.rows
        return cls([], features, vectors, prior, tallies, corpus, first_row, ranked=ranked)

    @property
    def rows(self) -> Ints:
        """Their rows, [N]."""
        return self.first_row + np.arange(len(self.ids))

    @property
    def keys(self) -> Ints:
        """Of their images, [N]."""
        return image_keys(self.features.hashes(SIGNATURE_COLUMN), self.rows)

    def extended(
        self,
        ids: list[ExternalId],
        columns: dict[str, pa.Array],
        embeddings: Floats,
        ranked: Ranked | None,
    ) -> Delta:
        """With more items; one that was here keeps its position and takes the new columns."""
        newest = self.positions | {
            identifier: len(self.ids) + at for at, identifier in enumerate(ids)
        }
        order = np.fromiter(newest.values(), np.int64)
        together = {
            name: pa.concat_arrays([column, columns[name]]).take(pa.array(order))
            for name, column in self.features.columns.items()
        }
        features = FeatureTable("item", self.features.features, together)
        more = replace(
            self,
            ids=list(newest),
            features=features,
            counts=self.tallies(features),
            embeddings=np.concatenate([self.embeddings, embeddings])[order],
            positions={identifier: at for at, identifier in enumerate(newest)},
            ranked=_joined(self.ranked, ranked, order),
        )
        return replace(more, allowed=self.corpus.allows(more.ids, more.keys))


def _joined(known: Ranked | None, new: Ranked | None, order: Ints) -> Ranked | None:
    return None if known is None or new is None else Ranked.join([known, new]).take(order)
