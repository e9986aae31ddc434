"""The graph that an export takes along."""

from pathlib import Path

import numpy as np
import pytest

from data.contract.artifact import Artifact, Manifest, point
from data.contract.settings import UserError
from data.dataset import Dataset
from data.graph.store import Graph
from ray_jobs.engine.job import start
from ray_jobs.export import export, write_edges
from ray_jobs.sample import Cutoff, adjacency, check_edges, log_of
from serve.bundle import GRAPH_FOLDER
from tests.tiny_root import TinyLog, publish_dataset, timelines


def walked(root: Path, *words: str) -> Artifact:
    """The graph of the whole tiny log, which has no board table."""
    dataset = Dataset(publish_dataset(root, TinyLog()), root)
    job = start([f"root={root}", *words])
    return adjacency(job, dataset, Cutoff.whole(dataset, log_of(job, dataset).windows))


def test_without_boards_walks_go_over_what_each_user_liked(tmp_path: Path) -> None:
    made = walked(tmp_path)
    write_edges(tmp_path / "export", made)
    graph = Graph.open(tmp_path / "export" / GRAPH_FOLDER)
    users = np.repeat(np.arange(graph.num_boards), graph.boards.degrees)
    found = set(zip(users.tolist(), graph.boards.indices.tolist(), strict=True))
    liked = {
        (row["user"], item)
        for row in timelines(TinyLog()).to_pylist()
        for item, action in zip(row["item"], row["action"], strict=True)
        if action in (1, 2)
    }
    assert found == liked
    assert len(found) == graph.num_edges == len(graph.items.indices)


def test_bytes_are_eight_an_edge_and_eight_a_node(tmp_path: Path) -> None:
    made = walked(tmp_path)
    write_edges(tmp_path / "export", made)
    files = list((tmp_path / "export" / GRAPH_FOLDER).iterdir())
    graph = Graph.open(tmp_path / "export" / GRAPH_FOLDER)
    nodes = graph.num_items + 1 + graph.num_boards + 1
    heads = 128 * len(files)
    assert sum(f.stat().st_size for f in files) - heads == 8 * graph.num_edges + 8 * nodes
    assert all(f.samefile(made.path / f.name) for f in files)


def test_a_log_whose_graph_has_no_edge_is_exported_without_one(tmp_path: Path) -> None:
    write_edges(tmp_path / "export", walked(tmp_path, "graph.edges=none"))
    assert not (tmp_path / "export").exists()


def test_without_a_retriever_there_is_nothing_to_export(tmp_path: Path) -> None:
    point(tmp_path, publish_dataset(tmp_path, TinyLog()))
    with pytest.raises(UserError, match="has no two_tower yet"):
        export(start([f"root={tmp_path}"]))


def test_a_graph_without_edges_is_refused_where_it_is_trained_on(tmp_path: Path) -> None:
    def empty(kind: str) -> Artifact:
        settings = {"edges": kind, "cutoff": {"parts": [0], "day": 118}}
        fields = {"settings": settings, "details": {"edges": 0}}
        return Artifact(tmp_path, Manifest(kind="adjacency", version="a1", created="", **fields))

    check_edges(empty("none"))
    with pytest.raises(UserError, match="the graph of boards has no edge up to day 118"):
        check_edges(empty("boards"))
