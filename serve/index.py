"""Best items by inner product: FAISS, exact for small catalogues, inverted lists above.

Beside an item's vector stands its prior, what it gains whoever asks: a user's query reads that
column with weight 1, a query for similar items with weight 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import faiss
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from data.contract.encode import Ints
    from serve.programs import Floats

FLAT_LIMIT = 50_000
QUERIES = 200
DEPTH = 100

IndexKind = Literal["auto", "flat", "ivf"]


@dataclass(frozen=True, slots=True)
class ItemIndex:
    """Vectors and priors of the items that may be served; answers are rows of the id space.

    Attributes:
        faiss_index: an inverted file or a mapped flat index that returns rows.
    """

    faiss_index: Any

    @classmethod
    def open(cls, path: Path) -> ItemIndex:
        """Reads an index file and keeps the searches of this process to one thread."""
        faiss.omp_set_num_threads(1)
        return cls(faiss.read_index(str(path)))

    def save(self, path: Path) -> None:
        """Writes the index file."""
        faiss.write_index(self.faiss_index, str(path))

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.faiss_index.d) - 1

    @property
    def size(self) -> int:
        """Number of vectors."""
        return int(self.faiss_index.ntotal)

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
        query = np.append(query, np.float32(prior))
        fetch, visits = min(k + min(len(exclude), k), self.size), 1
        while True:
            rows, scores = self._search(query, fetch, visits)
            allowed = ~np.isin(rows, exclude) & (rows >= 0)
            if allowed.sum() >= k or fetch >= self.size:
                return rows[allowed][:k], scores[allowed][:k]
            fetch, visits = min(fetch * 4, self.size), visits * 4

    def _search(self, query: Floats, fetch: int, visits: int) -> tuple[Ints, Floats]:
        if fetch == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        scores, rows = self.faiss_index.search(
            query[None], fetch, params=self._lists(fetch, visits)
        )
        return rows[0], scores[0]

    def _lists(self, fetch: int, visits: int) -> Any:
        """Search parameters: more lists for each further visit, all when everything is fetched."""
        if not isinstance(self.faiss_index, faiss.IndexIVF):
            return None
        nlist = self.faiss_index.nlist
        nprobe = nlist if fetch >= self.size else min(nlist, self.faiss_index.nprobe * visits)
        return faiss.SearchParametersIVF(nprobe=nprobe)  # type: ignore[call-arg]


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
    flat = faiss.IndexIDMap(faiss.IndexFlatIP(columns.shape[1]))
    flat.add_with_ids(columns, rows)
    if kind == "flat" or (kind == "auto" and len(rows) < FLAT_LIMIT):
        return ItemIndex(flat), 1.0
    index = _inverted_file(rows, columns)
    queries = np.column_stack([vectors, np.ones(len(vectors), np.float32)])
    while True:
        reached = measure_recall(ItemIndex(index), ItemIndex(flat), queries)
        if reached >= recall or index.nprobe == index.nlist:
            return ItemIndex(index), reached
        index.nprobe = min(index.nlist, index.nprobe * 2)


def _inverted_file(rows: Ints, vectors: Floats) -> Any:
    """About 4 sqrt(N) lists, as FAISS advises below a million vectors."""
    count, dim = vectors.shape
    nlist = max(1, min(int(4 * count**0.5), count // 39))
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFFlat(quantizer, dim, nlist, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add_with_ids(vectors, rows)
    index.nprobe = max(1, nlist // 32)
    return index


def measure_recall(index: ItemIndex, exact: ItemIndex, queries: Floats) -> float:
    """Share of the exact best 100 items found, over evenly spaced ones of `queries` [N, D + 1]."""
    at = np.linspace(0, len(queries) - 1, min(QUERIES, len(queries))).astype(np.int64)
    _, found = index.faiss_index.search(queries[at], DEPTH)
    _, wanted = exact.faiss_index.search(queries[at], DEPTH)
    hits = [np.isin(w[w >= 0], f).mean() for w, f in zip(wanted, found, strict=True)]
    return float(np.mean(hits))
