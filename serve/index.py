"""Best items by inner product: FAISS, exact for small catalogues, inverted lists above.

Lists are short, their centroids a small graph (HNSW), and as few are visited as recall allows; in
them vectors have 16 bits a number.

Beside an item's vector stands its prior, what it gains whoever asks: a user's query reads that
column with weight 1, a query for similar items with weight 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import faiss
import numpy as np

from serve.lists import centroids_of, fewest, filled, left, on_gpus, scan, surely

if TYPE_CHECKING:
    from pathlib import Path

    from data.contract.encode import Ints
    from serve.programs import Floats

FLAT_LIMIT = 50_000
PER_LIST = 64
LINKS = 16  # of each centroid in the graph
QUERIES = 1000
DEPTH = 100

IndexKind = Literal["auto", "flat", "ivf"]


@dataclass(frozen=True)
class ItemIndex:
    """Vectors and priors of the items that may be served; answers are rows of the id space.

    Attributes:
        faiss_index: a mapped flat index that returns rows, or an inverted file behind a transform
            that fills vectors up.
    """

    faiss_index: Any

    @classmethod
    def open(cls, path: Path) -> ItemIndex:
        """Opens an index file and keeps the searches of this process to one thread."""
        faiss.omp_set_num_threads(1)
        return cls(mapped(path))

    def save(self, path: Path) -> None:
        """Writes the index file."""
        faiss.write_index(self.faiss_index, str(path))

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.faiss_index.d) - 1

    @cached_property
    def width(self) -> int:
        """Numbers of a query: vector, prior, zeros up to what an inverted file scans."""
        return int(self.faiss_index.d if self.inverted is None else self.inverted.d)

    @property
    def size(self) -> int:
        """Number of vectors."""
        return int(self.faiss_index.ntotal)

    @cached_property
    def inverted(self) -> Any:
        """The inverted file itself, None where the index is flat."""
        return None if isinstance(self.faiss_index, faiss.IndexIDMap) else _inside(self.faiss_index)

    def search(
        self, query: Floats, k: int, exclude: Ints, prior: float = 0.0
    ) -> tuple[Ints, Floats]:
        """The k best items that are not excluded, fewer only when there are not as many.

        Fetches more until enough are left; an inverted file also visits more lists.

        Args:
            query: [D].
            k: items wanted.
            exclude: sorted rows.
            prior: weight of the items' priors.

        Returns:
            Rows and scores, best first.
        """
        asked = np.zeros(self.width, np.float32)
        asked[: len(query)], asked[len(query)] = query, prior
        fetch, visits = min(k + min(len(exclude), k), self.size), 1
        while True:
            rows, scores = self._search(asked, fetch, visits)
            if not len(exclude) and fetch and rows[-1] >= 0:
                return rows, scores
            allowed = left(rows, exclude) & (rows >= 0)
            if allowed.sum() >= k or fetch >= self.size:
                return rows[allowed][:k], scores[allowed][:k]
            fetch, visits = min(fetch * 4, self.size), visits * 4

    def _search(self, query: Floats, fetch: int, visits: int) -> tuple[Ints, Floats]:
        """The best of the nearest lists; of all of them when everything is fetched."""
        scores, rows = np.empty(fetch, np.float32), np.empty(fetch, np.int64)
        index, choice = self.faiss_index, None
        if self.inverted is not None:
            index = self.inverted
            if fetch >= self.size:  # the graph of centroids may not lead to each of them
                scores, rows = scan(index, query, np.arange(index.nlist), fetch)
                return rows, scores
            if visits > 1:
                lists = min(index.nlist, index.nprobe * visits)
                choice = faiss.SearchParametersIVF(nprobe=lists)  # type: ignore[call-arg]
        if fetch:
            given = faiss.swig_ptr(scores), faiss.swig_ptr(rows)
            index.search_c(1, faiss.swig_ptr(query), fetch, *given, choice)
        return rows, scores


def mapped(path: Path) -> Any:
    """A FAISS index in its file: the processes of a machine share what they read of it."""
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def build_index(
    rows: Ints, vectors: Floats, priors: Floats, kind: IndexKind, recall: float
) -> tuple[ItemIndex, float]:
    """Builds an index over unit vectors and priors.

    Args:
        rows: [N] what searches return.
        vectors: [N, D].
        priors: [N].
        kind: flat, ivf, or auto by size.
        recall: share of the exact 100 nearest that an inverted file shall find.

    Returns:
        The index, and that share as measured.
    """
    columns = np.column_stack([vectors, priors]).astype(np.float32)
    flat: Any = faiss.IndexIDMap(faiss.IndexFlatIP(columns.shape[1]))
    flat.add_with_ids(columns, rows)
    if kind == "flat" or (kind == "auto" and len(rows) < FLAT_LIMIT):
        return ItemIndex(flat), 1.0
    index = _inverted_file(rows, filled(vectors, priors), columns.shape[1])
    queries = _some(np.column_stack([vectors, np.ones(len(vectors), np.float32)]))
    wanted = on_gpus(flat).search(queries, DEPTH)[1]

    def enough(visits: int) -> bool:
        _visit(index, visits)
        return surely(_shares(index, queries, wanted), recall)

    _visit(index, fewest(_inside(index).nlist, enough))
    return ItemIndex(index), float(_shares(index, queries, wanted).mean())


def _inverted_file(rows: Ints, columns: Floats, given: int) -> Any:
    """Lists of some 64 vectors each, behind what fills up vectors of so many given numbers."""
    centroids = centroids_of(columns, max(1, len(columns) // PER_LIST))
    kind = faiss.ScalarQuantizer.QT_fp16
    shape = columns.shape[1], len(centroids), kind, faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFScalarQuantizer(_graph(centroids), *shape, False)
    index.is_trained = True
    index.add_with_ids(columns, rows)
    widths: Any = given, columns.shape[1], False
    fill = faiss.RemapDimensionsTransform(*widths)
    return faiss.IndexPreTransform(fill, index)


def _inside(index: Any) -> Any:
    return faiss.extract_index_ivf(index)


def _graph(centroids: Floats) -> Any:
    """Finds the nearest of them; made by one thread, for links depend on the order of additions."""
    threads = faiss.omp_get_max_threads()
    graph = faiss.IndexHNSWFlat(centroids.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = 100, 32
    faiss.omp_set_num_threads(1)
    graph.add(centroids)
    faiss.omp_set_num_threads(threads)
    return graph


def _visit(index: Any, visits: int) -> None:
    """Makes searches visit so many lists, the graph looking at twice as many."""
    inverted = _inside(index)
    inverted.nprobe = visits
    graph: Any = faiss.downcast_index(inverted.quantizer)
    graph.hnsw.efSearch = 2 * visits


def _some(queries: Floats) -> Floats:
    """Evenly spaced ones."""
    at = np.linspace(0, len(queries) - 1, min(QUERIES, len(queries))).astype(np.int64)
    return queries[at]


def _shares(index: Any, queries: Floats, wanted: Ints) -> Floats:
    """Which share of the wanted rows [Q, 100] each query finds, [Q]; -1 is nothing."""
    found = index.search(queries, DEPTH)[1]
    pairs = zip(wanted, found, strict=True)
    return np.array([np.isin(w[w >= 0], f).mean() for w, f in pairs], np.float32)
