"""Best items under a condition: the items of each condition lie side by side.

A condition is an interest that items carry. Its items are a partition, scanned as a whole when it
is small, else an inverted file of its own, of which as many lists are visited as its recall asks
for. So a search costs what its partition costs, however rare the condition is, and nothing is
filtered afterwards. In the partitions vectors have 8 bits a number, filled up with
zeros to a multiple of 16, which FAISS scans four times faster; what they find is scored again
exactly. Memory: so many bytes and about 16 more an item and condition, beside the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import faiss
import numpy as np

from data.contract.encode import FeatureTable, Ints
from serve.index import mapped
from serve.lists import centroids_of, fewest, filled, left, nearest, scan, surely
from serve.programs import Floats

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LISTS_FILE, ARRAYS_FILE = "conditions.faiss", "conditions.npz"
SCAN = 8_000  # below, one list is as fast as an inverted file
PER_LIST = 128
REFINE = 2  # candidates by 8 bits for each item asked for
DEPTH, QUERIES = 100, 200
TIES = 1e-5  # scores that differ by less are equal
NONE = np.zeros(0, np.int64), np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Partitions:
    """The items of all conditions.

    Attributes:
        lists: an inverted file whose lists belong to one condition each.
        keys: ascending hashes of the conditions, [C].
        first_list: where the lists of each begin, [C + 1].
        centroids: of the lists, [L, W]; W is D + 1 up to a multiple of 16.
        sizes: items of each, [C].
        probes: lists that a search of each visits, [C].
        vectors: of all rows, [rows, D].
        priors: of all rows, [rows].
    """

    lists: Any
    keys: Ints
    first_list: Ints
    centroids: Floats
    sizes: Ints
    probes: Ints
    vectors: Floats
    priors: Floats

    @classmethod
    def open(cls, folder: Path, vectors: Floats, priors: Floats) -> Self | None:
        """Those of a bundle; None where its items carry no conditions."""
        if not (folder / LISTS_FILE).is_file():
            return None
        with np.load(folder / ARRAYS_FILE) as arrays:
            columns = dict(arrays)
        lists = mapped(folder / LISTS_FILE)
        arrays_of_rows = np.asarray(vectors), np.asarray(priors)  # a memmap is slow to index
        return cls(lists, **columns, vectors=arrays_of_rows[0], priors=arrays_of_rows[1])

    def save(self, folder: Path) -> None:
        """Writes what `open` reads, without the vectors."""
        faiss.write_index(self.lists, str(folder / LISTS_FILE))
        names = ("keys", "first_list", "centroids", "sizes", "probes")
        np.savez(folder / ARRAYS_FILE, **{name: getattr(self, name) for name in names})

    def search(
        self,
        conditions: Sequence[int],
        query: Floats,
        k: int,
        exclude: Ints,
        prior: float = 0.0,
    ) -> tuple[Ints, Floats]:
        """The k best items that carry all conditions and are not excluded, or as many as found.

        Args:
            conditions: hashes, at least one.
            query: [D].
            k: items wanted.
            exclude: sorted rows.
            prior: weight of the items' priors.

        Returns:
            Rows and scores, best first.
        """
        places = [self._place(condition) for condition in dict.fromkeys(conditions)]
        known = sorted((p for p in places if p is not None), key=lambda at: int(self.sizes[at]))
        if len(known) < len(places):
            return NONE
        least, others = known[0], tuple(known[1:])
        members, share = _both(self, least, others) if others else (None, 1.0)
        rows = self._found(least, self._columns(query, prior), k, exclude, members, share)
        scores = self.vectors.take(rows, 0) @ query + np.float32(prior) * self.priors.take(rows)
        best = np.argsort(-scores, kind="stable")[:k]
        return rows[best], scores[best]

    def _columns(self, query: Floats, prior: float) -> Floats:
        """A query as the lists hold items, [W]."""
        columns = np.zeros(self.centroids.shape[1], np.float32)
        columns[: len(query)], columns[len(query)] = query, prior
        return columns

    def _place(self, condition: int) -> int | None:
        at = int(np.searchsorted(self.keys, condition))
        return at if at < len(self.keys) and self.keys[at] == condition else None

    def rows(self, at: int) -> Ints:
        """Item rows of a condition, in no order."""
        own = range(self.first_list[at], self.first_list[at + 1])
        inverted = self.lists.invlists
        parts = [
            faiss.rev_swig_ptr(inverted.get_ids(number), inverted.list_size(number)).copy()
            for number in own
            if inverted.list_size(number)
        ]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def _found(
        self, at: int, query: Floats, k: int, exclude: Ints, members: Any, share: float
    ) -> Ints:
        """Rows near the query by 8 bits, more lists being visited until there are enough."""
        count = int(self.first_list[at + 1] - self.first_list[at])
        fetch = min(REFINE * k + len(exclude), int(self.sizes[at]))
        visits = min(count, int(np.ceil(self.probes[at] / max(share, 1 / count))))
        while fetch:
            _, rows = scan(self.lists, query, self._nearest(at, query, visits), fetch, members)
            rows = rows[left(rows, exclude)]
            if len(rows) >= k or visits == count:
                return rows
            visits = min(count, 4 * visits)
        return NONE[0]

    def _nearest(self, at: int, query: Floats, visits: int) -> Ints:
        """Lists of a condition, nearest first, so that what comes later seldom enters the best."""
        first, end = self.first_list[at], self.first_list[at + 1]
        if visits >= end - first:
            return np.arange(first, end)
        far = -(self.centroids[first:end] @ query)
        near = np.argpartition(far, visits - 1)[:visits]
        lists: Ints = first + near[np.argsort(far[near])]
        return lists


def _both(partitions: Partitions, at: int, others: tuple[int, ...]) -> tuple[Any, float]:
    """A bitmap of the rows that carry all other conditions, and their share of the one at `at`."""
    marks = np.ones(len(partitions.vectors), bool)
    for other in others:
        mine = np.zeros(len(marks), bool)
        mine[partitions.rows(other)] = True
        marks &= mine
    share = float(marks[partitions.rows(at)].mean())
    return np.packbits(marks, bitorder="little"), share


def carried(items: FeatureTable, rows: Ints) -> tuple[Ints, Ints]:
    """Which of the items at `rows` [N] carries which interest.

    Returns:
        Places among `rows` and hashes of interests, [P] each; nothing where none is declared.
    """
    features = tuple(f for f in items.features if f.name == "interests" and f.kind == "multi")
    if not features:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    columns = FeatureTable(items.side, features, items.columns).gather(rows)
    parts = (f"{items.side}.interests.{part}" for part in ("values", "lengths"))
    values, lengths = (np.asarray(columns[part], np.int64) for part in parts)
    return np.repeat(np.arange(len(rows)), lengths), values


def build_partitions(
    owners: Ints, conditions: Ints, vectors: Floats, priors: Floats, recall: float
) -> Partitions:
    """Lays the items of each condition side by side.

    Args:
        owners: rows of items, [P].
        conditions: hash of a condition that each carries, [P].
        vectors: of all rows, [rows, D].
        priors: of all rows, [rows].
        recall: share of the exact best 100 that a search of a large condition shall find.
    """
    pairs = np.unique(np.stack([conditions, owners], 1), axis=0)
    of_pairs, rows_of_pairs = np.ascontiguousarray(pairs.T)
    keys, starts = np.unique(of_pairs, return_index=True)
    columns = filled(vectors, priors)
    members = np.split(rows_of_pairs, starts[1:])
    centroids = [_centroids(columns[rows]) for rows in members]
    first_list = np.concatenate([[0], np.cumsum([len(found) for found in centroids])])
    built = Partitions(
        _lists(np.concatenate(centroids), columns),
        keys,
        first_list,
        np.concatenate(centroids),
        np.array([len(rows) for rows in members]),
        np.ones(len(keys), np.int64),
        vectors,
        priors,
    )
    for at, rows in enumerate(members):
        _add(built.lists, columns[rows], rows, first_list[at], centroids[at])
    probes = [_probes(built, at, columns[rows], recall) for at, rows in enumerate(members)]
    return replace(built, probes=np.array(probes))


def _centroids(members: Floats) -> Floats:
    """Of the lists of a condition: one for a small one."""
    if len(members) <= SCAN:
        mean: Floats = members.mean(0, keepdims=True)
        return mean
    return centroids_of(members, len(members) // PER_LIST)


def _lists(centroids: Floats, columns: Floats) -> Any:
    """Empty lists; the range of each number is learnt from the catalogue."""
    quantizer = faiss.IndexFlatIP(columns.shape[1])
    quantizer.add(centroids)
    kind = faiss.ScalarQuantizer.QT_8bit
    shape = columns.shape[1], len(centroids), kind, faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFScalarQuantizer(quantizer, *shape, False)
    index.train(columns)
    return index


def _add(index: Any, members: Floats, rows: Ints, first_list: int, centroids: Floats) -> None:
    """Puts the items of a condition into the lists that they are nearest to."""
    lists = first_list + nearest(members, centroids)
    given: list[Any] = [faiss.swig_ptr(array) for array in (members, rows, lists)]
    index.add_core(len(rows), *given)


def _probes(built: Partitions, at: int, members: Floats, recall: float) -> int:
    """Fewest lists that find enough of the exact best of `members` [N, W], those of a condition."""
    count = int(built.first_list[at + 1] - built.first_list[at])
    if count == 1:
        return 1
    asked = np.linspace(0, len(built.vectors) - 1, QUERIES).astype(np.int64)
    queries = built.vectors[asked]
    columns = filled(queries, np.ones(QUERIES, np.float32))
    wanted = faiss.knn(columns, members, DEPTH, faiss.METRIC_INNER_PRODUCT)[0]

    def enough(visits: int) -> bool:
        trial = replace(built, probes=np.full(len(built.keys), visits))
        found = [trial.search([int(built.keys[at])], q, DEPTH, NONE[0], 1.0)[1] for q in queries]
        pairs = zip(wanted, found, strict=True)
        shares = [np.sum(f >= w[-1] - TIES) / DEPTH for w, f in pairs]
        return surely(np.array(shares), recall)

    return fewest(count, enough)
