from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.settings import UserError
from data.graph import neighborhoods
from data.graph.neighborhoods import (
    Materialised,
    NoNeighbors,
    OnTheFly,
    SamplerSource,
    shard_name,
    walk_hash,
    write_shard,
)
from data.graph.store import Graph
from data.graph.walks import WalkSettings, sample
from tests.data.graph.test_walks import random_graph

WALK = WalkSettings(neighbors=5, walks=20)
SHARD = 16


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Path]:
    """A graph, and the records of all its nodes in small shards."""
    graph, folder = random_graph(0), tmp_path_factory.mktemp("records")
    for side, size in (("item", graph.num_items), ("board", graph.num_boards)):
        for first in range(0, size, SHARD):
            nodes = np.arange(first, min(first + SHARD, size))
            path = folder / shard_name(side, first // SHARD)  # type: ignore[arg-type]
            write_shard(path, first, sample(graph, nodes, side, WALK, 3))  # type: ignore[arg-type]
    return graph, folder


@given(st.lists(st.integers(0, 60), max_size=40), st.sampled_from(["item", "board"]))
def test_records_read_are_records_walked(
    shards: tuple[Graph, Path], nodes: list[int], side: neighborhoods.Side
) -> None:
    graph, folder = shards
    rows = np.array(nodes, np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighborhoods, "SHARD_NODES", SHARD)
        read = Materialised(folder, WALK.neighbors).of(rows, side)
    walked = OnTheFly(graph, WALK, 3).of(rows, side)
    assert np.array_equal(read.neighbors, walked.neighbors)
    assert np.array_equal(read.weights, walked.weights)


def test_no_half_a_shard_is_ever_seen(shards: tuple[Graph, Path]) -> None:
    assert {path.suffix for path in shards[1].iterdir()} == {".arrow"}


def test_records_of_another_walk_are_refused(shards: tuple[Graph, Path]) -> None:
    made_by = walk_hash(WALK, 3)
    source = SamplerSource(Path("unused"), WALK, 3, shards[1], made_by)
    assert isinstance(source.open(), Materialised)
    for other in (
        SamplerSource(Path("unused"), WALK, 4, shards[1], made_by),
        SamplerSource(Path("unused"), WalkSettings(neighbors=5), 3, shards[1], made_by),
    ):
        with pytest.raises(UserError, match="run the job sample again"):
            other.open()


def test_without_a_graph_nobody_has_neighbours() -> None:
    found = NoNeighbors().of(np.arange(4), "item")
    assert found.neighbors.shape == found.weights.shape == (4, 1)
    assert not found.weights.any()
