"""Edges that a graph is better without: those of hubs, and of boards about everything.

`pruned` works on the blocks that a graph is built from, with what passes over them have counted:
memory grows with the nodes and one block, for entropy also with the classes that a board holds.
`strongest` and `topical` order the edges of a node by more than their place, for tables of edges
that fit in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from data.contract.settings import Count, Share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from data.dataset import Dataset
    from data.graph.store import Blocks, Floats, Ints

    Bools = npt.NDArray[np.bool_]

MIN_EDGES = 10
EDGES_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningSettings:
    """Which edges are left out.

    Attributes:
        degree_exponent: a node of d edges keeps d to this power, at least 10; 1 keeps all
            (OmniSage takes .86 with at most 10,000).
        max_edges: most edges that a node keeps.
        max_entropy: boards whose items' classes have a higher entropy are left out, as a share of
            the largest that there could be; 1 keeps all. Needs a class of items: their first
            interest.
    """

    degree_exponent: Share = 1.0
    max_edges: Count = 10_000
    max_entropy: Share = 1.0


def kept_edges(degrees: Ints, settings: PruningSettings) -> Ints:
    """Edges that nodes of some degrees keep: `min(max(d^δ, 10), most, d)` (OmniSage, 2025)."""
    wanted = np.maximum(np.floor(degrees.astype(np.float64) ** settings.degree_exponent), MIN_EDGES)
    kept: Ints = np.minimum(np.minimum(wanted, settings.max_edges), degrees).astype(np.int64)
    return kept


def first_interests(dataset: Dataset) -> Ints:
    """Class of each item row: the first of its interests, numbered from 1; 0 without any."""
    lists = [f.name for f in dataset.vocabulary.item_features if f.kind == "multi"]
    classes = np.zeros(dataset.item_ids.rows, np.int64)
    if not lists:
        return classes
    column = dataset.items.columns["interests" if "interests" in lists else lists[0]]
    offsets, values = np.asarray(column.offsets).astype(np.int64), np.asarray(column.values)
    some = np.flatnonzero(np.diff(offsets) > 0)
    classes[some] = np.unique(values[offsets[some]], return_inverse=True)[1] + 1
    return classes


def board_entropy(edges: Blocks, groups: Ints, num_boards: int) -> npt.NDArray[np.float64]:
    """Entropy of the classes of each board's items, in nats, [boards]; 0 of an empty board.

    Args:
        edges: gives the EDGE blocks.
        groups: class of each item row; 0 is unknown and does not count.
        num_boards: boards.
    """
    width = int(groups.max(initial=0)) + 1
    cells, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for block in edges():
        group = groups[block["item"].to_numpy()]
        cell = block["board"].to_numpy().astype(np.int64) * width + group
        cells, place = np.unique(np.concatenate([cells, cell[group > 0]]), return_inverse=True)
        more = np.ones(len(place) - len(counts), np.int64)
        counts = np.bincount(place, np.concatenate([counts, more]), len(cells)).astype(np.int64)
    owner = cells // width
    share = counts / np.bincount(owner, counts, minlength=num_boards)[owner]
    return np.bincount(owner, -share * np.log(share), num_boards).astype(np.float64)


def about_everything(
    edges: Blocks, groups: Ints, num_boards: int, settings: PruningSettings
) -> Bools | None:
    """Boards to leave out for their entropy, [boards]; None where the settings keep all."""
    if settings.max_entropy >= 1:
        return None
    most = np.log(max(len(np.unique(groups[groups > 0])), 2))
    dropped: Bools = board_entropy(edges, groups, num_boards) > settings.max_entropy * most
    return dropped


def pruned(
    edges: Blocks, sizes: tuple[int, int], settings: PruningSettings, dropped: Bools | None
) -> Blocks:
    """Edges without those of `dropped` boards, and of hubs only the last.

    An edge stays where it is among the last that both of its ends keep, in order of input: of a
    board table in order of time, the newest.

    Args:
        edges: gives the EDGE blocks anew at each call.
        sizes: number of item rows and of boards.
        settings: how many edges a node keeps.
        dropped: boards without edges, [boards]; None: no board.
    """
    degrees = {key: np.zeros(n, np.int64) for key, n in zip(("item", "board"), sizes, strict=True)}
    for block in _without(edges, dropped):
        for key, counts in degrees.items():
            counts += np.bincount(block[key].to_numpy(), minlength=len(counts))
    kept = {key: kept_edges(counts, settings) for key, counts in degrees.items()}
    if all(np.array_equal(kept[key], degrees[key]) for key in kept):
        return partial(_without, edges, dropped)
    return partial(_last, edges, dropped, degrees, kept)


def _without(edges: Blocks, dropped: Bools | None) -> Iterator[pa.Table]:
    for block in edges():
        if dropped is None:
            yield block
        else:
            yield block.filter(pa.array(~dropped[block["board"].to_numpy()]))


def _last(
    edges: Blocks, dropped: Bools | None, degrees: dict[str, Ints], kept: dict[str, Ints]
) -> Iterator[pa.Table]:
    """Edges whose place from the end is within what both ends keep."""
    left = {key: counts.copy() for key, counts in degrees.items()}
    for block in _without(edges, dropped):
        stays = np.ones(block.num_rows, bool)
        for key, counts in left.items():
            nodes = block[key].to_numpy().astype(np.int64)
            stays &= _from_end(nodes, counts) <= kept[key][nodes]
        yield block.filter(pa.array(stays))


def _from_end(nodes: Ints, left: Ints) -> Ints:
    """How many edges of its node are still to come at each edge, itself included; `left` falls."""
    order = np.argsort(nodes, kind="stable")
    distinct, first, counts = np.unique(nodes[order], return_index=True, return_counts=True)
    within = np.empty(len(nodes), np.int64)
    within[order] = np.arange(len(nodes)) - np.repeat(first, counts)
    places: Ints = left[nodes] - within
    left[distinct] -= counts
    return places


def strongest(edges: pa.Table, settings: PruningSettings) -> Bools:
    """Edges among those that both of their ends keep: the heaviest, of these the newest, [E].

    Ties stay in order of the table, the last being kept.

    Args:
        edges: EDGE rows, in memory.
        settings: how many edges a node keeps.
    """
    age = (edges["weight"].to_numpy(), edges["timestamp"].to_numpy())
    stays = np.ones(edges.num_rows, bool)
    for key in ("item", "board"):
        nodes = edges[key].to_numpy()
        stays &= _highest(nodes, kept_edges(np.bincount(nodes), settings), age)
    return stays


def topical(edges: pa.Table, vectors: Floats, exponent: float) -> Bools:
    """Edges of each item to the boards that are most about what it is about (Pixie §3.2), [E].

    An item of d boards keeps d^δ of them, rounded: items of few boards nearly all. A board is about
    the mean of its items' vectors; what counts is its cosine with the item's.

    Args:
        edges: EDGE rows, in memory.
        vectors: content or topics of each item row, [rows, D].
        exponent: δ, at most 1; 1 keeps all.
    """
    items, boards = edges["item"].to_numpy(), edges["board"].to_numpy()
    likeness = _likeness(items, boards, vectors)
    degrees = np.bincount(items, minlength=len(vectors)).astype(np.float64)
    return _highest(items, np.rint(degrees**exponent).astype(np.int64), (likeness,))


def _likeness(
    items: npt.NDArray[np.int32], boards: npt.NDArray[np.int32], vectors: Floats
) -> Floats:
    """Cosine of an edge's item and the mean of its board's items, [E]; 0 of vectors that are 0."""
    ones = np.ones(len(items), np.float32)
    sums = sp.csr_array((ones, (boards, items)), (int(boards.max(initial=-1)) + 1, len(vectors)))
    of_boards, of_items = _unit(sums @ vectors), _unit(vectors)
    found = np.empty(len(items), np.float32)
    for start in range(0, len(items), EDGES_AT_ONCE):
        part = slice(start, start + EDGES_AT_ONCE)
        found[part] = np.einsum("ed,ed->e", of_items[items[part]], of_boards[boards[part]])
    return found


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = (vectors / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)
    return unit


def _highest(nodes: npt.NDArray[np.int32], kept: Ints, keys: tuple[npt.NDArray[Any], ...]) -> Bools:
    """The `kept` edges of each node that come last by `keys`, the first of them counting most."""
    order = np.lexsort((*reversed(keys), nodes))
    ends = np.cumsum(np.bincount(nodes, minlength=len(kept)))
    stays = np.zeros(len(nodes), bool)
    stays[order] = ends[nodes[order]] - np.arange(len(nodes)) <= kept[nodes[order]]
    return stays
