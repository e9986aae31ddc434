"""Posted items, in memory beside the bundle."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from data.contract.encode import Arrays, FeatureTable, Ints, encode_trends
from data.contract.schema import TREND_DAYS
from data.contract.signatures import SIGNATURE_COLUMN, image_keys
from serve.corpus import Corpus
from serve.ids import Mask
from serve.posted_tallies import PostedTallies
from serve.programs import Floats
from serve.ranked import Ranked
from serve.store import ExternalId

if TYPE_CHECKING:
    from serve.bundle import Bundle


def unseen(bundle: Bundle, created_at: Ints) -> Arrays:
    """How items do that nobody has seen yet, on the day that the bundle was made for.

    Args:
        bundle: with a calendar, or without; then all items are new.
        created_at: ms since 1970, 0 where unknown, [N].
    """
    calendar = bundle.calendar
    now_ms = 0 if calendar is None else calendar.start_ms(calendar.num_days + 1)
    counts = np.zeros((len(created_at), len(TREND_DAYS)), np.int64)
    return encode_trends(counts, created_at, now_ms)


@dataclass(frozen=True, slots=True)
class Delta:
    """Posted items, replaced as a whole when more come.

    Attributes:
        ids: external ids in row order.
        features: their encoded columns.
        embeddings: [N, D].
        priors: what each gains whoever asks, [N].
        trends: how each does (`unseen`), [N].
        tallies: makes what is known of how those with equal values had done.
        corpus: says which of them may be served.
        first_row: row of the first.
        positions: external id -> position here.
        allowed: which may be served, [N].
        newest: rows of those, newest first.
        counts: of those with equal values, float32[N, G, W]; None where no ranker reads any.
        ranked: as the ranker sees them; None where there is none.
    """

    ids: list[ExternalId]
    features: FeatureTable
    embeddings: Floats
    priors: Floats
    trends: Arrays
    tallies: PostedTallies
    corpus: Corpus
    first_row: int
    positions: dict[ExternalId, int] = field(default_factory=dict)
    allowed: Mask = field(default_factory=lambda: np.zeros(0, np.bool_))
    newest: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: Floats | None = None
    ranked: Ranked | None = None

    @classmethod
    def empty(cls, bundle: Bundle) -> Delta:
        """No item."""
        columns = {name: column.slice(0, 0) for name, column in bundle.items.columns.items()}
        features = FeatureTable("item", bundle.items.features, columns)
        trends, priors = unseen(bundle, np.zeros(0, np.int64)), np.zeros(0, np.float32)
        vectors = np.zeros((0, bundle.dim), np.float32)
        tallies, corpus = PostedTallies(bundle), Corpus.of(bundle)
        ranked = None if bundle.ranked is None else bundle.ranked.take(np.zeros(0, np.int64))
        first_row = bundle.item_ids.rows
        return cls([], features, vectors, priors, trends, tallies, corpus, first_row, ranked=ranked)

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
        priors: Floats,
        trends: Arrays,
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
            priors=np.concatenate([self.priors, priors])[order],
            trends={n: np.concatenate([a, trends[n]])[order] for n, a in self.trends.items()},
            positions={identifier: at for at, identifier in enumerate(newest)},
            ranked=_joined(self.ranked, ranked, order),
        )
        allowed = self.corpus.allows(more.ids, more.keys)
        return replace(more, allowed=allowed, newest=more.by_age(allowed))

    def by_age(self, allowed: Mask) -> Ints:
        """Rows of some of them, newest first; of equal age the one posted last."""
        rows, ages = self.rows[allowed][::-1], self.trends["trend.age_ms"][allowed][::-1]
        return rows[np.argsort(ages, kind="stable")]


def _joined(known: Ranked | None, new: Ranked | None, order: Ints) -> Ranked | None:
    return None if known is None or new is None else Ranked.join([known, new]).take(order)
