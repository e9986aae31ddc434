"""All items of a replica: those of the bundle, and those posted since, in rows above them.

Posted items are embedded by the exported item tower and searched exactly beside the bundle's
index. Their rows hold until the next bundle, whose id space has them.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from data.contract.encode import Arrays, FeatureTable, Ints, ragged_positions
from data.contract.schema import GRAPH_COLUMN
from data.contract.signatures import SIGNATURE_COLUMN, image_keys
from serve.bundle import Bundle, embed_items, prior_of
from serve.delta import Delta, unseen
from serve.ids import Mask, canonical, is_admitted, lookup
from serve.partitions import NONE, carried
from serve.posted_items import encode_items, fits
from serve.programs import Floats, gather_rows
from serve.ranked import PROGRAM, Ranked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serve.store import Document, ExternalId, Store

log = logging.getLogger(__name__)

PARTS = ("values", "lengths")


class Catalogue:
    """Rows, features and vectors of every item that a replica knows."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._delta = Delta.empty(bundle)
        self._sequence = bundle.store_sequence
        self._lock = threading.Lock()
        self.first_posted_row = bundle.item_ids.rows

    def take_posted(self, store: Store) -> int:
        """Takes in the items posted since the last call. Gives how many are not in the bundle."""
        with self._lock:
            posted = list(store.documents("items", self._sequence))
            if not posted:
                return 0
            added = self._add(self._fitting([item for _, item in posted]))
            self._sequence = posted[-1][0]
            return added

    def _add(self, items: Sequence[Document]) -> int:
        """Takes items in by halves where they cannot be encoded together, until each can or is out.

        What is in the store stays there: one item of it must not keep the others, nor a bundle out.
        """
        try:
            ids, columns, created_at = self._encoded(items)
        except Exception as error:
            if len(items) == 1:
                log.warning("posted item %r is left out: %r", items[0].get("item_id"), error)
                return 0
            half = len(items) // 2
            return self._add(items[:half]) + self._add(items[half:])
        if ids:
            self._embed(ids, columns, created_at)
        return len(ids)

    def _encoded(
        self, items: Sequence[Document]
    ) -> tuple[list[ExternalId], dict[str, pa.Array], Ints]:
        """Ids, columns and times of creation of items.

        Less what the id space has admitted: the bundle has those.
        """
        space = self._bundle.item_ids
        ids = canonical(space, [item["item_id"] for item in items])
        new = np.flatnonzero(~is_admitted(space, lookup(space, ids))).tolist()
        if not new:
            return [], {}, NONE[0]
        columns = encode_items(self._bundle.items.features, [items[i] for i in new])
        created_at = np.array([items[i].get("created_at") or 0 for i in new], np.int64)
        return [ids[i] for i in new], columns, created_at

    def _embed(self, ids: list[ExternalId], columns: dict[str, pa.Array], created_at: Ints) -> None:
        columns |= self._graph_column(columns)
        features = FeatureTable("item", self._bundle.items.features, columns)
        no_rows = np.full(len(ids), self.first_posted_row)
        id_rows = self._bundle.id_rows("two_tower", "item", no_rows)
        programs, arrays = self._bundle.programs, features.gather(np.arange(len(ids)))
        vectors = embed_items(programs["item_tower"], id_rows, arrays)
        ranked = None
        if self._bundle.has_ranker:
            ranked = Ranked.unknown(programs[PROGRAM], arrays, len(ids))
        trends = unseen(self._bundle, created_at)
        priors = prior_of(programs, trends)
        self._delta = self._delta.extended(ids, columns, vectors, priors, trends, ranked)

    def _fitting(self, items: Sequence[Document]) -> list[Document]:
        """Items without those that were posted to a bundle with columns of other types."""
        found = [item for item in items if fits(self._bundle.items.features, item)]
        if len(found) < len(items):
            log.warning("%d posted items do not fit this bundle", len(items) - len(found))
        return found

    def _graph_column(self, columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
        """Graph embeddings of posted items, which are on no board yet; none without an encoder."""
        program = self._bundle.programs.get("graph_item")
        if program is None:
            return {}
        features = FeatureTable("item", self._bundle.items.features, columns)
        rows = np.arange(len(next(iter(columns.values()))))
        vectors = program(features.gather(rows))[program.outputs[0]].astype(np.float16)
        flat = pa.array(vectors.reshape(-1))
        return {GRAPH_COLUMN: pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}

    def rows_of(self, ids: Sequence[ExternalId]) -> Ints:
        """Rows [n] of external ids; an unknown one gives its hash bucket. Raises UserError."""
        known = canonical(self._bundle.item_ids, ids)
        rows = lookup(self._bundle.item_ids, known)
        for at, identifier in enumerate(known):
            position = self._delta.positions.get(identifier)
            if position is not None:
                rows[at] = self.first_posted_row + position
        return rows

    def external(self, rows: Ints) -> list[ExternalId]:
        """External ids of known rows."""
        ids: list[ExternalId] = self._bundle.item_ids.external(rows).to_pylist()
        for at in np.flatnonzero(rows >= self.first_posted_row):
            ids[at] = self._delta.ids[rows[at] - self.first_posted_row]
        return ids

    def is_known(self, rows: Ints) -> Mask:
        """Whether rows are items, not buckets."""
        return is_admitted(self._bundle.item_ids, rows)

    def may_serve(self, rows: Ints) -> Mask:
        """Which rows may be recommended: in the bundle's corpus, or posted and allowed."""
        delta, posted = self._delta, rows >= self.first_posted_row
        mask: Mask = delta.corpus.served[np.where(posted, 0, rows)]
        mask[posted] = delta.allowed[rows[posted] - self.first_posted_row]
        return mask

    def keys(self, rows: Ints) -> Ints:
        """Equal for items that show one image, [N]."""
        return image_keys(self.column(SIGNATURE_COLUMN, rows), rows)

    def with_copies(self, rows: Ints) -> Ints:
        """Sorted rows of the items at `rows` and of all that show what one of them shows."""
        keys, delta = self.keys(rows), self._delta
        posted = delta.rows[np.isin(delta.keys, keys)]
        return np.unique(np.concatenate([rows, delta.corpus.copies.showing(keys), posted]))

    @property
    def posted_rows(self) -> Ints:
        """Rows of posted items that may be recommended, newest first."""
        return self._delta.newest

    def ranked(self, rows: Ints) -> Ranked:
        """As the ranker sees them, where there is one."""
        known, own, posted = self._bundle.ranked, self._delta.ranked, rows >= self.first_posted_row
        assert known is not None
        assert own is not None
        found = known.take(np.where(posted, 0, rows))
        if posted.any():
            found.overlay(own.take(rows[posted] - self.first_posted_row), posted)
        return found

    def embeddings(self, rows: Ints) -> Floats:
        """Vectors f32[N, D]; zero where there is none."""
        vectors = gather_rows(self._bundle.item_embeddings, rows)
        posted = rows >= self.first_posted_row
        vectors[posted] = self._delta.embeddings[rows[posted] - self.first_posted_row]
        return vectors

    def priors(self, rows: Ints) -> Floats:
        """What items gain whoever asks, f32[N]."""
        stored, posted = self._bundle.item_priors, rows >= self.first_posted_row
        found: Floats = stored[np.where(posted, 0, rows)]
        found[posted] = self._delta.priors[rows[posted] - self.first_posted_row]
        return found

    def ages_ms(self, rows: Ints) -> Ints:
        """Ages of posted items on the day that the bundle was made for, -1 where unknown, [N]."""
        ages = self._delta.trends["trend.age_ms"]
        return np.asarray(ages[rows - self.first_posted_row], np.int64)

    def record(self, rows: Ints) -> Arrays:
        """How items do, by name, [N]: `encode_trends` and `tally.counts`, where there are any."""
        delta, posted = self._delta, rows >= self.first_posted_row
        at, of_posted = np.where(posted, 0, rows), rows[posted] - self.first_posted_row
        known: Arrays = {name: array[at] for name, array in self._bundle.trends.items()}
        for name, array in known.items():
            array[posted] = delta.trends[name][of_posted]
        if self._bundle.tallies is not None:
            known["tally.counts"] = self._bundle.tallies[at]
            if delta.counts is not None:
                known["tally.counts"][posted] = delta.counts[of_posted]
        return known

    def features(self, rows: Ints, names: Sequence[str] | None = None) -> Arrays:
        """Named arrays of the declared columns of `rows` [N], or of some of the columns."""
        known, own = self._bundle.items, self._delta.features
        if names is not None:
            known, own = known.only(names), own.only(names)
        arrays = known.gather(rows)
        posted = rows >= self.first_posted_row
        if posted.any():
            _overlay(arrays, own.gather(rows[posted] - self.first_posted_row), posted)
        return arrays

    def column(self, name: str, rows: Ints) -> Ints | None:
        """A categorical column of `rows` [N], 0 where absent; None where items have none."""
        values = self._bundle.items.hashes(name)
        if values is None:
            return None
        hashes: Ints = values[np.where(rows < len(values), rows, 0)]
        posted = rows >= self.first_posted_row
        own = self._delta.features.columns[name].to_numpy()
        hashes[posted] = own[rows[posted] - self.first_posted_row]
        return hashes

    def nearest(
        self, query: Floats, k: int, exclude: Ints, prior: float = 0.0
    ) -> tuple[Ints, Floats]:
        """The k items nearest to `query` [D] that are not in the sorted `exclude`, best first.

        With `prior` above 0 the items' priors count by that weight.
        """
        found = self._bundle.index.search(query, k, exclude, prior)
        delta = self._delta
        of_posted = delta.embeddings @ query + np.float32(prior) * delta.priors
        return self._with_posted(found, of_posted, k, exclude)

    def under(
        self, interests: Ints, query: Floats, k: int, exclude: Ints, prior: float = 0.0
    ) -> tuple[Ints, Floats]:
        """The k items nearest to `query` [D] that carry all interests, best first.

        Args:
            interests: hashes, at least one.
            query: [D].
            k: items wanted.
            exclude: sorted rows.
            prior: weight of the items' priors.
        """
        partitions = self._bundle.partitions
        if partitions is None:
            return NONE
        found = partitions.search(interests.tolist(), query, k, exclude, prior)
        delta = self._delta
        if not len(delta.ids):
            return found
        carry = _carry(delta.features, np.arange(len(delta.ids)), interests)
        others = self.first_posted_row + np.flatnonzero(~carry)
        of_posted = delta.embeddings @ query + np.float32(prior) * delta.priors
        return self._with_posted(found, of_posted, k, np.union1d(exclude, others))

    def similar(self, row: Ints, k: int, exclude: Ints) -> tuple[Ints, Floats]:
        """The k items most like the one of `row` [1]: by graph embedding where it has one.

        Neither the item itself, nor a copy of it, nor any of the sorted `exclude` is among them.
        """
        return self.similar_to_each(row, [k], exclude)[0]

    def similar_to_each(
        self, rows: Ints, wanted: Sequence[int], exclude: Ints
    ) -> list[tuple[Ints, Floats]]:
        """The same for each of the items at `rows` [M], none of which, nor a copy, is found.

        Args:
            rows: [M].
            wanted: of each, [M].
            exclude: sorted rows.
        """
        index, vectors = self._bundle.similar, self.embeddings(rows)
        exclude = np.union1d(exclude, self.with_copies(rows))
        if index is None:
            return [self.nearest(v, k, exclude) for v, k in zip(vectors, wanted, strict=True)]
        name = f"item.{GRAPH_COLUMN}"
        queries = self.features(rows, (GRAPH_COLUMN,))[name]
        posted = np.arange(len(self._delta.ids))
        own = self._delta.features.only((GRAPH_COLUMN,)).gather(posted)[name]
        return [
            self._with_posted(index.search(query, k, exclude), own @ query, k, exclude)
            # Of an item without an edge a graph may know nothing: a zero row is a missing one.
            if query.any()
            else self.nearest(vector, k, exclude)
            for query, vector, k in zip(queries, vectors, wanted, strict=True)
        ]

    def _with_posted(
        self, found: tuple[Ints, Floats], of_posted: Floats, k: int, exclude: Ints
    ) -> tuple[Ints, Floats]:
        """The best k of what an index found and of all posted items."""
        if not len(of_posted):
            return found
        posted = self.first_posted_row + np.arange(len(of_posted))
        allowed = self.may_serve(posted) & ~np.isin(posted, exclude)
        rows = np.concatenate([found[0], posted[allowed]])
        scores = np.concatenate([found[1], of_posted[allowed]])
        best = np.argsort(-scores, kind="stable")[:k]
        return rows[best], scores[best]


def _carry(features: FeatureTable, rows: Ints, interests: Ints) -> Mask:
    """Which of the items at `rows` carry all interests."""
    owner, values = carried(features, rows)
    held = [np.bincount(owner[values == one], minlength=len(rows)) > 0 for one in interests]
    all_of_them: Mask = np.logical_and.reduce(held)
    return all_of_them


def _overlay(arrays: dict[str, Any], posted: dict[str, Any], where: Mask) -> None:
    """Writes the arrays of the rows marked by `where` over those of all rows, in place."""
    ragged = [name.removesuffix(".values") for name in arrays if name.endswith(".values")]
    for name in arrays.keys() - {f"{name}.{part}" for name in ragged for part in PARTS}:
        arrays[name] = np.array(arrays[name])
        arrays[name][where] = posted[name]
    for name in ragged:
        values, lengths = (arrays[f"{name}.{part}"] for part in PARTS)
        own_values, own_lengths = (posted[f"{name}.{part}"] for part in PARTS)
        starts = np.cumsum(lengths) - lengths
        starts[where] = len(values) + np.cumsum(own_lengths) - own_lengths
        lengths[where] = own_lengths
        at = ragged_positions(starts, lengths)
        arrays[f"{name}.values"] = np.concatenate([values, own_values])[at]
