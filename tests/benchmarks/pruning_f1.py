"""Whether a pruned graph foretells the items of boards better: F1 by δ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.graph.pixie import PixieSettings, PixieWalk
from data.graph.pruning import PruningSettings, about_everything, strongest, topical
from data.graph.store import Graph
from tests.benchmarks.planted_graph import TOPICS, Ints, Planted

BOARDS, QUERIES, FIRST = 400, 10, 20
EXPONENTS = (0.97, 0.95, 0.91, 0.85, 0.75, 0.65, 0.5)


def pruning(planted: Planted) -> dict[str, Any]:
    """Takes a fifth of the edges of 300 boards out and looks for them from ten others."""
    rng = np.random.default_rng(5)
    boards = planted.edges["board"].to_numpy()
    degrees = planted.graph.boards.degrees
    asked = rng.choice(np.flatnonzero((degrees >= 40) & (degrees < 400)), 300, replace=False)
    hidden = np.isin(boards, asked) & (rng.random(len(boards)) < 0.2)
    known, truth = planted.edges.filter(pa.array(~hidden)), planted.edges.filter(pa.array(hidden))
    task = _Task(planted, asked, Graph.of(known, *_sizes(planted)), _held(truth, asked))
    clear = known.filter(pa.array(~_everything(planted, known)[known["board"].to_numpy()]))
    vectors = _contents(planted)
    found = {"none": task.score(known), "entropy": task.score(clear)}
    for exponent in (0.95, 0.91, 0.85, 0.75, 0.65, 0.5):
        kept = clear.filter(pa.array(topical(clear, vectors, exponent)))
        found[f"entropy, δ={exponent}"] = task.score(kept)
    newest = strongest(clear, PruningSettings(degree_exponent=0.85))
    found["entropy, newest of both ends, δ=0.85"] = task.score(clear.filter(pa.array(newest)))
    return found


def _sizes(planted: Planted) -> tuple[int, int]:
    return planted.graph.num_items, planted.graph.num_boards


def _held(truth: pa.Table, asked: Ints) -> list[Ints]:
    board, item = truth["board"].to_numpy(), truth["item"].to_numpy().astype(np.int64)
    return [np.unique(item[board == b]) for b in asked]


def _everything(planted: Planted, edges: pa.Table) -> npt.NDArray[np.bool_]:
    """Boards of high entropy."""
    settings = PruningSettings(max_entropy=0.6)
    dropped = about_everything(
        lambda: iter([edges]), planted.topic + 1, planted.graph.num_boards, settings
    )
    assert dropped is not None
    return dropped


def _contents(planted: Planted) -> npt.NDArray[np.float32]:
    """Noisy vectors of the topics of items, [items, 16]."""
    rng = np.random.default_rng(11)
    centres = rng.normal(size=(TOPICS, 16)).astype(np.float32)
    both = np.where((planted.second >= 0)[:, None], centres[planted.second], 0)
    noise = rng.normal(0, 0.5, (len(planted.topic), 16))
    return (centres[planted.topic] + both + noise).astype(np.float32)


@dataclass(frozen=True)
class _Task:
    """Boards whose hidden items are looked for; what is known of them is no answer."""

    planted: Planted
    asked: Ints
    known: Graph
    held: list[Ints]

    def score(self, edges: pa.Table) -> dict[str, float]:
        """F1 of the first 20 on a graph of `edges`."""
        walk = PixieWalk.of(Graph.of(edges, *_sizes(self.planted)), LONG)
        values = [self._of_board(walk, n) for n in range(len(self.asked))]
        share = edges.num_rows / self.planted.edges.num_rows
        return {"edges": round(share, 3), "f1": round(float(np.mean(values)), 4)}

    def _of_board(self, walk: PixieWalk, number: int) -> float:
        boards = self.known.boards
        first, end = boards.indptr[self.asked[number]], boards.indptr[self.asked[number] + 1]
        members = boards.indices[first:end].astype(np.int64)
        queries = np.random.default_rng(number).choice(members, 10)
        found = walk.recommend(queries, np.ones(10), number).items
        found = found[~np.isin(found, members)][:20]
        right = np.isin(found, self.held[number]).sum()
        return 2 * right / max(len(found) + len(self.held[number]), 1)


