"""Whether a pruned graph foretells the items of boards better: F1 by δ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.graph.pixie import PixieSettings, PixieWalk
from data.graph.pruning import PruningSettings, about_everything, strongest, topical
from data.graph.store import Graph
from tests.benchmarks.planted_graph import TOPICS, Ints, Planted

if TYPE_CHECKING:
    from collections.abc import Iterator

Scores = npt.NDArray[np.float64]

LONG = replace(PixieSettings(), early_stop=False)
BOARDS, QUERIES, FIRST = 300, 10, 20
EXPONENTS = (0.95, 0.91, 0.85, 0.75, 0.65)


def pruning(planted: Planted) -> dict[str, dict[str, Any]]:
    """Takes a fifth of the edges of some boards out and looks for them from ten others.

    Returns:
        By graph: share of the edges left, F1 of the first 20, and the difference to the graph
        with all edges, paired by board, with the half-width of its 95% interval.
    """
    rng = np.random.default_rng(5)
    boards, degrees = planted.edges["board"].to_numpy(), planted.graph.boards.degrees
    some = np.flatnonzero((degrees >= 40) & (degrees < 400))
    asked = rng.choice(some, min(BOARDS, len(some)), replace=False)
    hidden = np.isin(boards, asked) & (rng.random(len(boards)) < 0.2)
    known, truth = planted.edges.filter(pa.array(~hidden)), planted.edges.filter(pa.array(hidden))
    task = _Task(planted, asked, Graph.of(known, *_sizes(planted)), _held(truth, asked))
    before = task.score(known)
    found = {"all": _line(known, known, before, before)}
    for name, edges in _graphs(planted, known):
        found[name] = _line(known, edges, before, task.score(edges))
    return found


def _graphs(planted: Planted, known: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    clear, vectors = _without_mixed(planted, known), _contents(planted)
    yield "entropy", clear
    for exponent in EXPONENTS:
        kept = topical(clear, vectors, exponent)
        yield f"entropy, topical {exponent}", clear.filter(pa.array(kept))
    newest = strongest(clear, PruningSettings(degree_exponent=0.9))
    yield "entropy, newest of both ends 0.9", clear.filter(pa.array(newest))


def _line(known: pa.Table, edges: pa.Table, before: Scores, after: Scores) -> dict[str, Any]:
    gain = after - before
    half = 1.96 * gain.std() / len(gain) ** 0.5
    return {
        "edges": round(edges.num_rows / known.num_rows, 3),
        "f1": round(float(after.mean()), 4),
        "gain": [round(float(gain.mean()), 4), round(float(half), 4)],
    }


def _sizes(planted: Planted) -> tuple[int, int]:
    return planted.graph.num_items, planted.graph.num_boards


def _held(truth: pa.Table, asked: Ints) -> list[Ints]:
    board, item = truth["board"].to_numpy(), truth["item"].to_numpy().astype(np.int64)
    return [np.unique(item[board == b]) for b in asked]


def pruned(planted: Planted, exponent: float) -> Planted:
    """The same with fewer edges."""
    clear = _without_mixed(planted, planted.edges)
    edges = clear.filter(pa.array(topical(clear, _contents(planted), exponent)))
    return replace(planted, edges=edges, graph=Graph.of(edges, *_sizes(planted)))


def _without_mixed(planted: Planted, edges: pa.Table) -> pa.Table:
    """Without the boards of high entropy."""
    settings = PruningSettings(max_entropy=0.6)
    dropped = about_everything(
        lambda: iter([edges]), planted.topic + 1, planted.graph.num_boards, settings
    )
    assert dropped is not None
    return edges.filter(pa.array(~dropped[edges["board"].to_numpy()]))


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

    def score(self, edges: pa.Table) -> Scores:
        """F1 of each board's first 20 on a graph of `edges`."""
        walk = PixieWalk.of(Graph.of(edges, *_sizes(self.planted)), LONG)
        return np.array([self._of_board(walk, n) for n in range(len(self.asked))])

    def _of_board(self, walk: PixieWalk, number: int) -> float:
        boards = self.known.boards
        first, end = boards.indptr[self.asked[number]], boards.indptr[self.asked[number] + 1]
        members = boards.indices[first:end].astype(np.int64)
        queries = np.random.default_rng(number).choice(members, QUERIES)
        found = walk.recommend(queries, np.ones(QUERIES), number).items
        found = found[~np.isin(found, members)][:FIRST]
        right = np.isin(found, self.held[number]).sum()
        return 2 * right / max(len(found) + len(self.held[number]), 1)
