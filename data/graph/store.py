"""A bipartite graph of items and boards: sorted adjacency both ways, memory-mapped.

A board is any group of items: a collection, a user with what they engaged with. Files of a folder,
for each side `items` and `boards`:
    <side>.indptr.npy     int64[N + 1], where the edges of each node begin
    <side>.indices.npy    int32[E], the other end of each edge, in order of input
    <side>.weight.npy     float32[E]; absent when all edges weigh 1
    <side>.alias.npy      uint64[E], to choose edges by weight (`data.graph.alias`); absent likewise
    <side>.timestamp.npy  int64[E] ms since 1970; absent when there is no clock

Memory-mapped, one copy serves all processes of a host. Building takes three passes over the edges,
one of them to count: time grows with the edges, memory with the nodes and one block; the rest is
page cache. On disk an edge takes 8 bytes, 16 more with times, 24 more with weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.contract.array_file import create_array
from data.graph.alias import fill_aliases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Blocks = Callable[[], Iterator[pa.Table]]

EDGE = pa.schema(
    [
        ("board", pa.int32()),
        ("item", pa.int32()),
        ("weight", pa.float32()),
        ("timestamp", pa.int64()),
    ]
)
Side = Literal["item", "board"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Adjacency:
    """The edges of every node of one side, E in all.

    Attributes:
        indptr: int64[N + 1].
        indices: int32[E] nodes of the other side.
        weight: float32[E]; None when all edges weigh 1.
        timestamp: int64[E] ms since 1970; None without a clock.
        alias: uint64[E] see `data.graph.alias`; None without weights.
    """

    indptr: Ints
    indices: npt.NDArray[np.int32]
    weight: Floats | None = None
    timestamp: Ints | None = None
    alias: npt.NDArray[np.uint64] | None = None

    @property
    def degrees(self) -> Ints:
        """Edges of each node, [N]."""
        return np.diff(self.indptr)

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.indptr) - 1

    @classmethod
    def open(cls, folder: Path, name: str, resident: bool) -> Adjacency:
        """Reads what `build_graph` wrote."""
        columns = ("indptr", "indices", "weight", "timestamp", "alias")
        return cls(*(_load(folder / f"{name}.{column}.npy", resident) for column in columns))

    @classmethod
    def of(
        cls, node: Ints, other: Ints, num_nodes: int, weight: Floats, timestamp: Ints
    ) -> Adjacency:
        """Edges [E] sorted by their end `node` on this side."""
        order = np.argsort(node, kind="stable")
        indptr = _indptr(np.bincount(node, minlength=num_nodes))
        indices = other[order].astype(np.int32)
        times = timestamp[order] if timestamp.any() else None
        if (weight == 1).all():
            return cls(indptr, indices, timestamp=times)
        alias = np.empty(len(order), np.uint64)
        fill_aliases(indptr, indices, weight[order], alias)
        return cls(indptr, indices, weight[order], times, alias)


def _load(path: Path, resident: bool) -> Any:
    if not path.is_file():
        return None
    mapped = np.load(path, mmap_mode="r")
    return np.array(mapped) if resident else mapped


def _indptr(degrees: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Graph:
    """Edges both ways.

    Attributes:
        items: item row -> board numbers.
        boards: board number -> item rows.
    """

    items: Adjacency
    boards: Adjacency

    @property
    def num_items(self) -> int:
        """Item rows, those without an edge among them."""
        return self.items.num_nodes

    @property
    def num_boards(self) -> int:
        """Board numbers."""
        return self.boards.num_nodes

    @property
    def num_edges(self) -> int:
        """Edges, an edge that is there twice counted twice."""
        return len(self.items.indices)

    @classmethod
    def open(cls, folder: Path, resident: bool = False) -> Graph:
        """Opens a folder: memory-mapped, or copied into this process's memory.

        Resident arrays may lie on huge pages, which walks gain from; mapped ones are shared.
        """
        items, boards = (Adjacency.open(folder, name, resident) for name in ("items", "boards"))
        return cls(items, boards)

    @classmethod
    def of(cls, edges: pa.Table, num_items: int, num_boards: int) -> Graph:
        """A graph of EDGE rows, in memory.

        Raises:
            ValueError: an edge names a node that is not there.
        """
        board, item = (edges[name].to_numpy().astype(np.int64) for name in ("board", "item"))
        _check(item, num_items, "item")
        _check(board, num_boards, "board")
        values = [edges[name].to_numpy() for name in ("weight", "timestamp")]
        return cls(
            Adjacency.of(item, board, num_items, *values),
            Adjacency.of(board, item, num_boards, *values),
        )


def build_graph(edges: Blocks, num_items: int, num_boards: int, folder: Path) -> None:
    """Writes the adjacency of both sides; see the head of this file.

    Args:
        edges: gives the EDGE blocks, anew at each call and the same each time.
        num_items: item rows.
        num_boards: board numbers.
        folder: where to; published by the caller.

    Raises:
        ValueError: an edge names a node that is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = _Counts.of(edges, num_items, num_boards)
    sides = (("items", "item", count.items), ("boards", "board", count.boards))
    for name, key, degrees in sides:
        _write_side(edges, folder / name, key, degrees, count)


@dataclass(slots=True)
class _Counts:
    """What the first pass finds."""

    items: Ints
    boards: Ints
    weighted: bool = False
    timed: bool = False

    @classmethod
    def of(cls, edges: Blocks, num_items: int, num_boards: int) -> _Counts:
        found = cls(np.zeros(num_items, np.int64), np.zeros(num_boards, np.int64))
        for block in edges():
            for key, degrees in (("item", found.items), ("board", found.boards)):
                nodes = block[key].to_numpy()
                _check(nodes, len(degrees), key)
                np.add.at(degrees, nodes, 1)
            found.weighted |= bool((block["weight"].to_numpy() != 1).any())
            found.timed |= bool(block["timestamp"].to_numpy().any())
        return found


def _check(nodes: npt.NDArray[np.integer[Any]], size: int, side: str) -> None:
    if len(nodes) and (nodes.min() < 0 or nodes.max() >= size):
        raise ValueError(f"edges name {side} {nodes.min()} to {nodes.max()} of {size}")


def _write_side(edges: Blocks, path: Path, key: str, degrees: Ints, count: _Counts) -> None:
    """A further pass: puts every edge at its node's next free place."""
    indptr = _indptr(degrees)
    np.save(path.with_name(f"{path.name}.indptr.npy"), indptr)
    columns: dict[str, tuple[str, type]]
    columns = {"indices": ("board" if key == "item" else "item", np.int32)}
    columns |= {"weight": ("weight", np.float32)} if count.weighted else {}
    columns |= {"timestamp": ("timestamp", np.int64)} if count.timed else {}
    size = int(indptr[-1])
    arrays = {name: _create(path, name, kind, size) for name, (_, kind) in columns.items()}
    free = indptr[:-1].copy()
    for block in edges():
        order, at = _places(block[key].to_numpy(), free)
        for name, (column, _) in columns.items():
            arrays[name][at] = block[column].to_numpy()[order]
    if count.weighted:
        alias = _create(path, "alias", np.uint64, size)
        fill_aliases(indptr, arrays["indices"], arrays["weight"], alias)


def _create(path: Path, name: str, kind: type, size: int) -> Any:
    file = path.with_name(f"{path.name}.{name}.npy")
    return create_array(file, kind, (size,))


def _places(nodes: npt.NDArray[np.int32], free: Ints) -> tuple[Ints, Ints]:
    """An order of a block's edges by node, and where each goes; `free` moves on."""
    order = np.argsort(nodes, kind="stable")
    distinct, first, counts = np.unique(nodes[order], return_index=True, return_counts=True)
    within = np.arange(len(nodes)) - np.repeat(first, counts)
    at = np.repeat(free[distinct], counts) + within
    free[distinct] += counts
    return order, at
