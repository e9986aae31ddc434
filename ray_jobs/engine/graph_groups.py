"""What is a board, what is trained, how, from where walks start: as set, or as the log allows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from data.contract.settings import UserError
from data.graph.edges import are_dated, has_boards
from models.graph_encoder import resolved

if TYPE_CHECKING:
    from data.dataset import Dataset
    from data.graph.walks import Side
    from ray_jobs.graph_settings import GraphSettings
    from ray_jobs.settings import Settings

Users = Literal["nodes", "past", "untrained"]
MOST_EVENTS = 20_000_000


def groups_of(settings: Settings, dataset: Dataset) -> str:
    """Boards, users or none. Raises UserError when there is no board table though it is asked for.

    A board table says nothing of parts: where the split is not by day, or the edges are not dated,
    they could be made of held-out events, so users stand for boards.
    """
    kind = settings.graph.edges
    if kind == "boards" and not has_boards(dataset):
        raise UserError("graph.edges=boards needs a board table: name one with source.boards")
    if kind == "auto":
        timed = settings.split.kind == "time"
        return "boards" if timed and are_dated(dataset) else "users"
    return kind


def objectives_of(settings: GraphSettings, dataset: Dataset) -> tuple[str, ...]:
    """What is trained."""
    if settings.objectives is not None:
        return tuple(settings.objectives)
    return ("user_item",) if dataset.order == "none" else ("next_engagement", "co_board")


def users_of(settings: Settings, dataset: Dataset) -> Users:
    """As what users are trained: as nodes of the graph, by their past, or not at all."""
    if "user_item" not in objectives_of(settings.graph, dataset):
        return "untrained"
    return "nodes" if groups_of(settings, dataset) == "users" else "past"


def resolved_graph(settings: Settings, dataset: Dataset) -> GraphSettings:
    """The graph's settings with everything filled in that is left to the log.

    Raises:
        UserError: light_gcn is asked for where users are no nodes, or more than them is trained.
    """
    found, whole = settings.graph, reads_whole_graph(settings, dataset)
    if found.encoder == "light_gcn" and not whole:
        raise UserError(
            "graph.encoder=light_gcn embeds users and items by their interactions alone: set "
            "graph.edges=users, graph.objectives=[user_item] and graph.negatives.hard=0"
        )
    return resolved(replace(found, encoder="light_gcn") if whole else found, dataset.vocabulary)


def reads_whole_graph(settings: Settings, dataset: Dataset) -> bool:
    """Whether the encoder reads all edges at every step, and no sampled neighbourhoods."""
    if objectives_of(settings.graph, dataset) != ("user_item",):
        return False
    if users_of(settings, dataset) != "nodes":
        return False
    graph = settings.graph
    if graph.negatives.hard:
        return False
    few = dataset.counts["events"] <= MOST_EVENTS
    usual = few and not dataset.vocabulary.item_features and graph.id_rows is not False
    return usual if graph.encoder is None else graph.encoder == "light_gcn"


def batch_items(settings: Settings, dataset: Dataset) -> int | None:
    """Items that a batch names, each as often as it does: a step reads no more of them.

    None where it reads, or updates, rows of all.
    """
    graph = resolved_graph(settings, dataset)
    if graph.id_rows:
        return None
    assert graph.batch_size is not None
    nodes = 2 + graph.num_random + graph.negatives.hard
    return graph.batch_size * nodes * (1 + graph.walk.neighbors)


def walked_sides(settings: Settings, dataset: Dataset) -> tuple[Side, ...]:
    """Nodes whose neighbourhoods are needed."""
    return ("item", "board") if users_of(settings, dataset) == "nodes" else ("item",)
