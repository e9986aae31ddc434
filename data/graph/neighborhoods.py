"""Neighbourhoods of nodes, sampled where they are needed or read from what was sampled before.

Both ways give the same record for the same node: a record depends on the graph, the walk and the
seed alone. On the fly, a change of the walk is tried at once; materialised, every node is walked
from once, and training and inference on any host stream the rows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.contract.artifact import folder
from data.contract.settings import UserError
from data.graph.store import Graph
from data.graph.walks import Neighborhoods, Side, WalkSettings, sample

if TYPE_CHECKING:
    from data.contract.encode import Ints

SHARD_NODES = 1 << 16


class Sampler(Protocol):
    """Gives the sampled neighbours of any nodes of one side."""

    def of(self, nodes: Ints, side: Side) -> Neighborhoods:
        """Records of nodes [N], in their order; of a node outside the graph, an empty one."""


@dataclass(frozen=True, slots=True)
class OnTheFly:
    """Walks from the nodes that are asked for.

    Attributes:
        graph: where.
        walk: how.
        seed: of the walks.
    """

    graph: Graph
    walk: WalkSettings
    seed: int

    def of(self, nodes: Ints, side: Side) -> Neighborhoods:
        """See `Sampler.of`; each distinct node is walked from once."""
        distinct, place = np.unique(nodes, return_inverse=True)
        return sample(self.graph, distinct, side, self.walk, self.seed).take(place)


@dataclass(frozen=True, slots=True)
class NoNeighbors:
    """Knows no edges: what a node is without any."""

    def of(self, nodes: Ints, side: Side) -> Neighborhoods:  # noqa: ARG002
        """See `Sampler.of`; one empty place each."""
        shape = (len(nodes), 1)
        return Neighborhoods(np.zeros(shape, np.int32), np.zeros(shape, np.float32))


@dataclass(frozen=True)
class Materialised:
    """Reads records from shards, memory-mapped: one copy a host.

    Attributes:
        folder: holds `<side>-<shard>.arrow` of SHARD_NODES start nodes each.
        width: neighbours a record, T.
    """

    folder: Path
    width: int

    def of(self, nodes: Ints, side: Side) -> Neighborhoods:
        """See `Sampler.of`."""
        neighbors = np.zeros((len(nodes), self.width), np.int32)
        weights = np.zeros((len(nodes), self.width), np.float32)
        shards = nodes // SHARD_NODES
        for number in np.unique(shards).tolist():
            at = np.flatnonzero(shards == number)
            self._fill(neighbors, weights, at, nodes[at] % SHARD_NODES, (side, number))
        return Neighborhoods(neighbors, weights)

    def _fill(
        self,
        neighbors: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float32],
        at: Ints,
        lines: Ints,
        shard: tuple[Side, int],
    ) -> None:
        found = self._shards.get(shard)
        if found is None:
            return
        there = lines < len(found.neighbors)
        neighbors[at[there]] = found.neighbors[lines[there]]
        weights[at[there]] = found.weights[lines[there]]

    @cached_property
    def _shards(self) -> dict[tuple[str, int], Neighborhoods]:
        files = sorted(self.folder.glob("*-*.arrow"))
        names = [file.stem.rsplit("-", 1) for file in files]
        return {
            (side, int(number)): read_shard(file)
            for file, (side, number) in zip(files, names, strict=True)
        }


def shard_name(side: Side, number: int) -> str:
    """File of the records of nodes from `number * SHARD_NODES` on."""
    return f"{side}-{number:05d}.arrow"


def write_shard(path: Path, first: int, records: Neighborhoods) -> None:
    """Writes the records of consecutive start nodes."""
    width = records.neighbors.shape[1]
    table = pa.table(
        {
            "node": np.arange(first, first + len(records.neighbors)),
            "neighbors": _fixed(records.neighbors, width),
            "weights": _fixed(records.weights, width),
        }
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def read_shard(path: Path) -> Neighborhoods:
    """Memory-maps what `write_shard` wrote."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    return Neighborhoods(
        fixed_lists(table["neighbors"]),
        fixed_lists(table["weights"]),
    )


def _fixed(values: npt.NDArray[Any], width: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)


def fixed_lists(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A fixed-size list column as an array [N, width], without a copy where it is one chunk."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    width = column.type.list_size
    flat: npt.NDArray[Any] = np.asarray(array.values).reshape(-1, width)
    return flat[array.offset : array.offset + len(array)]


def walk_hash(walk: WalkSettings, seed: int) -> str:
    """Names a way of walking, 12 hexadecimal digits: rows of another one are refused."""
    text = json.dumps([asdict(walk), seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class SamplerSource:
    """Where a sampler is opened from; travels between processes.

    Attributes:
        adjacency: folder of the graph.
        walk: how to walk.
        seed: of the walks.
        rows: folder of materialised records; None walks on the fly.
        rows_hash: `walk_hash` that the records were made with.
    """

    adjacency: Path
    walk: WalkSettings
    seed: int
    rows: Path | None = None
    rows_hash: str | None = None

    def here(self) -> SamplerSource:
        """The same on this machine, fetched where it is not there yet."""
        return replace(self, adjacency=folder(self.adjacency), rows=self.rows and folder(self.rows))

    def open(self) -> Sampler:
        """The sampler. Raises UserError when records were made by another walk."""
        if self.rows is None:
            return OnTheFly(open_graph(self.adjacency), self.walk, self.seed)
        if self.rows_hash != walk_hash(self.walk, self.seed):
            raise UserError(
                f"{self.rows} was sampled by walk {self.rows_hash}, the settings are walk "
                f"{walk_hash(self.walk, self.seed)}; run the job sample again"
            )
        return Materialised(self.rows, self.walk.neighbors)


@lru_cache(maxsize=2)
def open_graph(folder: Path) -> Graph:
    """The graph of a folder, memory-mapped once a process."""
    return Graph.open(folder)
