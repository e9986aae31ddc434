"""Speed and recall of the item index: `python -m tests.benchmarks.bench_index [root=runs/default]`.

The classes that serve, `serve.index.ItemIndex` and `serve.partitions.Partitions`, by their public
search, beside hnswlib (`build/hnswlib`, made if absent; M 16, ef_construction 200, the smallest ef
with a recall of .95), FAISS's exact index, the same with a bitmap of the items allowed, and an
exact scan of the allowed items laid side by side. A million vectors (count=) from the trained ones
of the root's bundle, x_i + a (x_j - x_i), j among the ten nearest of i, of unit length; so are the
queries, by another draw. Every item carries 1 to 3 interests of 404, the four asked for by half, a
tenth, a hundredth and a thousandth of the items, more often the nearer to an item at random.

Queries come one at a time, k is 100, every arm has one thread and its turn in each of five rounds;
the median is of processor time, which other processes disturb least. The last line is one JSON
object:

- `recall`, `hnswlib_recall`: of the exact 100 nearest; `..._between`: for queries half-way between
  two items at random, what a user of two tastes asks;
- `ratio_hnswlib`, `ratio_flat`: queries a second, ours over theirs;
- `filtered_recall_min`: the least of the four interests;
- `filtered_ratio_bitmap`: the least of those of at most a tenth of the items;
- `filtered_ratio_exact`: the least of those of at least a tenth;
- `memory_ratio`: bytes of index and partitions, as written, over those of the vectors, which a
  bundle holds beside them.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from data.contract.artifact import current
from data.contract.settings import UserError
from serve.index import build_index
from serve.partitions import build_partitions

if TYPE_CHECKING:
    from collections.abc import Callable

    Search = Callable[[Any], Any]

PEER, PEER_PIN = Path("build/hnswlib"), "hnswlib==0.8.0"
COUNT, QUERIES, K, ROUNDS = 1_000_000, 500, 100, 5
SHARES, OTHERS = (0.5, 0.1, 0.01, 0.001), 400
NEAR = 10
RECALL, FILTERED_RECALL = 0.95, 0.99
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
NOBODY = np.zeros(0, np.int64)


def trained(root: Path) -> Any:
    """Vectors of the items that the root's bundle may serve, [N, D]."""
    try:
        path = current(root, "bundles").path
    except UserError as error:
        sys.exit(f"{error}: python -m ray_jobs.pipeline root={root}")
    return np.load(path / "item_embeddings.npy")[np.load(path / "live_items.npy")]


def spread(items: Any, count: int, seed: int) -> Any:
    """Vectors on the way from items to some of their nearest, [count, D]."""
    rng = np.random.default_rng(seed)
    near = faiss.knn(items, items, NEAR + 1, faiss.METRIC_INNER_PRODUCT)[1][:, 1:]
    start = rng.integers(0, len(items), count)
    end = near[start, rng.integers(0, NEAR, count)]
    way = rng.random((count, 1), dtype=np.float32)
    return unit(items[start] + way * (items[end] - items[start]))


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def interests(vectors: Any) -> tuple[Any, Any]:
    """Which item carries which interest, [P] each; the first four are those asked for."""
    rng = np.random.default_rng(5)
    marks = np.zeros((len(vectors), len(SHARES)), bool)
    for number, share in enumerate(SHARES):
        cosine = vectors @ vectors[rng.integers(len(vectors))]
        score = cosine + rng.normal(0, cosine.std(), len(vectors))
        count = int(share * len(vectors))
        marks[np.argpartition(-score, count)[:count], number] = True
    owners, asked = np.nonzero(marks)
    lacks = np.maximum(rng.integers(1, 4, len(vectors)) - marks.sum(1), 0)
    more = np.repeat(np.arange(len(vectors)), lacks)
    weights = 1 / (10 + np.arange(OTHERS))
    other = len(SHARES) + rng.choice(OTHERS, len(more), p=weights / weights.sum())
    return np.concatenate([owners, more]), np.concatenate([asked, other])


def hnswlib_over(vectors: Any, kept: Path) -> Any:
    """The peer's index, built once for a file."""
    if not PEER.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--target", str(PEER), PEER_PIN], check=True)
    sys.path.insert(0, str(PEER))
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.set_num_threads(1)
    if kept.is_file():
        index.load_index(str(kept))
        return index
    index.init_index(len(vectors), M=16, ef_construction=200)
    index.add_items(vectors, num_threads=1)
    index.save_index(str(kept))
    return index


def tune(index: Any, queries: Any, wanted: Any) -> None:
    """The smallest ef, in steps of 5%, that reaches the recall; the library takes none below k."""
    ef = K
    while True:
        index.set_ef(ef)
        if recall(partial(by_hnswlib, index), queries, wanted) >= RECALL:
            return
        ef = int(np.ceil(ef * 1.05))


def by_hnswlib(index: Any, query: Any) -> Any:
    return index.knn_query(query[None], K, num_threads=1)[0][0]


def by_faiss(index: Any, query: Any, parameters: Any = None) -> Any:
    return index.search(query[None], K, params=parameters)[1][0]


def flat_over(vectors: Any) -> Any:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def recall(search: Search, queries: Any, wanted: Any) -> float:
    """Mean share of the wanted rows [Q, K] that are found."""
    pairs = zip(queries, wanted, strict=True)
    return float(np.mean([np.isin(rows, search(query)).mean() for query, rows in pairs]))


@dataclass(frozen=True)
class Arms:
    """What is timed: searches by name, each with how many queries make a turn."""

    searches: dict[str, tuple[Search, int]]

    def rates(self, queries: Any) -> dict[str, float]:
        """Queries a second of processor time, medians."""
        found: dict[str, list[float]] = {name: [] for name in self.searches}
        for turn in range(ROUNDS):
            for name, (search, count) in self.searches.items():
                asked = np.roll(queries, -turn * count, 0)[:count]
                search(asked[0])
                began = time.process_time()
                for query in asked:
                    search(query)
                found[name].append(count / (time.process_time() - began))
        return {name: statistics.median(rates) for name, rates in found.items()}


def unfiltered(index: Any, vectors: Any, queries: Any, kept: Path) -> dict[str, Any]:
    """The whole catalogue."""
    flat, peer = flat_over(vectors), hnswlib_over(vectors, kept)
    between = unit(queries + np.roll(queries, 1, 0))
    wanted, of_between = (flat.search(asked, K)[1] for asked in (queries, between))
    tune(peer, queries, wanted)
    searches: dict[str, Search] = {
        "ours": lambda query: index.search(query, K, NOBODY)[0],
        "hnswlib": partial(by_hnswlib, peer),
    }
    line: dict[str, Any] = {"ef": peer.ef}
    for name, prefix in (("ours", ""), ("hnswlib", "hnswlib_")):
        line[f"{prefix}recall"] = recall(searches[name], queries, wanted)
        line[f"{prefix}recall_between"] = recall(searches[name], between, of_between)
    arms = {name: (search, QUERIES) for name, search in searches.items()}
    rates = Arms(arms | {"flat": (partial(by_faiss, flat), 20)}).rates(queries)
    ratios = {f"ratio_{name}": rates["ours"] / rates[name] for name in ("hnswlib", "flat")}
    return line | ratios | {"rates": rates}


def filtered(partitions: Any, at: int, flat: Any, queries: Any, members: Any) -> dict[str, float]:
    """One interest: recall, and the rates of its arms."""
    exact = flat_over(flat.reconstruct_batch(members))
    marks = np.zeros(flat.ntotal, bool)
    marks[members] = True
    bitmap = np.packbits(marks, bitorder="little")
    chosen = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))
    ours = lambda query: partitions.search([at], query, K, NOBODY)[0]  # noqa: E731
    arms = {
        "ours": (ours, QUERIES),
        "exact": (partial(by_faiss, exact), int(np.clip(1e7 / len(members), 20, QUERIES))),
        "bitmap": (partial(by_faiss, flat, parameters=chosen), 20),
    }
    wanted = members[exact.search(queries, K)[1]]
    return {"recall": recall(ours, queries, wanted)} | Arms(arms).rates(queries)


def of_interests(partitions: Any, vectors: Any, queries: Any, carried: Any) -> dict[str, Any]:
    """All interests asked for."""
    flat, (owners, conditions) = flat_over(vectors), carried
    found = {
        share: filtered(partitions, at, flat, queries, np.unique(owners[conditions == at]))
        for at, share in enumerate(SHARES)
    }

    def least(arm: str, shares: tuple[float, ...]) -> float:
        return min(found[share]["ours"] / found[share][arm] for share in shares)

    return {
        "filtered_recall_min": min(one["recall"] for one in found.values()),
        "filtered_ratio_bitmap": least("bitmap", SHARES[1:]),
        "filtered_ratio_exact": least("exact", SHARES[:2]),
        "filtered": found,
    }


def written(index: Any, partitions: Any, folder: Path) -> int:
    """Bytes of both as files."""
    index.save(folder / "index.faiss")
    partitions.save(folder)
    files = [folder / "index.faiss", *folder.glob("conditions.*")]
    return sum(file.stat().st_size for file in files)


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    root, count = Path(words.get("root", "runs/default")), int(words.get("count", COUNT))
    faiss.omp_set_num_threads(1)
    items = trained(root)
    vectors, queries = spread(items, count, 1), spread(items, QUERIES, 2)
    folder = root / "bench_index" / f"{current(root, 'bundles').version}-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    carried, priors = interests(vectors), np.zeros(count, np.float32)
    began = time.process_time()
    index, _ = build_index(np.arange(count), vectors, priors, "auto", RECALL)
    index_s = time.process_time() - began
    partitions = build_partitions(*carried, vectors, priors, FILTERED_RECALL)
    partitions_s = time.process_time() - began - index_s
    line = {
        "name": "index",
        "params": {"count": count, "items": len(items), "dim": items.shape[1], "k": K},
        "unit": "queries_per_s",
        **unfiltered(index, vectors, queries, folder / "hnswlib.bin"),
        **of_interests(partitions, vectors, queries, carried),
        "memory_ratio": written(index, partitions, folder) / vectors.nbytes,
        "build_s": {"index": index_s, "partitions": partitions_s},
        "load": os.getloadavg()[0],
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(line | {"value": line["rates"]["ours"]}))


if __name__ == "__main__":
    if ONE_THREAD.items() <= os.environ.items():
        main()
    else:
        again = [sys.executable, "-m", "tests.benchmarks.bench_index", *sys.argv[1:]]
        os.execve(sys.executable, again, os.environ | ONE_THREAD)
